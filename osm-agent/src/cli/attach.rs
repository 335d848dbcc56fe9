//! `osm-agent attach`

use std::{net::IpAddr, path::PathBuf};

use clap::Args;

use super::{State, check_privileges, foreground, policy::PolicyArgs};
use crate::{
    config::{InterceptionMode, MeshConfig},
    ebpf::Ebpf,
    error::{Error, Result},
    interceptor::{Enrolled, Interceptor as _},
    pod::{Cgroup, Netns, Pod, cgroup_root},
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
    /// What to call the pod [default: made of its network namespace's number]
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Own address of the pod [default: those its namespace has]
    #[arg(long = "pod-address", value_name = "ADDR")]
    pod_addresses: Vec<IpAddr>,
    /// Hold interception only while this process lives
    #[arg(long)]
    foreground: bool,
    /// Root of the cgroup v2 hierarchy [default: from /proc/mounts]
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

impl Attach {
    pub(super) fn run(self) -> Result<()> {
        let mesh = self.policy.mesh()?;
        refuse_unsupported(&mesh)?;
        let policy = self.policy.policy(&mesh)?;
        check_privileges()?;
        let root = self.cgroup_root.map_or_else(cgroup_root, Ok)?;
        let pod = Pod::new(
            self.pod,
            Netns::open(&self.netns)?,
            Cgroup::open(&self.cgroup, &root)?,
            self.pod_addresses,
        )?;
        if self.foreground {
            return foreground::hold(&pod, &policy);
        }
        let mut ebpf = Ebpf::open(&self.state.state_dir)?;
        match ebpf.enrol(&pod, &policy) {
            Ok(enrolled) => {
                report(&pod, enrolled);
                Ok(())
            }
            Err(error) => {
                // The error that is reported is the first one.
                let _ = ebpf.remove_if_unused();
                Err(error)
            }
        }
    }
}

/// Says on standard output what is in force now.
pub(super) fn report(pod: &Pod, enrolled: Enrolled) {
    let name = &pod.name;
    match enrolled {
        Enrolled::New { listeners: 0 } => println!(
            "{name}: intercepted; the sidecar does not listen yet, connections are refused until it does"
        ),
        Enrolled::New { listeners } => {
            println!("{name}: intercepted; {listeners} of the sidecar's listeners found");
        }
        Enrolled::Changed => println!("{name}: lists changed, for new connections"),
        Enrolled::Unchanged => println!("{name}: intercepted, with these lists already"),
    }
}

/// What is asked for but not there is an error, never left out in silence.
fn refuse_unsupported(mesh: &MeshConfig) -> Result<()> {
    match mesh.interception_mode {
        InterceptionMode::Auto | InterceptionMode::Ebpf => Ok(()),
        InterceptionMode::Iptables | InterceptionMode::None => Err(Error::input(
            "spec.traffic.interceptionMode",
            "asks for something other than eBPF, which is all there is yet",
            "take it out",
        )),
    }
}
