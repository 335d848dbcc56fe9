//! `osm-agent attach`

use std::{net::IpAddr, path::PathBuf};

use clap::Args;
use tracing_subscriber::filter::Targets;

use super::{
    State,
    bpf_log::BpfLog,
    check_privileges, foreground,
    mode::{self, IptablesArgs, Mode},
    out::{say, warn},
    policy::PolicyArgs,
};
use crate::{
    daemon::serve::log,
    ebpf::Ebpf,
    error::{Error, Result},
    interceptor::{Enrolled, Interceptor},
    pod::{Cgroup, Netns, Pod, SidecarCgroup, cgroup_root},
    policy::Policy,
    transition,
};

/// Returns once interception is in force, and leaves it in force. For a pod that is
/// intercepted already, the lists change at once for new connections.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  osm-agent attach --pod default/web-0 --netns /proc/4711/ns/net \\
      --cgroup kubepods.slice/kubepods-pod1234.slice --config mesh.yaml
  osm-agent attach --pod default/web-0 --netns /run/netns/web --cgroup /sys/fs/cgroup/web \\
      --annotation openservicemesh.io/outbound-port-exclusion-list=5432,6379")]
pub struct Attach {
    /// The pod's network namespace, such as /proc/PID/ns/net or /run/netns/NAME
    #[arg(long, value_name = "PATH")]
    netns: PathBuf,
    /// The pod's cgroup (v2); a relative path is taken from the root of the hierarchy
    #[arg(long, value_name = "PATH")]
    cgroup: PathBuf,
    /// The cgroup of the sidecar's container, below the pod's, for spec.sidecar.identity: uid-and-cgroup;
    /// a relative path is taken from the root of the hierarchy
    #[arg(long, value_name = "PATH")]
    sidecar_cgroup: Option<PathBuf>,
    /// What to call the pod [default: made of its network namespace's number]
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// By which means [default: spec.traffic.interceptionMode, or auto]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Own address of the pod [default: those its namespace has]
    #[arg(long = "pod-address", value_name = "ADDR")]
    pod_addresses: Vec<IpAddr>,
    /// Hold interception only while this process lives, with its state in a place of its own
    /// (--state-dir is not used); eBPF only
    #[arg(long)]
    foreground: bool,
    /// Root of the cgroup v2 hierarchy [default: from /proc/mounts]
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    iptables: IptablesArgs,
    #[command(flatten)]
    bpf_log: BpfLog,
}

impl Attach {
    pub(super) fn run(mut self) -> Result<()> {
        let mesh = self.policy.mesh()?;
        let mode = self.mode.unwrap_or(mesh.interception_mode.into());
        let policy = self.policy.policy(&mesh)?;
        check_privileges()?;
        let let_through = self.bpf_log.start(Targets::new());
        let pod = self.open_pod()?;
        // One command at a time for one pod: of two that go opposite ways, each would remove
        // what the other has put in force.
        pod.netns.lock()?;
        if self.foreground {
            log::start(log::Format::Text, let_through);
            return match mode {
                Mode::Auto | Mode::Ebpf => foreground::hold(&pod, &policy),
                Mode::Iptables | Mode::None => Err(Error::input(
                    "--foreground",
                    format!("the mode is {mode}"),
                    "only eBPF interception can end with the process: use --mode ebpf",
                )),
            };
        }
        match mode {
            Mode::Auto => self.by_whatever_works(&pod, &policy),
            Mode::Ebpf => self.by_ebpf(&pod, &policy),
            Mode::Iptables => self.by_iptables(&pod, &policy),
            Mode::None => self.not_at_all(&pod),
        }
    }

    fn open_pod(&mut self) -> Result<Pod> {
        let root = self.cgroup_root.take().map_or_else(cgroup_root, Ok)?;
        let netns = Netns::open(&self.netns)?;
        netns.check_addresses(&self.pod_addresses)?;
        let pod = Pod::new(
            self.pod.take(),
            netns,
            Cgroup::open(&self.cgroup, &root)?,
            std::mem::take(&mut self.pod_addresses),
        )?;
        let sidecar_cgroup = match &self.sidecar_cgroup {
            None => SidecarCgroup::Unsaid,
            Some(path) => SidecarCgroup::Known(pod.cgroup.open_below(path, &root)?),
        };
        Ok(Pod {
            sidecar_cgroup,
            ..pod
        })
    }

