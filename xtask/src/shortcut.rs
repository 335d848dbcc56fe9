//! `cargo xtask shortcut`: random traffic over the loopback shortcut, for as long as you like.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::value_parser;

use crate::long::{self, Test};
use crate::workspace::Workspace;

const TEST: Test = Test {
    program: "shortcut",
    name: "random_traffic",
    with_next: false,
};

/// Arguments of `shortcut`.
#[derive(clap::Args)]
pub struct Args {
    /// For how long new connections are opened.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u64).range(1..))]
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
    let numbers = [
        ("OSM_SHORTCUT_SECONDS", Some(args.minutes * 60)),
        ("OSM_SHORTCUT_PARALLEL", Some(args.parallel)),
        ("OSM_SHORTCUT_SEED", Some(long::seed(args.seed))),
        ("OSM_SHORTCUT_CONNECTION", args.connection),
    ];
    let mut variables: Vec<(_, OsString)> = Vec::new();
    for (name, value) in numbers {
        variables.extend(value.map(|value| (name, value.to_string().into())));
    }
    if args.off {
        variables.push(("OSM_SHORTCUT", "off".into()));
    }
    long::run(workspace, &TEST, variables)
}
