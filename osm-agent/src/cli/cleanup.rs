//! `osm-agent cleanup`

use clap::Args;

use super::{
    State, check_privileges,
    out::{say, warn},
};
use crate::{ebpf, error::Result};

/// Detaches every pod of this node from eBPF and removes all maps, programs and links, also those
/// of other versions and what is half-made. Established connections live on. Rules of iptables in
/// pods stay: `osm-agent iptables cleanup` removes those.
#[derive(Args, Debug)]
pub struct Cleanup {
    #[command(flatten)]
    state: State,
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
        Ok(())
    }
}
