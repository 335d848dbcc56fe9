//! Components of the pinned toolchain.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::quietly;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The standard library's source.
pub const RUST_SRC: Component = Component {
    name: "rust-src",
    file: "lib/rustlib/src/rust/library/core/src/lib.rs",
};

/// The formatter.
pub const RUSTFMT: Component = Component {
    name: "rustfmt",
    file: "bin/rustfmt",
};

/// The linter.
pub const CLIPPY: Component = Component {
    name: "clippy",
    file: "bin/cargo-clippy",
};

/// Something rustup adds to a toolchain.
pub struct Component {
    /// Its name in rustup.
    pub name: &'static str,
    /// A file of it, below the toolchain's directory.
    file: &'static str,
}

impl Component {
    /// Which toolchain it is in, if it is.
    pub fn present(&self, workspace: &Workspace) -> Option<String> {
        let exists = sysroot(workspace)?.join(self.file).exists();
        exists.then(|| format!("in toolchain {}", workspace.toolchain()))
    }

    /// Has rustup add it.
    ///
    /// # Errors
    ///
    /// When there is no rustup, or it fails, as without a network.
    pub fn install(&self, workspace: &Workspace) -> Result<()> {
        let toolchain = workspace.toolchain();
        if workspace.find("rustup").is_none() {
            bail!(
                "there is no rustup to add it to toolchain {toolchain}; install rustup from \
                 https://rustup.rs, or add the component the way this toolchain was installed"
            );
        }
        let _progress = Progress::start(&format!("Adding {} to {toolchain}", self.name));
        let mut rustup = workspace.command("rustup");
        rustup.args(["component", "add", "--toolchain", toolchain, self.name]);
        quietly(&mut rustup)
            .with_context(|| format!("adding {} to toolchain {toolchain}", self.name))
    }
}

/// The toolchain's directory.
fn sysroot(workspace: &Workspace) -> Option<PathBuf> {
    let mut rustc = workspace.command("rustc");
    rustc.args(["--print", "sysroot"]).stderr(Stdio::null());
    let output = rustc.output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}
