//! `cargo xtask check`: everything that can be said about the code without running it.

mod deny;
mod length;
mod rules;

use std::env::consts::ARCH;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cargo;
use crate::deploy;
use crate::docs;
use crate::setup::{self, Need};
use crate::workspace::Workspace;

/// What the steps take, beside building.
const NEEDS: [Need; 5] = [
    Need::RustSrc,
    Need::Rustfmt,
    Need::Clippy,
    Need::BpfLinker,
    Need::CargoDeny,
];

/// All but the BPF programs, which only compile for their own target.
const USERSPACE: [&str; 3] = ["--workspace", "--exclude", "osm-ebpf"];

/// How a step that did not fail came out.
pub enum Outcome {
    /// Nothing to complain about.
    Passed,
    /// It could not be done here, and why.
    Skipped(String),
}

type Step = (&'static str, fn(&Workspace) -> Result<Outcome>);

/// Fast ones first.
const STEPS: [Step; 12] = [
    ("format", format),
    ("file length", length::check),
    ("alert rules", rules::check),
    ("manifests", deploy::manifests),
    ("image recipe", deploy::image),
    ("systemd unit", deploy::unit),
    ("clippy", clippy),
    ("clippy, BPF", clippy_bpf),
    ("documentation", documentation),
    ("reference", reference),
    ("dependencies", deny::policy),
    ("advisories", deny::advisories),
];

/// Does every step, whatever the others said, and sums up in a table.
///
/// # Errors
///
/// When a tool is missing; failed steps show in the table and the exit status.
pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    setup::ensure(workspace, &[&NEEDS[..], &deploy::NEEDS].concat())?;
    let mut code = ExitCode::SUCCESS;
    let mut table = Vec::new();
    for (name, step) in STEPS {
        let started = Instant::now();
        let word = match step(workspace) {
            Ok(Outcome::Passed) => "ok".to_owned(),
            Ok(Outcome::Skipped(reason)) => format!("skipped: {reason}"),
            Err(error) => {
                eprintln!("error: {name}: {error:#}");
                code = ExitCode::FAILURE;
                "FAILED".to_owned()
            }
        };
        table.push(row(name, started.elapsed(), &word));
    }
    println!("\n{}", table.join("\n"));
    Ok(code)
}

fn row(name: &str, took: Duration, word: &str) -> String {
    format!("{name:<14} {:>6.1} s  {word}", took.as_secs_f64())
}

fn format(workspace: &Workspace) -> Result<Outcome> {
    let mut command = workspace.cargo();
    command.args(["fmt", "--all", "--check"]);
    cargo::run("Checking the format (`cargo fmt` mends it)", &mut command)?;
    Ok(Outcome::Passed)
}

fn clippy(workspace: &Workspace) -> Result<Outcome> {
    let mut command = workspace.cargo();
    command
        .arg("clippy")
        .args(USERSPACE)
        .args(["--all-targets", "--", "-D", "warnings"]);
    cargo::run("Looking for lints", &mut command)?;
    Ok(Outcome::Passed)
}

/// With the flags that the agent's build compiles the BPF programs with, in a directory of its own,
/// so that flags and caches of the two targets do not chase each other.
fn clippy_bpf(workspace: &Workspace) -> Result<Outcome> {
    let mut command = workspace.cargo();
    command
        .args(["clippy", "--package", "osm-ebpf", "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .args(["--target-dir"])
        .arg(workspace.target().join("check-bpf"))
        .args(["--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{ARCH}\""))
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo::run("Looking for lints in the BPF programs", &mut command)?;
    Ok(Outcome::Passed)
}

fn documentation(workspace: &Workspace) -> Result<Outcome> {
    let mut command = workspace.cargo();
    command
        .args(["doc", "--no-deps"])
        .args(USERSPACE)
        .env("RUSTDOCFLAGS", "-D warnings");
    cargo::run("Building the documentation", &mut command)?;
    Ok(Outcome::Passed)
}

fn reference(workspace: &Workspace) -> Result<Outcome> {
    docs::check(workspace)?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_table_are_aligned() {
        let short = row("format", Duration::from_millis(320), "ok");
        let long = row("clippy, BPF", Duration::from_secs(75), "FAILED");
        assert_eq!(short, "format            0.3 s  ok");
        assert_eq!(long, "clippy, BPF      75.0 s  FAILED");
    }
}
