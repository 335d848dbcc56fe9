//! The binary of a release: static, so that it needs nothing of where it runs.
//!
//! It is linked with musl, whose resolver, unlike glibc's, works when it is linked in.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::EPOCH_VARIABLE;
use crate::arch::Arch;
use crate::build::{AGENT, named};
use crate::cargo;
use crate::cross;
use crate::workspace::Workspace;

/// Builds the agent for a machine, and returns where it is.
///
/// # Errors
///
/// When the build fails.
pub fn agent(workspace: &Workspace, arch: Arch, epoch: &str) -> Result<PathBuf> {
    let mut command = cross::cargo(workspace, "rustc", &arch.musl(), "std,panic_abort");
    command
        .args(["--release", "--package", AGENT, "--bin", AGENT])
        // Zig has the objects that a program begins and ends with, and the toolchain none for musl.
        .args(["--", "-C", "link-self-contained=no"])
        .env(EPOCH_VARIABLE, epoch)
        // Neither the checkout's place nor the home directory is to be in the binary.
        .env("CARGO_UNSTABLE_TRIM_PATHS", "true")
        .env("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all");
    let what = format!("Building the agent for {} (minutes)", arch.name());
    let built = cargo::run(&what, &mut command)?;
    let binary = named(&built, AGENT)?;
    super::verify::is_static(workspace, &binary)
        .with_context(|| format!("looking at {}", binary.display()))?;
    Ok(binary)
}
