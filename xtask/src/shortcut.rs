//! `cargo xtask shortcut`: random traffic over the loopback shortcut, for as long as you like.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::build::{self, AGENT};
use crate::setup;
use crate::workspace::Workspace;
use crate::{privilege, signals, test};

/// The test program that does it, and the test in it.
const PROGRAM: &str = "shortcut";
const TEST: &str = "random_traffic";

/// Arguments of `shortcut`.
#[derive(clap::Args)]
pub struct Args {
    /// For how long new connections are opened.
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// Gives all connections what they do [default: the time].
    #[arg(long)]
    seed: Option<u64>,
    /// How many are open at once.
    #[arg(long, default_value_t = 300)]
    parallel: u64,
    /// Only the connection with this number, as a failure names it; needs --seed.
    #[arg(long, requires = "seed")]
    connection: Option<u64>,
    /// The same over redirected connections without the shortcut.
    #[arg(long)]
    off: bool,
}

/// Builds and runs it; ends with what was sent and what was wrong.
///
/// # Errors
///
/// When something needed is missing or a build fails.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    setup::ensure(workspace, &[&build::NEEDS[..], &test::NEEDS].concat())?;
    privilege::verify(workspace)?;
    let agent = build::named(&build::binaries(workspace)?, AGENT)?;
    let programs = test::programs(workspace, "Building the tests", &build::PACKAGES)?;
    let program = programs
        .iter()
        .find(|program| program.source.iter().any(|part| part == PROGRAM))
        .context("the tests have no program of that name")?;
    let mut environment = vec![
        ("OSM_AGENT", OsString::from(agent)),
        (
            "OSM_SHORTCUT_SECONDS",
            (args.minutes * 60).to_string().into(),
        ),
        ("OSM_SHORTCUT_PARALLEL", args.parallel.to_string().into()),
    ];
    let numbers = [
        ("OSM_SHORTCUT_SEED", Some(args.seed.unwrap_or_else(now))),
        ("OSM_SHORTCUT_CONNECTION", args.connection),
    ];
    for (name, value) in numbers {
        environment.extend(value.map(|value| (name, value.to_string().into())));
    }
    if args.off {
        environment.push(("OSM_SHORTCUT", "off".into()));
    }
    let mut command = privilege::as_root(workspace, &environment)?;
    command.arg(&program.path).args([TEST, "--nocapture"]);
    signals::run(&mut command)
}

/// Another seed every second; it is printed.
fn now() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
