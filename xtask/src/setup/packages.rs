//! Packages of the system, on Debian and its descendants.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::quietly;
use crate::privilege::is_root;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Another installation may be running; it is waited for this many seconds.
const LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=120";

/// A Debian package, and how to see that what it holds is there, wherever from.
pub struct Package {
    /// Its name on Debian.
    pub name: &'static str,
    /// What shows that it is there.
    pub probe: Probe,
}

/// What shows that a package is there.
pub enum Probe {
    /// A program that can be found.
    Program(&'static str),
    /// A module that Python can run.
    PythonModule(&'static str),
}

impl Package {
    /// Where its program is, if it is there.
    pub fn present(&self, workspace: &Workspace) -> Option<String> {
        match self.probe {
            Probe::Program(program) => Some(workspace.find(program)?.display().to_string()),
            Probe::PythonModule(module) => {
                let mut python = workspace.command("python3");
                python.args(["-m", module, "--version"]);
                python.stdout(Stdio::null()).stderr(Stdio::null());
                let runs = python.status().is_ok_and(|status| status.success());
                runs.then(|| format!("python3 -m {module}"))
            }
        }
    }

    /// Installs it, reading the package lists anew only if it can't be installed without.
    ///
    /// # Errors
    ///
    /// When this is not Debian, we are not root, or apt-get fails.
    pub fn install(&self, workspace: &Workspace) -> Result<()> {
        let name = self.name;
        if workspace.find("apt-get").is_none() {
            bail!(
                "there is no apt-get here; install {} with this system's package manager (Debian \
                 has it in {name})",
                self.content()
            );
        }
        if !is_root() {
            bail!("only root can install it; run `sudo apt-get install {name}`");
        }
        let _progress = Progress::start(&format!("Installing {name} (apt-get)"));
        let install = ["install", "--yes", "--no-install-recommends", name];
        if apt_get(workspace, &install).is_ok() {
            return Ok(());
        }
        apt_get(workspace, &["update"]).context("reading the package lists (apt-get update)")?;
        apt_get(workspace, &install).with_context(|| {
            format!(
                "apt-get install {name} failed; install {} by hand",
                self.content()
            )
        })
    }

    fn content(&self) -> String {
        match self.probe {
            Probe::Program(program) => format!("`{program}`"),
            Probe::PythonModule(module) => format!("python3 with its module `{module}`"),
        }
    }
}

fn apt_get(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    let mut command = workspace.command("apt-get");
    command
        .args(["-o", LOCK_TIMEOUT])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    quietly(&mut command)
}
