//! The dependencies: licences, sources, versions, advisories; `deny.toml` says what is allowed.

use std::process::Command;

use anyhow::Result;

use super::Outcome;
use crate::cargo;
use crate::progress::Progress;
use crate::setup::quietly;
use crate::workspace::Workspace;

/// How long the advisory database may take to come, in seconds. Some networks drop what they
/// do not let through, and nothing else would end the wait.
const FETCH_SECONDS: &str = "60";

/// What `deny.toml` says about bans, licences and sources. Needs only the registry.
///
/// # Errors
///
/// When a dependency is not allowed.
pub fn policy(workspace: &Workspace) -> Result<Outcome> {
    let mut command = deny(workspace.command("cargo-deny"));
    command.args(["check", "bans", "licenses", "sources"]);
    cargo::run("Checking the dependencies", &mut command)?;
    Ok(Outcome::Passed)
}

/// Known vulnerabilities. Their database is a repository that not every network reaches.
///
/// # Errors
///
/// When a dependency has an advisory against it.
pub fn advisories(workspace: &Workspace) -> Result<Outcome> {
    if let Err(error) = fetch(workspace) {
        eprintln!("warning: the advisory database could not be fetched: {error:#}");
        return Ok(Outcome::Skipped(
            "the advisory database is not reachable".into(),
        ));
    }
    let mut command = deny(workspace.command("cargo-deny"));
    command.args(["check", "--disable-fetch", "advisories"]);
    cargo::run("Checking for advisories", &mut command)?;
    Ok(Outcome::Passed)
}

fn fetch(workspace: &Workspace) -> Result<()> {
    let _progress = Progress::start("Fetching the advisory database");
    let mut command = workspace.command("timeout");
    command.args([FETCH_SECONDS, "cargo-deny"]);
    let mut command = deny(command);
    // It must fail rather than ask someone for a password.
    command
        .args(["fetch", "db"])
        .env("GIT_TERMINAL_PROMPT", "0");
    quietly(&mut command)
}

/// The arguments that every call takes.
fn deny(mut command: Command) -> Command {
    command.args(["--log-level", "error"]);
    command
}
