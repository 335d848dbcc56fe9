//! What a release is made of, in CycloneDX: the agent, and the BPF programs inside of it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{EPOCH_VARIABLE, emptied};
use crate::arch::Arch;
use crate::setup::quietly;
use crate::workspace::Workspace;

/// The packages that are compiled for it.
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
            .args(["--spec-version", "1.5", "--no-build-deps"])
            .args(["--override-filename", DRAFT, "--target", &arch.musl()])
            .arg("--manifest-path")
            .arg(workspace.root().join(package).join("Cargo.toml"))
            .env(EPOCH_VARIABLE, epoch);
        let outcome = quietly(&mut tool);
        let draft = workspace.root().join(package).join(format!("{DRAFT}.json"));
        let written = fs::read_to_string(&draft);
        remove_drafts(workspace.root());
        outcome?;
        let written = written.with_context(|| format!("reading {}", draft.display()))?;
        let bill = directory.join(format!("{package}.cdx.json"));
        fs::write(&bill, without_place(&written, workspace.root()))
            .with_context(|| format!("writing {}", bill.display()))?;
        bills.push(bill);
    }
    Ok(bills)
}

/// Where the checkout is, is nobody's business, and not the same everywhere.
fn without_place(bill: &str, root: &Path) -> String {
    bill.replace(&format!("file://{}", root.display()), "file://")
}

fn remove_drafts(root: &Path) {
    let members = fs::read_dir(root).into_iter().flatten().flatten();
    for member in members {
        // Most directories have none.
        drop(fs::remove_file(member.path().join(format!("{DRAFT}.json"))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_of_the_checkout_is_not_in_a_bill() {
        let bill = r#""path+file:///home/me/it/osm-agent#0.1.0", "registry+https://a/b""#;
        let expected = r#""path+file:///osm-agent#0.1.0", "registry+https://a/b""#;
        assert_eq!(without_place(bill, Path::new("/home/me/it")), expected);
    }
}