    /// A pod that is intercepted by eBPF stays so: an error is no reason to change the means.
    fn by_whatever_works(&self, pod: &Pod, policy: &Policy) -> Result<()> {
        match self.by_ebpf(pod, policy) {
            Err(error) if error.is_unsupported() && !self.is_by_ebpf(pod) => {
                warn(format_args!("{error}; using iptables instead"));
                self.by_iptables(pod, policy)
            }
            result => result,
        }
    }

    fn by_ebpf(&self, pod: &Pod, policy: &Policy) -> Result<()> {
        let mut ebpf = Ebpf::open(&self.state.state_dir)?;
        let enrolled = ebpf
            .check_name(pod)
            .and_then(|()| ebpf.enrol(pod, Some(policy)));
        // Also after a failure: what nobody uses is not left behind.
        let tidied = ebpf.tidy();
        match enrolled {
            Ok(enrolled) => {
                report(pod, "eBPF", enrolled);
                if let Some(why) = ebpf.shortcut_not_taken(policy) {
                    warn(format_args!("{why}"));
                }
                // The pod is intercepted as it was to be, and that has been said.
                if let Err(error) = tidied {
                    warn(format_args!(
                        "what no pod uses any more stays until the next command: {error}"
                    ));
                }
            }
            Err(error) => {
                // The error that is reported is the first one.
                let _ = ebpf.remove_if_unused();
                return Err(error);
            }
        }
        // Only now: there is no moment without interception.
        if let Err(error) = mode::remove_rules(&self.iptables.tools(), &pod.netns) {
            warn(format_args!(
                "{error}; iptables rules of ours that may be left there are in the way of eBPF"
            ));
        }
        Ok(())
    }

    fn by_iptables(&self, pod: &Pod, policy: &Policy) -> Result<()> {
        if self.is_by_ebpf(pod)
            && let Err(error) = transition::ignore_older_connections(&pod.netns)
        {
            warn(format_args!(
                "{error}; inbound connections that reuse a client's port may reach the \
                 application around the sidecar until it restarts"
            ));
        }
        let enrolled = self.iptables.tools().enrol(pod, Some(policy))?;
        report(pod, "iptables", enrolled);
        if policy.takes_shortcut() {
            warn(format_args!(
                "spec.sidecar.shortcut: iptables has no loopback shortcut, bytes go by TCP"
            ));
        }
        // Only now: there is no moment without interception.
        mode::withdraw_from_ebpf(&self.state.state_dir, &pod.netns).map(drop)
    }

    fn not_at_all(&self, pod: &Pod) -> Result<()> {
        let was_ebpf = mode::withdraw_from_ebpf(&self.state.state_dir, &pod.netns)?;
        let was_iptables = mode::remove_rules(&self.iptables.tools(), &pod.netns)?;
        let change = if was_ebpf.is_some() || was_iptables {
            "no longer intercepted"
        } else {
            "not intercepted"
        };
        say(format_args!("{}: {change}: the mode is none", pod.name));
        Ok(())
    }

    fn is_by_ebpf(&self, pod: &Pod) -> bool {
        Ebpf::open_existing(&self.state.state_dir)
            .and_then(|ebpf| ebpf.map_or(Ok(false), |ebpf| ebpf.inspect(&pod.netns)))
            // What can't be read may well be in force.
            .unwrap_or(self.state.state_dir.exists())
    }
}

/// Says on standard output what is in force now.
pub(super) fn report(pod: &Pod, means: &str, enrolled: Enrolled) {
    let name = &pod.name;
    match enrolled {
        Enrolled::New { listeners: None } => say(format_args!("{name}: intercepted by {means}")),
        Enrolled::New { listeners: Some(0) } => say(format_args!(
            "{name}: intercepted by {means}; the sidecar does not listen yet, connections are \
             refused until it does"
        )),
        Enrolled::New {
            listeners: Some(listeners),
        } => say(format_args!(
            "{name}: intercepted by {means}; {listeners} of the sidecar's listeners found"
        )),
        Enrolled::Changed => say(format_args!(
            "{name}: addresses or lists changed, for new connections"
        )),
        Enrolled::Repaired(what) => {
            say(format_args!(
                "{name}: repaired what somebody had changed; it goes by the lists that were given now"
            ));
            for fault in what {
                say(format_args!("  {fault}"));
            }
        }
        Enrolled::Upgraded => say(format_args!(
            "{name}: moved to the programs of this version"
        )),
        Enrolled::Unchanged => {
            say(format_args!(
                "{name}: intercepted by {means}, with these lists already"
            ));
        }
    }
}
