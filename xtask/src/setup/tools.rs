//! Tools from crates.io, at the versions that fit the toolchain, in a directory of ours.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::cargo;
use crate::workspace::{TARGET_VARIABLE, Workspace};

/// The linker for BPF programs. Its version has to fit the LLVM in the pinned toolchain.
pub const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.10.4",
    asked: &["--version"],
    profile: &[],
};

/// The dependency checker. As released it is optimised as a whole, for minutes; it runs for a
/// second and does not need that.
pub const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    asked: &["--version"],
    profile: &[
        ("CARGO_PROFILE_RELEASE_LTO", "off"),
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ],
};

/// Writes bills of materials. Optimised no more than cargo-deny, for the same reason.
pub const CARGO_CYCLONEDX: Tool = Tool {
    name: "cargo-cyclonedx",
    version: "0.5.9",
    asked: &["cyclonedx", "--version"],
    profile: CARGO_DENY.profile,
};

/// Builds fuzz targets. Optimised no more than cargo-deny, for the same reason.
pub const CARGO_FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
    asked: &["--version"],
    profile: CARGO_DENY.profile,
};

/// A program that `cargo install` builds.
pub struct Tool {
    /// Of the crate and of the program.
    pub name: &'static str,
    version: &'static str,
    /// What makes it say its version.
    asked: &'static [&'static str],
    /// Changes to the crate's release profile.
    profile: &'static [(&'static str, &'static str)],
}

impl Tool {
    /// Version and place, if it is there in the right version: ours, or one found in `PATH`.
    pub fn present(&self, workspace: &Workspace) -> Option<String> {
        let path = workspace.find(self.name)?;
        let version = version_of(&path, self.asked)?;
        let place = workspace.relative(&path).display();
        (version == self.version).then(|| format!("{version}, {place}"))
    }

    /// Builds it.
    ///
    /// # Errors
    ///
    /// When it can't be fetched or compiled.
    pub fn install(&self, workspace: &Workspace) -> Result<()> {
        let mut install = workspace.cargo();
        install
            .args(["install", self.name, "--version", self.version])
            .args(["--locked", "--force", "--root"])
            .arg(workspace.tools())
            .envs(self.profile.iter().copied())
            // The workspace's own directory would be taken for the tool's build otherwise.
            .env_remove(TARGET_VARIABLE);
        cargo::run(
            &format!("Installing {} {}", self.name, self.version),
            &mut install,
        )
        .map(drop)
        .with_context(|| {
            format!(
                "{} {} from crates.io could not be built; a C compiler and access to the registry \
                 are needed",
                self.name, self.version
            )
        })
    }
}

/// What a program says after its name when it is asked for its version.
fn version_of(path: &Path, asked: &[&str]) -> Option<String> {
    let output = Command::new(path)
        .args(asked)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(1).map(str::to_owned)
}
