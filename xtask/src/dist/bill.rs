//! What a release is made of, in CycloneDX: the agent, and the BPF programs inside of it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Arch, EPOCH_VARIABLE, emptied};
use crate::setup::quietly;
use crate::workspace::Workspace;

/// The packages, and the machine that each is compiled for.
const PACKAGES: [&str; 2] = ["osm-agent", "osm-ebpf"];

/// What the tool calls its files, which it puts beside every manifest of the workspace.
const DRAFT: &str = "osm-bill-of-materials";

/// Writes a file for each package into `directory`.
///
/// # Errors
///
/// When the tool fails.
pub fn write(
    workspace: &Workspace,
    arch: Arch,
    epoch: &str,
    directory: &Path,
) -> Result<Vec<PathBuf>> {
    let _ = emptied(directory)?;
    let mut bills = Vec::new();
    for package in PACKAGES {
        let mut tool = workspace.command("cargo-cyclonedx");
        tool.args(["cyclonedx", "--quiet", "--format", "json"])
            .args(["--spec-version", "1.5", "--describe", "crate"])
            .args(["--override-filename", DRAFT, "--target", &arch.triple()])
            .arg("--manifest-path")
            .arg(workspace.root().join(package).join("Cargo.toml"))
            .env(EPOCH_VARIABLE, epoch);
        let outcome = quietly(&mut tool);
        let bill = directory.join(format!("{package}.cdx.json"));
        let draft = workspace.root().join(package).join(format!("{DRAFT}.json"));
        let moved = fs::copy(&draft, &bill);
        remove_drafts(workspace.root());
        outcome?;
        moved.with_context(|| format!("moving {} to {}", draft.display(), bill.display()))?;
        bills.push(bill);
    }
    Ok(bills)
}

fn remove_drafts(root: &Path) {
    let members = fs::read_dir(root).into_iter().flatten().flatten();
    for member in members {
        // Most directories have none.
        drop(fs::remove_file(member.path().join(format!("{DRAFT}.json"))));
    }
}
