//! `cargo xtask soak`: everything that may happen on a node, at once and at random.

use std::process::ExitCode;

use anyhow::Result;
use clap::value_parser;

use crate::long::{self, Test};
use crate::workspace::Workspace;

const TEST: Test = Test {
    program: "soak",
    name: "every_connection_lands",
    with_next: true,
};

/// Arguments of `soak`.
#[derive(clap::Args)]
pub struct Args {
    /// For how long.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u64).range(1..))]
    minutes: u64,
    /// Gives what happens and what is dialled, not when [default: the time].
    #[arg(long)]
    seed: Option<u64>,
    /// How long each pod's clients rest between two connections, which leaves the machine to others as well.
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
    rest: u64,
}

/// Builds and runs it; ends with what was done, where connections landed, and what was wrong.
///
/// # Errors
///
/// When something needed is missing or a build fails.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let variables = [
        ("OSM_SOAK_SECONDS", args.minutes * 60),
        ("OSM_SOAK_SEED", long::seed(args.seed)),
        ("OSM_SOAK_REST_MS", args.rest),
    ];
    let variables = variables.map(|(name, value)| (name, value.to_string().into()));
    long::run(workspace, &TEST, variables.to_vec())
}
