//! `cargo xtask docs`: the parts of the documentation that are made from the types.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::build::{self, PACKAGES};
use crate::setup;
use crate::test;
use crate::workspace::Workspace;

/// The test program that compares them, which the types are linked to.
const PROGRAM: &str = "docs";

/// The test in it that does.
const TEST: &str = "reference::reference_is_what_the_types_say";

/// Has that test write instead.
const WRITE: &str = "OSM_DOCS_WRITE";

/// Writes them.
///
/// # Errors
///
/// When the build fails, or a page has no place for its part.
pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    setup::ensure(workspace, &build::NEEDS)?;
    compare(workspace, &[(WRITE, "1")])?;
    Ok(ExitCode::SUCCESS)
}

/// Fails where what is written is not what the types say.
///
/// # Errors
///
/// Then, and when the build fails.
pub fn check(workspace: &Workspace) -> Result<()> {
    compare(workspace, &[])
}

fn compare(workspace: &Workspace, environment: &[(&str, &str)]) -> Result<()> {
    let selection = [&PACKAGES[..], &["--test", PROGRAM]].concat();
    let programs = test::programs(workspace, "Building the reference", &selection)?;
    let program = programs.first().context("there is no such test program")?;
    let output = workspace
        .command(&program.path)
        .args(["--exact", TEST])
        .envs(environment.iter().copied())
        .output()
        .with_context(|| format!("starting {}", program.path.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    // A test of another name would be passed over in silence.
    let is_done = output.status.success() && said.contains("1 passed");
    ensure!(is_done, "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
