//! `cargo xtask conformance`: both datapaths and the decision function, held against each other.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::build::{self, AGENT};
use crate::setup;
use crate::workspace::Workspace;
use crate::{privilege, signals, test};

/// The test program that does it.
const PROGRAM: &str = "conformance";

/// Arguments of `conformance`.
#[derive(clap::Args)]
pub struct Args {
    /// How many connections, each by every datapath.
    #[arg(long, default_value_t = 2000)]
    cases: u64,
    /// Which ones; a failure names its own [default: any].
    #[arg(long)]
    seed: Option<u64>,
}

/// Builds and runs it; a failing case is shown with its seed, as short as it can be made.
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
        ("OSM_CONFORMANCE_CASES", args.cases.to_string().into()),
    ];
    if let Some(seed) = args.seed {
        environment.push(("OSM_CONFORMANCE_SEED", seed.to_string().into()));
    }
    let mut command = privilege::as_root(workspace, &environment)?;
    command.arg(&program.path).arg("--nocapture");
    signals::run(&mut command)
}
