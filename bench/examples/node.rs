//! The node measurements alone: every reading, as it comes.

use std::path::PathBuf;

use osm_bench::node::{Options, measure};

fn main() -> anyhow::Result<()> {
    let agent = std::env::var_os("OSM_AGENT").map(PathBuf::from);
    let options = Options {
        quick: std::env::args().any(|argument| argument == "--quick"),
        agent: agent.unwrap_or_else(|| "target/release/osm-agent".into()),
    };
    measure(&options, &mut |sample| {
        println!(
            "{} {} {:?} {:.1} {}",
            sample.measurement, sample.setting, sample.variant, sample.value, sample.unit
        );
    })
}
