//! The alert rules, held against Prometheus' own checker and against series made for them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Outcome;
use crate::apt::{Apt, BOOKWORM};
use crate::arch::Arch;
use crate::setup;
use crate::workspace::Workspace;

/// Debian's package that has the checker in it. It is unpacked, not installed: nothing is started.
const PACKAGE: &str = "prometheus";

const RULES: &str = "deploy/monitoring/alerts.yaml";
const TESTS: &str = "deploy/monitoring/rules_test.yaml";

/// Checks the rules and runs their tests.
///
/// # Errors
///
/// When the checker can't be had, or finds something.
pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let promtool = promtool(workspace)?;
    for (verb, file) in [("check", RULES), ("test", TESTS)] {
        let mut command = workspace.command(&promtool);
        command.args([verb, "rules", file]);
        command.current_dir(workspace.root());
        setup::quietly(&mut command).with_context(|| format!("promtool {verb} rules {file}"))?;
    }
    Ok(Outcome::Passed)
}

/// Where the checker is, fetched the first time.
fn promtool(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(there) = workspace.find("promtool") {
        return Ok(there);
    }
    let home = workspace.tools().join("promtool");
    let program = home.join("usr/bin/promtool");
    if program.is_file() {
        return Ok(program);
    }
    let staging = home.with_extension("new");
    let downloads = staging.join("downloads");
    fs::create_dir_all(&downloads).with_context(|| format!("creating {}", downloads.display()))?;
    Apt::new(workspace, &staging.join("apt"), Arch::host()?, &[BOOKWORM])?
        .packages(&[PACKAGE], &downloads)?;
    for file in fs::read_dir(&downloads).context("reading what was fetched")? {
        let mut unpack = workspace.command("dpkg-deb");
        unpack.arg("--extract").arg(file?.path()).arg(&staging);
        setup::quietly(&mut unpack).context("unpacking what was fetched")?;
    }
    for what in [&downloads, &staging.join("apt")] {
        fs::remove_dir_all(what).with_context(|| format!("removing {}", what.display()))?;
    }
    fs::rename(&staging, &home).with_context(|| format!("making {}", home.display()))?;
    Ok(program)
}
