//! `osm-agent detach`

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    State, check_privileges,
    mode::{self, IptablesArgs},
};
use crate::{
    ebpf::Ebpf,
    error::{Error, Result},
    pod::Netns,
};

/// Removes the pod's links, pins and map entries, or its iptables rules; with the last pod, maps
/// and programs too.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  osm-agent detach --pod default/web-0")]
pub struct Detach {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    iptables: IptablesArgs,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Which {
    /// What the pod was called; eBPF only
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// The pod's network namespace: eBPF and iptables
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
}

impl Detach {
    pub(super) fn run(self) -> Result<()> {
        check_privileges()?;
        match (&self.which.pod, &self.which.netns) {
            (Some(name), _) => self.by_name(name),
            (None, Some(path)) => self.by_netns(path),
            (None, None) => unreachable!("clap asks for one of them"),
        }
    }

    fn by_name(&self, name: &str) -> Result<()> {
        let unknown = || {
            Error::input(
                format!("--pod {name}"),
                format!(
                    "no such pod is attached in {}",
                    self.state.state_dir.display()
                ),
                "check the name and --state-dir, or give --netns; iptables knows no names",
            )
        };
        let mut ebpf = Ebpf::open_existing(&self.state.state_dir)?.ok_or_else(unknown)?;
        let cookie = ebpf.cookie_of(name)?.ok_or_else(unknown)?;
        ebpf.withdraw_by_cookie(cookie)?;
        ebpf.remove_if_unused()?;
        println!("{name}: no longer intercepted");
        Ok(())
    }

    fn by_netns(&self, path: &Path) -> Result<()> {
        let netns = Netns::open(path)?;
        let was_ebpf = mode::withdraw_from_ebpf(&self.state.state_dir, &netns)?;
        let was_iptables = mode::remove_rules(&self.iptables.tools(), &netns)?;
        if !was_ebpf && !was_iptables {
            return Err(Error::input(
                format!("--netns {}", path.display()),
                format!(
                    "no such pod is attached in {}, and it holds no rules of ours",
                    self.state.state_dir.display()
                ),
                "check the path and --state-dir",
            ));
        }
        println!("{}: no longer intercepted", path.display());
        Ok(())
    }
}
