//! `osm-agent check`

mod pod;
mod text;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{
    State,
    out::print,
    policy::PolicyArgs,
    style::{Format, document},
};
use crate::{
    check::{self, Attached, Fact, Feature, Mode, Report},
    error::{Error, Result},
    selfcheck::to_the_end,
};

/// The version of the JSON.
const SCHEMA: u32 = 1;

/// Tries everything in places of its own, or proves that one pod is intercepted.
#[derive(Args, Debug)]
#[command(
    after_help = "JSON and YAML: version (1), mode (ebpf, iptables, none, unknown), backend, reason, features
[{name, for, status, detail}], system [{name, value, note}], attached [{pod, hook, id, name, type,
at, owner (ours, cilium, other), order (before-ours, after-ours)}], attached_problem. Of a pod:
version, pod, means, verdict (proven, not-in-force, unknown), findings [{path, outcome (proven,
not-proven, wrong), detail}].

Exit status: 0 if some mode works, else 1. Of a pod: 0 proven, 126 not in force, 1 it can't be told.

Examples:
  osm-agent check
  osm-agent check -o json | jq -r .mode
  osm-agent check --pod default/web-0
  osm-agent check --netns /proc/4711/ns/net --from /proc/1/ns/net"
)]
pub struct Check {
    /// Prove whether this pod is intercepted, by its name in what is pinned
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// The same for the pod with this network namespace, such as /proc/PID/ns/net
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// The pod's cgroup (v2) [default: the one that it was attached with]
    #[arg(long, value_name = "PATH", requires = "netns")]
    cgroup: Option<PathBuf>,
    /// A network namespace that reaches the pod, such as /proc/1/ns/net: inbound connections are
    /// tried from there
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// The cgroup to try it from: this is a process of another check's
    #[arg(long, value_name = "DIR", hide = true)]
    inside: Option<PathBuf>,
    /// Directory of the cgroup v2 hierarchy to make a cgroup in [default: its root, from
    /// /proc/mounts]
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// How to print what was found
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
    #[command(
        flatten,
        next_help_heading = "Lists that a pod behind iptables is to go by"
    )]
    policy: PolicyArgs,
    #[command(flatten, next_help_heading = "Options")]
    state: State,
}

impl Check {
    pub(super) fn run(self) -> Result<()> {
        if self.pod.is_some() || self.netns.is_some() {
            return pod::run(&self);
        }
        let probe = || check::probe(self.cgroup_root.as_deref(), &self.state.state_dir);
        let report = to_the_end(probe);
        let shown = match self.output {
            Format::Table => text::table(&report),
            format => document(&Json::of(&report), format)?,
        };
        print(shown.trim_end())?;
        if report.mode.works() {
            return Ok(());
        }
        let advice = match report.mode {
            Mode::Unknown => "; run as root with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN",
            _ => {
                "; see the table for what is missing: Linux 5.10 with CONFIG_BPF_SYSCALL and \
                 CONFIG_CGROUP_BPF, or iptables with a table nat"
            }
        };
        Err(Error::System {
            tried: "say that a pod can be intercepted here".into(),
            source: report.reason.into(),
            advice: advice.into(),
        })
    }
}

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    mode: &'a str,
    backend: Option<&'a str>,
    reason: &'a str,
    features: &'a [Feature],
    system: &'a [Fact],
    attached: &'a [Attached],
    attached_problem: Option<&'a str>,
}

impl<'a> Json<'a> {
    fn of(report: &'a Report) -> Self {
        let attached = report.attached.as_deref();
        Self {
            version: SCHEMA,
            mode: report.mode.name(),
            backend: match report.mode {
                Mode::Iptables(backend) => Some(backend.name()),
                Mode::Ebpf | Mode::None | Mode::Unknown => None,
            },
            reason: &report.reason,
            features: &report.features,
            system: &report.system,
            attached: attached.unwrap_or_default(),
            attached_problem: attached.err().map(String::as_str),
        }
    }
}
