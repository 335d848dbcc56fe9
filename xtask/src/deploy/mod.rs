//! `cargo xtask render-manifests`, and what `check` looks at of `deploy/`.

mod chart;
mod lint;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Need};
use crate::workspace::Workspace;

pub use lint::{image, manifests, unit};

/// What rendering and linting take.
pub const NEEDS: [Need; 3] = [Need::Helm, Need::KubernetesValidate, Need::Hadolint];

/// Where the rendered manifests are.
const MANIFESTS: &str = "deploy/manifests";

/// Writes the manifests anew.
///
/// # Errors
///
/// When the chart has faults, or a file can't be written.
pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    setup::ensure(workspace, &[Need::Helm])?;
    let directory = workspace.root().join(MANIFESTS);
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let rendered = chart::manifests(workspace)?;
    for path in strangers(&directory, &rendered)? {
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    for (name, text) in rendered {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("{}", workspace.relative(&path).display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails where a manifest is not what the chart says.
fn require_fresh(workspace: &Workspace) -> Result<()> {
    let directory = workspace.root().join(MANIFESTS);
    let rendered = chart::manifests(workspace)?;
    let mut stale = strangers(&directory, &rendered)?;
    for (name, text) in &rendered {
        let path = directory.join(name);
        if fs::read_to_string(&path).ok().as_ref() != Some(text) {
            stale.push(path);
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    let stale: Vec<_> = stale
        .iter()
        .map(|path| workspace.relative(path).display().to_string())
        .collect();
    bail!(
        "not as the chart renders them; run `cargo xtask render-manifests`:\n  {}",
        stale.join("\n  ")
    )
}

/// The files of a directory that are not among those rendered.
fn strangers(directory: &Path, rendered: &[(&str, String)]) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let is_rendered = |path: &PathBuf| {
        rendered
            .iter()
            .any(|(name, _)| path.file_name().is_some_and(|it| it == *name))
    };
    Ok(paths.filter(|path| !is_rendered(path)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_the_chart_does_not_render_is_found() {
        let directory =
            std::env::temp_dir().join(format!("osm-xtask-strangers-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        for name in ["crds.yaml", "old.yaml"] {
            fs::write(directory.join(name), "").expect("a file");
        }
        let found = strangers(&directory, &[("crds.yaml", String::new())]);
        fs::remove_dir_all(&directory).expect("it was made");
        assert_eq!(found.expect("a list"), [directory.join("old.yaml")]);
    }
}
