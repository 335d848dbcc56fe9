//! Where things are, and commands that find them.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{self, Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The directories that hold system tools but are often not in a user's `PATH`.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Tells cargo to build elsewhere.
pub const TARGET_VARIABLE: &str = "CARGO_TARGET_DIR";

/// The checkout this program was built from.
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
    toolchain: String,
}

impl Workspace {
    /// Finds the workspace that this program belongs to.
    ///
    /// # Errors
    ///
    /// When the checkout has moved since, or has no usable `rust-toolchain.toml`.
    pub fn locate() -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let Some(root) = here.parent().filter(|root| root.is_dir()) else {
            bail!(
                "{} is gone; run this as `cargo xtask` in the checkout",
                here.display()
            );
        };
        let file = root.join("rust-toolchain.toml");
        let text = fs::read_to_string(&file)
            .with_context(|| format!("reading the pinned toolchain from {}", file.display()))?;
        let toolchain = channel(&text)
            .with_context(|| format!("{} has no `channel = \"…\"` line", file.display()))?;
        Ok(Self {
            root: root.to_owned(),
            target: target_directory(root)?,
            toolchain: toolchain.to_owned(),
        })
    }

    /// The top directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pinned toolchain's name, as rustup knows it.
    pub fn toolchain(&self) -> &str {
        &self.toolchain
    }

    /// Where tools are installed; `osm-agent`'s build script looks here too.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Cargo's target directory.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// `path` as seen from the top directory, for messages.
    pub fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    /// A command in the top directory that sees our tools, then the system's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let program = program.as_ref();
        let found = self.find(program);
        let mut command = Command::new(found.as_deref().map_or(program, Path::as_os_str));
        command
            .current_dir(&self.root)
            .env("PATH", self.search_path())
            .env("RUSTUP_TOOLCHAIN", &self.toolchain);
        command
    }

    /// Cargo of the pinned toolchain. `PATH` is left alone: the agent's build script runs again
    /// whenever it changes, so calling cargo by hand and by us would undo each other's builds.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(&self.root)
            .env("RUSTUP_TOOLCHAIN", &self.toolchain);
        if env::var_os(TARGET_VARIABLE).is_some() {
            command.env(TARGET_VARIABLE, &self.target);
        }
        command
    }

    /// The program of this name that [`Self::command`] would run.
    pub fn find(&self, program: impl AsRef<OsStr>) -> Option<PathBuf> {
        which::which_in(program, Some(self.search_path()), &self.root).ok()
    }

    /// `PATH` with our tools before it and the system directories behind it.
    pub fn search_path(&self) -> OsString {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let directories = [self.tools().join("bin")]
            .into_iter()
            .chain(env::split_paths(&inherited))
            .chain(SYSTEM_DIRECTORIES.map(PathBuf::from));
        // Only a directory with a colon in its name can't be joined; then ours are left out.
        env::join_paths(directories).unwrap_or(inherited)
    }
}

/// Where cargo builds, as an absolute path.
fn target_directory(root: &Path) -> Result<PathBuf> {
    let Some(chosen) = env::var_os(TARGET_VARIABLE) else {
        return Ok(root.join("target"));
    };
    path::absolute(&chosen)
        .with_context(|| format!("resolving {TARGET_VARIABLE}={}", chosen.display()))
}

/// The `channel` of a `rust-toolchain.toml`.
fn channel(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let value = line.trim().strip_prefix("channel")?.trim_start();
        let value = value.strip_prefix('=')?.trim_start();
        value.strip_prefix('"')?.split('"').next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_of_toolchain_file_is_its_value() {
        let cases = [
            ("[toolchain]\nchannel = \"1.95.0\"\n", Some("1.95.0")),
            (
                "# channel of old\n  channel=\"stable\" # why",
                Some("stable"),
            ),
            ("channels = \"1.95.0\"", None),
            ("[toolchain]\npath = \"/opt/rust\"", None),
        ];
        for (text, expected) in cases {
            assert_eq!(channel(text), expected, "{text:?}");
        }
    }

    #[test]
    fn search_path_starts_with_our_tools() {
        let workspace = Workspace::locate().expect("this crate is in the workspace");
        let path = workspace.search_path();
        let first = env::split_paths(&path).next();
        assert_eq!(first, Some(workspace.tools().join("bin")));
    }
}
