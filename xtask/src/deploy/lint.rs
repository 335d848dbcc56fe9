//! What can be said about the files of `deploy/` without a cluster, a container engine or systemd.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{chart, require_fresh};
use crate::check::Outcome;
use crate::setup::python::{HADOLINT, KUBERNETES_VALIDATE};
use crate::setup::quietly;
use crate::workspace::Workspace;

/// Kinds that are not Kubernetes' own, of which there is no schema here.
const FOREIGN: [&str; 2] = ["monitoring.yaml", "meshconfig.yaml"];

const DOCKERFILE: &str = "deploy/Dockerfile";

const UNIT: &str = "deploy/systemd/osm-agent.service";

/// What the unit starts where it is installed.
const PROGRAM: &str = "/usr/local/bin/osm-agent";

/// The most that systemd may think the unit is exposed, of 100. What is above 0 is what the agent
/// is for: other processes' namespaces, BPF, networks.
const EXPOSURE: &str = "40";

/// The chart renders under all values, to valid objects, and the manifests are what it renders.
///
/// # Errors
///
/// When any of it is not so.
pub fn manifests(workspace: &Workspace) -> Result<Outcome> {
    require_fresh(workspace)?;
    let directory = workspace.target().join("check-manifests");
    drop(fs::remove_dir_all(&directory));
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let mut paths = Vec::new();
    let whole = chart::whole(workspace)?;
    let plain = chart::manifests(workspace)?;
    let plain = plain.iter().map(|(name, text)| (*name, text));
    let whole = whole.iter().map(|(path, text)| (path.as_str(), text));
    for (name, text) in plain.chain(whole) {
        let is_manifest = Path::new(name).extension().is_some_and(|it| it == "yaml");
        if !is_manifest || FOREIGN.iter().any(|it| name.ends_with(it)) {
            continue;
        }
        let path = directory.join(name.replace('/', "-"));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        paths.push(path);
    }
    let mut validate = KUBERNETES_VALIDATE.python(workspace);
    validate
        .args(["-m", "kubernetes_validate", "--strict"])
        .args(&paths);
    quietly(&mut validate).context("manifests are not as Kubernetes' schemas have them")?;
    Ok(Outcome::Passed)
}

/// The image recipe follows the rules of its kind.
///
/// # Errors
///
/// When it does not.
pub fn image(workspace: &Workspace) -> Result<Outcome> {
    let mut hadolint = HADOLINT.program(workspace, "hadolint");
    hadolint.arg(workspace.root().join(DOCKERFILE));
    quietly(&mut hadolint)?;
    Ok(Outcome::Passed)
}

/// systemd understands the unit, and finds it hardened.
///
/// # Errors
///
/// When it does not.
pub fn unit(workspace: &Workspace) -> Result<Outcome> {
    if workspace.find("systemd-analyze").is_none() {
        return Ok(Outcome::Skipped("there is no systemd-analyze".into()));
    }
    let unit = startable_unit(workspace)?;
    let mut verify = workspace.command("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&unit);
    quietly(&mut verify)?;
    let mut security = workspace.command("systemd-analyze");
    security
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={EXPOSURE}"))
        .arg(&unit);
    quietly(&mut security)?;
    Ok(Outcome::Passed)
}

/// A copy of the unit that starts a program which is there: systemd looks for it.
fn startable_unit(workspace: &Workspace) -> Result<PathBuf> {
    let source = workspace.root().join(UNIT);
    let text =
        fs::read_to_string(&source).with_context(|| format!("reading {}", source.display()))?;
    let own = std::env::current_exe().context("finding this program")?;
    let directory = workspace.target().join("check-unit");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let path = directory.join("osm-agent.service");
    fs::write(&path, text.replace(PROGRAM, &own.display().to_string()))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
