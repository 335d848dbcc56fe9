//! `cargo xtask build`, and building for the other verbs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::cargo::{self, Executable};
use crate::setup::{self, Need};
use crate::workspace::Workspace;

/// Always selected together: cargo unites the features of what is selected, so that another
/// selection would compile the dependencies again.
pub const PACKAGES: [&str; 8] = [
    "-p",
    "osm-ebpf-common",
    "-p",
    "osm-agent",
    "-p",
    "osm-tests",
    "-p",
    "osm-bench",
];

/// What compiling the agent takes.
pub const NEEDS: [Need; 2] = [Need::RustSrc, Need::BpfLinker];

/// The agent's executable.
pub const AGENT: &str = "osm-agent";

/// Arguments of `build`.
#[derive(clap::Args)]
pub struct Args {
    /// Build with optimisation.
    #[arg(long)]
    release: bool,
}

/// Builds the agent and says where it is.
///
/// # Errors
///
/// When something needed can't be installed, or the build fails.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    setup::ensure(workspace, &NEEDS)?;
    let release: &[&str] = if args.release { &["--release"] } else { &[] };
    println!("{}", agent_with(workspace, release)?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the agent as developers run it, and returns where it is.
///
/// # Errors
///
/// When the build fails.
pub fn agent(workspace: &Workspace) -> Result<PathBuf> {
    agent_with(workspace, &[])
}

fn agent_with(workspace: &Workspace, arguments: &[&str]) -> Result<PathBuf> {
    let mut command = workspace.cargo();
    command
        .args(["build", cargo::MESSAGES])
        .args(PACKAGES)
        .args(["--bin", AGENT])
        .args(arguments);
    named(&cargo::run("Building the agent", &mut command)?, AGENT)
}

/// Builds the agent and the programs of the tests.
///
/// # Errors
///
/// When the build fails.
pub fn binaries(workspace: &Workspace) -> Result<Vec<Executable>> {
    let mut command = workspace.cargo();
    command
        .args(["build", "--bins", cargo::MESSAGES])
        .args(PACKAGES);
    cargo::run("Building the agent and its test programs", &mut command)
}

/// The path of the program `name` among those built.
///
/// # Errors
///
/// When no package has such a program.
pub fn named(built: &[Executable], name: &str) -> Result<PathBuf> {
    built
        .iter()
        .find(|executable| executable.name == name && !executable.is_test)
        .map(|executable| executable.path.clone())
        .with_context(|| format!("no package of the workspace has a binary `{name}`"))
}

/// Builds the agent as of a version to come, whose maps are laid out otherwise, and puts it beside
/// the present one: for tests of upgrades. To be called before [`binaries`], as both builds end up
/// at the same path.
///
/// # Errors
///
/// When the build fails.
pub fn next_agent(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo();
    command
        .args(["build", cargo::MESSAGES])
        .args(PACKAGES)
        .args(["--bin", AGENT, "--features", "osm-agent/next-layout"]);
    let built = cargo::run("Building the agent to come", &mut command)?;
    let built = named(&built, AGENT)?;
    let next = built.with_file_name("osm-agent-next");
    std::fs::copy(&built, &next).with_context(|| format!("copying to {}", next.display()))?;
    Ok(next)
}
