//! `osm-agent cleanup`

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use clap::Args;

use super::{
    State, check_privileges,
    mode::{self, IptablesArgs},
    out::{say, warn},
};
use crate::{
    ebpf,
    error::{Result, Tried as _},
    pod::Netns,
};

/// Where network namespaces have names, by `ip netns` and by container runtimes.
const NAMED: &str = "/run/netns";

/// Detaches every pod of this node from eBPF and removes all maps, programs and links, also those
/// of other versions and what is half-made. Established connections live on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  osm-agent cleanup
  osm-agent cleanup --iptables   # where pods were intercepted by the fallback, too")]
pub struct Cleanup {
    /// Remove our iptables rules as well, from every network namespace of this node but its own
    #[arg(long)]
    iptables: bool,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    tools: IptablesArgs,
}

impl Cleanup {
    pub(super) fn run(&self) -> Result<()> {
        check_privileges()?;
        let cleaned = ebpf::cleanup(&self.state.state_dir)?;
        for path in &cleaned.foreign {
            warn(format_args!(
                "{} is not of this agent's making and stays",
                path.display()
            ));
        }
        say(format_args!(
            "{}: {} pods no longer intercepted",
            self.state.state_dir.display(),
            cleaned.pods
        ));
        if self.iptables {
            self.remove_rules()?;
        }
        Ok(())
    }

    fn remove_rules(&self) -> Result<()> {
        let tools = self.tools.tools();
        let (mut removed, mut failed) = (0_usize, None);
        for path in namespaces()? {
            // The node's own, and those that have gone meanwhile.
            let Ok(netns) = Netns::open(&path) else {
                continue;
            };
            match mode::remove_rules(&tools, &netns) {
                Ok(true) => removed += 1,
                Ok(false) => {}
                Err(error) => {
                    warn(format_args!("{error}"));
                    failed = Some(error);
                }
            }
        }
        say(format_args!(
            "iptables: rules removed from {removed} network namespaces"
        ));
        failed.map_or(Ok(()), Err)
    }
}

/// A path of each network namespace that a process is in or that has a name.
fn namespaces() -> Result<Vec<PathBuf>> {
    let processes = fs::read_dir("/proc").tried(|| "list the processes in /proc")?;
    let of_processes = processes.flatten().map(|entry| entry.path().join("ns/net"));
    // Without names there is no such directory.
    let named = fs::read_dir(NAMED).into_iter().flatten().flatten();
    let mut seen = BTreeSet::new();
    Ok(of_processes
        .chain(named.map(|entry| entry.path()))
        .filter(|path| {
            fs::metadata(path).is_ok_and(|about| seen.insert((about.dev(), about.ino())))
        })
        .collect())
}
