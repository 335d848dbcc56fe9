//! `osm-agent detach`

use std::path::PathBuf;

use clap::Args;

use super::{State, check_privileges};
use crate::{
    ebpf::Ebpf,
    error::{Error, Result},
    interceptor::Interceptor as _,
    pod::Netns,
};

/// Removes the pod's links, pins and map entries; with the last pod, maps and programs too.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  osm-agent detach --pod default/web-0")]
pub struct Detach {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    state: State,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Which {
    /// What the pod was called
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// The pod's network namespace
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
}

impl Detach {
    pub(super) fn run(self) -> Result<()> {
        check_privileges()?;
        let netns = self.which.netns.as_deref().map(Netns::open).transpose()?;
        let what = match (&self.which.pod, &netns) {
            (Some(name), _) => format!("--pod {name}"),
            (None, Some(netns)) => format!("--netns {}", netns.path().display()),
            (None, None) => String::new(),
        };
        let not_attached = || {
            Error::input(
                &what,
                format!(
                    "no such pod is attached in {}",
                    self.state.state_dir.display()
                ),
                "check the name and --state-dir",
            )
        };
        let mut ebpf = Ebpf::open_existing(&self.state.state_dir)?.ok_or_else(not_attached)?;
        let found = ebpf.inspect()?.into_iter().find(|pod| {
            Some(&pod.name) == self.which.pod.as_ref()
                || Some(pod.netns_cookie) == netns.as_ref().map(Netns::cookie)
        });
        let pod = found.ok_or_else(not_attached)?;
        ebpf.withdraw(pod.netns_cookie)?;
        ebpf.remove_if_unused()?;
        println!("{}: no longer intercepted", pod.name);
        Ok(())
    }
}
