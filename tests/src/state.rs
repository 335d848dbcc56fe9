//! Directories that are gone after the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::need::assert_private_mounts;
use crate::process::{is_stale, unique_name};

/// A fresh directory; removed with all that is in it on drop.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes it.
    #[must_use]
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let path = std::env::temp_dir().join(unique_name());
        if let Err(error) = fs::create_dir(&path) {
            panic!("can't make {}: {error}", path.display());
        }
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file in it.
    #[must_use]
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path.join(name);
        if let Err(error) = fs::write(&path, text) {
            panic!("can't write {}: {error}", path.display());
        }
        path
    }

    /// Writes a script for the shell in it, which may be run.
    #[must_use]
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name, &format!("#!/bin/sh\n{text}\n"));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        if let Err(error) = fs::set_permissions(&path, mode) {
            panic!("can't let {} be run: {error}", path.display());
        }
        path
    }
}

impl Default for TempDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}

/// A BPF file system of the test's own, for the agent's pins; unmounted on drop.
#[derive(Debug)]
pub struct StateDir {
    dir: TempDir,
}

impl StateDir {
    /// Mounts it. Panics outside of a private mount namespace: after a crash the kernel unmounts
    /// it with the namespace, and no other way is certain.
    #[must_use]
    pub fn new() -> Self {
        assert_private_mounts();
        let dir = TempDir::new();
        let none: Option<&str> = None;
        let mounted = mount(
            Some("bpffs"),
            dir.path(),
            Some("bpf"),
            MsFlags::empty(),
            none,
        );
        if let Err(error) = mounted {
            panic!("can't mount a BPF file system: {error}");
        }
        Self { dir }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The pin of a map, wherever it is: among those that all versions of the agent share, or
    /// among those of the only version.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.pins_called(name).pop().unwrap_or_else(|| {
            panic!("no map {name} in {}", self.path().display());
        })
    }

    /// What is in the map of handshakes: notes of connections on their way, and destinations
    /// that are known by their address. Needs bpftool.
    #[must_use]
    pub fn handshakes(&self) -> (usize, usize) {
        /// Of a note, the app's port is in the key; of a destination, none.
        const APP_PORT: std::ops::Range<usize> = 24..26;
        let path = self.map("HANDSHAKES");
        let output = Command::new("bpftool")
            .args(["map", "dump", "--json", "pinned"])
            .arg(&path)
            .output()
            .expect("bpftool runs");
        let entries: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("bpftool can't read {}: {output:?}", path.display()));
        let is_known = |entry: &&serde_json::Value| {
            let key = entry["key"].as_array().expect("a key");
            key[APP_PORT].iter().all(|byte| byte == "0x00")
        };
        let known = entries.iter().filter(is_known).count();
        (entries.len() - known, known)
    }

    /// The full paths of all pins of that name.
    #[must_use]
    pub fn pins_called(&self, name: &str) -> Vec<PathBuf> {
        let mut found = self.pins();
        found.retain(|pin| pin.ends_with(name));
        found.iter().map(|pin| self.path().join(pin)).collect()
    }

    /// Detaches the one link of that name, as somebody might with bpftool; its pin stays.
    #[track_caller]
    pub fn detach_link(&self, name: &str) {
        let [pin] = &self
            .pins_called(name)
            .into_iter()
            .filter(|pin| pin.starts_with(self.path().join("pods")))
            .collect::<Vec<_>>()[..]
        else {
            panic!("there is not one link {name}");
        };
        let mut bpftool = Command::new("bpftool");
        bpftool.args(["link", "detach", "pinned"]).arg(pin);
        let output = bpftool.output().expect("bpftool runs");
        assert!(output.status.success(), "{output:?}");
    }

    /// All that is pinned in it, as paths relative to it, sorted; without the two files that the
    /// kernel itself preloads into every BPF file system.
    #[must_use]
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(self.path(), self.path(), &mut found);
        let preloaded = ["maps.debug", "progs.debug"].map(Path::new);
        found.retain(|path| !preloaded.contains(&path.as_path()));
        found.sort();
        found
    }
}

impl Default for StateDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.path().display());
        }
    }
}

fn collect(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(root, &path, found);
        } else if let Ok(relative) = path.strip_prefix(root) {
            found.push(relative.to_owned());
        }
    }
}

/// Removes what test processes left that were killed before they could.
fn sweep() {
    let entries = fs::read_dir(std::env::temp_dir());
    for entry in entries.into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_stale) {
            let path = entry.path();
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
}
