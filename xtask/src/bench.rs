//! `cargo xtask bench`: what interception costs, against iptables and against none.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::build::{self, AGENT};
use crate::setup::{self, Need};
use crate::workspace::Workspace;
use crate::{cargo, privilege, signals};

/// What running it takes, beside building it.
const NEEDS: [Need; 3] = [Need::Unshare, Need::Iproute, Need::Iptables];

/// Where its results go, in cargo's target directory.
const OUTPUT: &str = "bench";

/// The page that a full run may rewrite.
const PAGE: &str = "docs/performance.md";

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Less than two minutes, only to see that it runs.
    #[arg(long)]
    quick: bool,
    /// Measure only these [default: all]: connections-outbound, connections-inbound,
    /// connect-latency, requests, streams, to-app, lists, node.
    #[arg(long, value_name = "MEASUREMENT", num_args = 1..)]
    only: Vec<String>,
    /// Of what is chosen at random, such as the ranges of long lists.
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds of every measurement [default: as many as it has by itself].
    #[arg(long)]
    rounds: Option<usize>,
    /// Build without optimisation, which is done sooner: only to see that it runs.
    #[arg(long)]
    debug: bool,
    /// Put the tables and plots into docs/performance.md.
    #[arg(long)]
    page: bool,
}

/// Builds everything with optimisation, and measures as root in a private mount namespace.
///
/// # Errors
///
/// When something needed is missing or a build fails.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    if args.page && (args.quick || args.debug || !args.only.is_empty()) {
        bail!("--page is for full runs: the page is made of one run with everything in it");
    }
    setup::ensure(workspace, &[&build::NEEDS[..], &NEEDS].concat())?;
    privilege::verify(workspace)?;
    let (what, profile) = if args.debug {
        ("Building the agent and the benchmark", "dev")
    } else {
        (
            "Building the agent and the benchmark with optimisation",
            "release",
        )
    };
    let built = cargo::run(
        what,
        workspace
            .cargo()
            .args(["build", "--profile", profile, "--bins", cargo::MESSAGES])
            .args(build::PACKAGES),
    )?;
    let environment = [("OSM_AGENT", OsString::from(build::named(&built, AGENT)?))];
    let mut command = privilege::as_root(workspace, &environment)?;
    command
        .arg(build::named(&built, "bench")?)
        .arg("run")
        .arg("--output")
        .arg(workspace.target().join(OUTPUT));
    if args.quick {
        command.arg("--quick");
    }
    if !args.only.is_empty() {
        command.arg("--only").args(&args.only);
    }
    if let Some(seed) = args.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(rounds) = args.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    if args.page {
        command.arg("--page").arg(workspace.root().join(PAGE));
    }
    signals::run(&mut command)
}
