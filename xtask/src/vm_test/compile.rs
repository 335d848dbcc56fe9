//! Compiles what runs in the machines, once for all of them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::suites::Suite;
use crate::arch::Arch;
use crate::build::{self, AGENT, PACKAGES};
use crate::cargo::{self, Executable};
use crate::cross;
use crate::test;
use crate::workspace::Workspace;

/// Optimised a little: in an emulated machine, what is not is ten times slower.
const PROFILE: [&str; 2] = ["--profile", "vm"];

/// Has tests wait longer.
const FEATURES: [&str; 2] = ["--features", "osm-tests/slow"];

/// What tests start.
const PROGRAMS: [&str; 6] = ["--bin", AGENT, "--bin", "actor", "--bin", "peer"];

/// What of the standard library tests for other machines take.
const STD: &str = "std,panic_unwind,test";

/// What was compiled.
pub struct Built {
    /// The agent and the programs of the tests.
    pub binaries: Vec<Executable>,
    /// The agent of a version to come.
    pub next_agent: PathBuf,
    /// The test programs.
    pub tests: Vec<Executable>,
}

/// Compiles all that these suites take, for a kind of machine.
///
/// # Errors
///
/// When a build fails.
pub fn all(workspace: &Workspace, arch: Arch, suites: &[&Suite]) -> Result<Built> {
    let mut next = command(workspace, arch, "build");
    next.args(["--bin", AGENT, "--features", "osm-agent/next-layout"]);
    let next = build::named(
        &cargo::run("Building the agent to come, for machines", &mut next)?,
        AGENT,
    )?;
    let next_agent = next.with_file_name("osm-agent-next");
    std::fs::copy(&next, &next_agent)
        .with_context(|| format!("copying to {}", next_agent.display()))?;
    let mut binaries = command(workspace, arch, "build");
    let binaries = cargo::run(
        "Building the agent and its test programs, for machines",
        binaries.args(PROGRAMS),
    )?;
    let mut tests = command(workspace, arch, "test");
    tests.arg("--no-run");
    for program in suites.iter().flat_map(|suite| suite.programs) {
        tests.args(["--test", program]);
    }
    let mut tests = cargo::run("Building the tests, for machines", &mut tests)?;
    // Other packages have test programs of the same names.
    let package = workspace.root().join(test::KERNEL_TESTS);
    tests.retain(|program| program.is_test && program.package == package);
    Ok(Built {
        binaries,
        next_agent,
        tests,
    })
}

fn command(workspace: &Workspace, arch: Arch, verb: &str) -> Command {
    let mut command = if arch.is_host() {
        let mut command = workspace.cargo();
        command.args([verb, cargo::MESSAGES]);
        command
    } else {
        cross::cargo(workspace, verb, &arch.bookworm(), STD)
    };
    command.args(PROFILE).args(FEATURES).args(PACKAGES);
    command
}
