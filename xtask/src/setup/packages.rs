//! Packages of the system, on Debian and its descendants.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
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
        let _services = NoServices::new();
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

/// Asked by Debian's packages before they start a service (invoke-rc.d(8)).
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// "No", as exit status.
const NO_SERVICES: &str = "#!/bin/sh\nexit 101\n";

/// As long as it lives, packages that are installed start no services; where the machine has a policy
/// of its own, that counts.
struct NoServices {
    is_ours: bool,
}

impl NoServices {
    /// Installing works without too; then a service runs that nobody asked for.
    fn new() -> Self {
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(SERVICE_POLICY);
        let written = file.and_then(|mut file| file.write_all(NO_SERVICES.as_bytes()));
        Self {
            is_ours: written.is_ok(),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.is_ours {
            drop(fs::remove_file(SERVICE_POLICY));
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
