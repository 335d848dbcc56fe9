//! Tries what was packed, as whoever downloads it would.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{CHECKSUMS, emptied};
use crate::privilege;
use crate::setup::quietly;
use crate::workspace::Workspace;

/// What an image is made of; its recipe names these.
const COPIED: [&str; 3] = ["bin/osm-agent", "bin/osm-cni", "LICENSE"];

/// Checks the sum of an archive, unpacks it into an empty directory, and runs what this machine can
/// run.
///
/// # Errors
///
/// When something is not as it should be.
pub fn archive(workspace: &Workspace, archive: &Path) -> Result<()> {
    let home = archive.parent().unwrap_or(archive);
    let mut sums = Command::new("sha256sum");
    sums.args(["--check", "--quiet", "--ignore-missing", CHECKSUMS]);
    quietly(sums.current_dir(home))?;
    let place = emptied(&home.join("unpacked"))?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(archive);
    quietly(
        tar.arg("--strip-components=1")
            .arg("--directory")
            .arg(&place),
    )?;
    for name in COPIED {
        if !place.join(name).exists() {
            bail!("{} has no {name}", archive.display());
        }
    }
    let agent = place.join("bin/osm-agent");
    is_static(workspace, &agent)?;
    if is_for_this_machine(&agent) {
        starts(workspace, &place)?;
    }
    fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))
}

/// Runs the agent with nothing else in sight than the directory that was unpacked.
fn starts(workspace: &Workspace, place: &Path) -> Result<()> {
    let mut version = Command::new(place.join("bin/osm-agent"));
    let output = version.arg("--version").env_clear().output();
    let output = output.context("starting the agent")?;
    let expected = format!("osm-agent {}\n", env!("CARGO_PKG_VERSION"));
    if output.stdout != expected.as_bytes() {
        bail!("--version says {output:?}, not {expected:?}");
    }
    if !privilege::is_root() {
        eprintln!("`osm-agent check` was not tried: it needs root");
        return Ok(());
    }
    let mut check = privilege::as_root(workspace, &[])?;
    quietly(check.arg("bin/osm-agent").arg("check").current_dir(place))
}

/// Fails where the program needs a loader or a library.
///
/// # Errors
///
/// Says what it needs.
pub fn is_static(workspace: &Workspace, program: &Path) -> Result<()> {
    let mut readelf = workspace.command("readelf");
    readelf.args(["--wide", "--program-headers", "--dynamic"]);
    let output = readelf.arg(program).output().context("starting readelf")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("readelf can't read {}", program.display());
    }
    let needed = |line: &&str| line.contains("INTERP") || line.contains("(NEEDED)");
    if let Some(line) = text.lines().find(needed) {
        bail!("{} is not static: {}", program.display(), line.trim());
    }
    Ok(())
}

/// By whether its machine is that of this program: bytes 18 and 19 of both.
fn is_for_this_machine(program: &Path) -> bool {
    let machine = |path: &Path| Some(fs::read(path).ok()?.get(18..20)?.to_vec());
    let own = std::env::current_exe().ok();
    own.is_some_and(|own| machine(&own) == machine(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_with_a_loader_is_not_static() {
        let workspace = Workspace::locate().expect("this crate is in the workspace");
        let own = std::env::current_exe().expect("this program");
        let error = is_static(&workspace, &own).expect_err("it is linked to the C library");
        assert!(format!("{error}").contains("is not static"), "{error}");
        assert!(is_for_this_machine(&own));
    }
}
