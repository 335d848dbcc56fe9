//! The nightly compiler, which libFuzzer's instrumentation takes. Nothing that is released is built
//! with it.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::quietly;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// What rustup calls it.
pub const NIGHTLY: &str = "nightly";

/// Its version, if it is there.
pub fn present(workspace: &Workspace) -> Option<String> {
    let mut rustc = workspace.command("rustc");
    rustc
        .arg("--version")
        .env("RUSTUP_TOOLCHAIN", NIGHTLY)
        .stderr(Stdio::null());
    let output = rustc.output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    // Without rustup the variable says nothing to anybody.
    (output.status.success() && version.contains(NIGHTLY)).then(|| version.trim().to_owned())
}

/// Has rustup install it.
///
/// # Errors
///
/// When there is no rustup, or it fails, as without a network.
pub fn install(workspace: &Workspace) -> Result<()> {
    if workspace.find("rustup").is_none() {
        bail!("there is no rustup to install it; get rustup from https://rustup.rs");
    }
    let _progress = Progress::start("Installing the nightly toolchain");
    let mut rustup = workspace.command("rustup");
    rustup.args(["toolchain", "install", NIGHTLY, "--profile", "minimal"]);
    quietly(&mut rustup).context("installing the nightly toolchain")
}
