//! Cgroups (v2) that are gone after the test.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{is_stale, unique_name};

/// A cgroup; removed on drop.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new one right below the root of the hierarchy.
    #[must_use]
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        let root = root().expect("no cgroup2 in /proc/mounts");
        SWEEP.call_once(|| sweep(&root));
        Self::create(root.join(unique_name()))
    }

    /// A new one inside; drop it before its parent.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self::create(self.path.join(name))
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its ID, which `bpf_get_current_cgroup_id` reports: the inode of the directory.
    #[must_use]
    pub fn id(&self) -> u64 {
        let about = fs::metadata(&self.path).expect("our cgroup exists");
        std::os::unix::fs::MetadataExt::ino(&about)
    }

    /// The processes in it, without those in its children.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let procs = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        procs.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn create(path: PathBuf) -> Self {
        if let Err(error) = fs::create_dir(&path) {
            panic!("can't make cgroup {}: {error}", path.display());
        }
        Self { path }
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes that were just killed keep it busy for a moment.
        let deadline = Instant::now() + Duration::from_secs(2);
        while let Err(error) = fs::remove_dir(&self.path) {
            if error.kind() == io::ErrorKind::NotFound {
                return;
            }
            if Instant::now() > deadline {
                let (path, left) = (self.path.display(), self.processes());
                eprintln!("cgroup {path} stays: {error}; processes in it: {left:?}");
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Where cgroup v2 is mounted.
#[must_use]
pub fn root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| path.into())
    })
}

/// Removes what test processes left that were killed before they could.
fn sweep(root: &Path) {
    for path in children(root) {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(is_stale) {
            remove_tree(&path);
        }
    }
}

fn remove_tree(path: &Path) {
    for child in children(path) {
        remove_tree(&child);
    }
    // Another test may have been faster, and processes may still be dying.
    let _ = fs::remove_dir(path);
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}
