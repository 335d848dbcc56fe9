//! The binary of a release: static, so that it needs nothing of where it runs.
//!
//! It is linked with musl, whose resolver, unlike glibc's, works when it is linked in. Zig brings
//! musl, a C compiler and a linker for every machine; the standard library is compiled from the
//! source that is in the toolchain, as there need not be a built one for the machine.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{Arch, EPOCH_VARIABLE};
use crate::build::{AGENT, named};
use crate::cargo;
use crate::setup::python::ZIGBUILD;
use crate::workspace::{TARGET_VARIABLE, Workspace};

/// Builds the agent for a machine, and returns where it is.
///
/// # Errors
///
/// When the build fails.
pub fn agent(workspace: &Workspace, arch: Arch, epoch: &str) -> Result<PathBuf> {
    let mut command = ZIGBUILD.program(workspace, "cargo-zigbuild");
    command
        .args(["rustc", "--release", "--locked", cargo::MESSAGES])
        .args(["--package", AGENT, "--bin", AGENT])
        .args(["--target", &arch.triple()])
        .args(["-Z", "build-std=std,panic_abort"])
        // Zig has the objects that a program begins and ends with, and the toolchain none for musl.
        .args(["--", "-C", "link-self-contained=no"])
        // The agent's build script looks for bpf-linker in the workspace's own.
        .env(TARGET_VARIABLE, workspace.target())
        .env(EPOCH_VARIABLE, epoch)
        // What it takes for -Z in a stable toolchain, as for the BPF programs.
        .env("RUSTC_BOOTSTRAP", "1")
        // Neither the checkout's place nor the home directory is to be in the binary.
        .env("CARGO_UNSTABLE_TRIM_PATHS", "true")
        .env("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let what = format!("Building the agent for {} (minutes)", arch.name());
    let built = cargo::run(&what, &mut command)?;
    let binary = named(&built, AGENT)?;
    super::verify::is_static(workspace, &binary)
        .with_context(|| format!("looking at {}", binary.display()))?;
    Ok(binary)
}
