//! `osm-agent iptables`

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use osm_ebpf_common::maps::PolicyWord;

use super::{out::say, policy::PolicyArgs};
use crate::{
    error::Result,
    iptables::{Applied, Backend, Iptables, Report, RuleSet, Target},
    pod::Netns,
};

/// The fallback alone: the documented chains in table nat, by the system's iptables.
///
/// `spec.traffic.interceptionMode` is not asked: who calls this wants iptables.
#[derive(Args, Debug)]
#[command(
    after_help = "`apply` and `cleanup` need CAP_NET_ADMIN over the namespace, with iptables-legacy
CAP_NET_RAW too, and CAP_SYS_ADMIN for --netns.

Examples:
  osm-agent iptables render --config mesh.yaml
  osm-agent iptables apply --netns /proc/4711/ns/net --config mesh.yaml \\
      --annotation openservicemesh.io/outbound-port-exclusion-list=5432,6379
  osm-agent iptables cleanup --netns /proc/4711/ns/net"
)]
pub struct IptablesCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what `apply` feeds iptables-restore --noflush where there are no rules of ours yet
    Render(RulesArgs),
    /// Write the rules; again after a change of lists, or to repair them
    Apply(Apply),
    /// Remove all rules of ours, and leave those of others
    Cleanup(Cleanup),
}

#[derive(Args, Debug)]
struct RulesArgs {
    #[command(flatten)]
    policy: PolicyArgs,
    /// Own address of the pod, for localProxyMode PodIP [default: those its namespace has]
    #[arg(long = "pod-address", value_name = "ADDR")]
    pod_addresses: Vec<IpAddr>,
}

#[derive(Args, Debug)]
struct Apply {
    #[command(flatten)]
    rules: RulesArgs,
    #[command(flatten)]
    place: Place,
}

#[derive(Args, Debug)]
struct Cleanup {
    #[command(flatten)]
    place: Place,
}

#[derive(Args, Debug)]
struct Place {
    /// The pod's network namespace [default: that of this process, unless it is the host's]
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Which iptables [default: the one in use in the namespace, else nft where it works]
    #[arg(
        long = "iptables-backend",
        value_name = "BACKEND",
        env = "OSM_IPTABLES_BACKEND"
    )]
    backend: Option<BackendArg>,
    /// Seconds to wait for the xtables lock
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..=3600)
    )]
    lock_wait: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BackendArg {
    /// iptables-nft
    Nft,
    /// iptables-legacy
    Legacy,
}

impl IptablesCommand {
    pub(super) fn run(self) -> Result<()> {
        match self.command {
            Command::Render(args) => {
                print!("{}", args.rules(None)?.render());
                Ok(())
            }
            Command::Apply(Apply { rules, place }) => {
                let netns = place.netns()?;
                let target = target(netns.as_ref())?;
                let rules = rules.rules(Some(&target))?;
                report(&target, &place.iptables().apply(&target, &rules)?);
                Ok(())
            }
            Command::Cleanup(Cleanup { place }) => {
                let netns = place.netns()?;
                let target = target(netns.as_ref())?;
                let said = if place.iptables().cleanup(&target)? {
                    "rules removed"
                } else {
                    "there were no rules of osm-agent"
                };
                say(format_args!("{target}: {said}"));
                Ok(())
            }
        }
    }
}

impl RulesArgs {
    /// The rules that are asked for, by the addresses of `target` where none are given.
    fn rules(&self, target: Option<&Target<'_>>) -> Result<RuleSet> {
        let policy = self.policy.policy(&self.policy.mesh()?)?;
        let is_pod_ip = policy.word(0).has(PolicyWord::POD_IP);
        let addresses = match target {
            Some(target) if is_pod_ip && self.pod_addresses.is_empty() => target.addresses()?,
            _ => self.pod_addresses.clone(),
        };
        RuleSet::new(&policy, &addresses)
    }
}

impl Place {
    fn netns(&self) -> Result<Option<Netns>> {
        self.netns.as_deref().map(Netns::open).transpose()
    }

    fn iptables(&self) -> Iptables {
        Iptables::new()
            .with_backend(self.backend.map(|backend| match backend {
                BackendArg::Nft => Backend::Nft,
                BackendArg::Legacy => Backend::Legacy,
            }))
            .with_lock_wait(Duration::from_secs(self.lock_wait.into()))
    }
}

fn target(netns: Option<&Netns>) -> Result<Target<'_>> {
    netns.map_or_else(Target::own, |netns| Ok(Target::of(netns)))
}

/// Says on standard output what is in force now.
fn report(target: &Target<'_>, report: &Report) {
    let backend = report.backend;
    match &report.applied {
        Applied::New => say(format_args!("{target}: rules written, by {backend}")),
        Applied::Changed => say(format_args!("{target}: rules changed, by {backend}")),
        Applied::Repaired(faults) => {
            say(format_args!(
                "{target}: rules repaired, by {backend}: {}",
                faults.join("; ")
            ));
        }
        Applied::Unchanged => say(format_args!("{target}: unchanged, by {backend}")),
    }
    if let Some(other) = report.removed_from {
        say(format_args!(
            "{target}: rules of osm-agent removed from {other}"
        ));
    }
}
