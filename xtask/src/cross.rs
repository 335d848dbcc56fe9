//! Cargo for other machines and other C libraries than this system's.
//!
//! Zig brings C libraries, a compiler and a linker for every machine; the standard library is compiled
//! from the source that is in the toolchain, as there need not be a built one for the machine.

use std::process::Command;

use crate::cargo;
use crate::setup::python::ZIGBUILD;
use crate::workspace::{TARGET_VARIABLE, Workspace};

/// Cargo with `verb` for a target, to which crates of the standard library are named that it takes.
pub fn cargo(workspace: &Workspace, verb: &str, target: &str, std: &str) -> Command {
    let mut command = ZIGBUILD.program(workspace, "cargo-zigbuild");
    command
        .args([verb, "--locked", cargo::MESSAGES, "--target", target])
        .arg("-Z")
        .arg(format!("build-std={std}"))
        // The agent's build script looks for bpf-linker in the workspace's own.
        .env(TARGET_VARIABLE, workspace.target())
        // What it takes for -Z in a stable toolchain, as for the BPF programs.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}
