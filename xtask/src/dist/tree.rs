//! What is in an archive, laid out as below /usr or /usr/local.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::emptied;
use crate::setup::quietly;
use crate::workspace::Workspace;

/// Where completions are looked for, by shell.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/osm-agent"),
    ("fish", "share/fish/vendor_completions.d/osm-agent.fish"),
    ("zsh", "share/zsh/site-functions/_osm-agent"),
];

/// Files of the checkout that go along as they are.
const TEXTS: [&str; 3] = ["LICENSE", "README.md", "CHANGELOG.md"];

/// Fills `tree` with the binary, what `own` (an agent for this machine) prints, and files of the
/// checkout.
///
/// # Errors
///
/// When a file can't be copied, or `own` fails.
pub fn make(
    workspace: &Workspace,
    tree: &Path,
    binary: &Path,
    own: &Path,
    bills: &[PathBuf],
) -> Result<()> {
    let _ = emptied(tree)?;
    copy(binary, &tree.join("bin/osm-agent"))?;
    let plugin = tree.join("bin/osm-cni");
    symlink("osm-agent", &plugin).with_context(|| format!("linking {}", plugin.display()))?;
    let pages = emptied(&tree.join("share/man/man1"))?;
    quietly(Command::new(own).arg("man").arg(pages))?;
    for (shell, place) in COMPLETIONS {
        let path = tree.join(place);
        make_parent(&path)?;
        fs::write(&path, completions(own, shell)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    for name in TEXTS {
        copy(&workspace.root().join(name), &tree.join(name))?;
    }
    for bill in bills {
        let name = bill.file_name().unwrap_or_default();
        copy(bill, &tree.join(name))?;
    }
    let mut deploy = Command::new("cp");
    deploy.args(["--recursive", "--no-dereference"]);
    quietly(deploy.arg(workspace.root().join("deploy")).arg(tree))
}

fn completions(own: &Path, shell: &str) -> Result<Vec<u8>> {
    let output = Command::new(own).args(["completions", shell]).output();
    let output = output.with_context(|| format!("starting {}", own.display()))?;
    if !output.status.success() {
        bail!("{} completions {shell} failed", own.display());
    }
    Ok(output.stdout)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    let copied = fs::copy(from, to);
    copied.with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))
}
