//! `osm-agent detach`

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    State, check_privileges,
    mode::{self, IptablesArgs},
    out::say,
};
use crate::{
    ebpf::{Ebpf, Intercepted},
    error::{Error, Result},
    interceptor::Interceptor as _,
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
        let Some(mut ebpf) = Ebpf::open_existing(&self.state.state_dir)? else {
            return Err(self.unknown(name, &[]));
        };
        let Some(cookie) = ebpf.cookie_of(name)? else {
            return Err(self.unknown(name, &ebpf.pods()?));
        };
        ebpf.withdraw_by_cookie(cookie)?;
        ebpf.tidy()?;
        ebpf.remove_if_unused()?;
        say(format_args!("{name}: no longer intercepted"));
        Ok(())
    }

    fn unknown(&self, name: &str, attached: &[Intercepted]) -> Error {
        const SHOWN: usize = 10;
        let mut names: Vec<&str> = attached.iter().map(|pod| pod.name.as_str()).collect();
        names.sort_unstable();
        let shown = names[..names.len().min(SHOWN)].join(", ");
        let those = match names.len() {
            0 => String::new(),
            1..=SHOWN => format!(" ({shown} are)"),
            count => format!(" ({shown} and {} more are)", count - SHOWN),
        };
        Error::input(
            format!("--pod {name}"),
            format!(
                "no such pod is attached in {}{those}",
                self.state.state_dir.display()
            ),
            "check the name and --state-dir, or give --netns; iptables knows no names",
        )
    }

    fn by_netns(&self, path: &Path) -> Result<()> {
        let netns = Netns::open(path)?;
        netns.lock()?;
        let was_ebpf = mode::withdraw_from_ebpf(&self.state.state_dir, &netns)?;
        let was_iptables = mode::remove_rules(&self.iptables.tools(), &netns)?;
        if was_ebpf.is_none() && !was_iptables {
            return Err(Error::input(
                format!("--netns {}", path.display()),
                format!(
                    "no such pod is attached in {}, and it holds no rules of ours",
                    self.state.state_dir.display()
                ),
                "check the path and --state-dir",
            ));
        }
        let name = was_ebpf.unwrap_or_else(|| path.display().to_string());
        say(format_args!("{name}: no longer intercepted"));
        Ok(())
    }
}
