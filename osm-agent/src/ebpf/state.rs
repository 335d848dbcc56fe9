//! The state directory: a place in a bpffs, one process at a time.
//!
//! ```text
//! <state dir>/maps/<MAP>             shared maps
//! <state dir>/programs/<program>     shared programs
//! <state dir>/pods/<cookie>/<link>   a pod's links, put there by one rename
//! <state dir>/staging/<cookie>/      a pod being enrolled; of no worth after a crash
//! ```

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::error::{Error, Result, Tried as _};

/// Where the state is unless something else is said.
pub const DEFAULT_STATE_DIR: &str = "/sys/fs/bpf/osm";
/// Where a bpffs usually is.
const BPFFS: &str = "/sys/fs/bpf";

/// A state directory, locked.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    // The lock goes with the descriptor.
    _lock: File,
}

impl StateDir {
    /// Opens and locks a state directory, made and mounted as needed.
    ///
    /// # Errors
    /// Where the directory or the mount can't be made.
    pub fn create(path: &Path) -> Result<Self> {
        loop {
            ensure_bpffs(path)?;
            fs::create_dir_all(path).tried(|| format!("create {}", path.display()))?;
            if let Some(state) = Self::open(path)? {
                for directory in [
                    state.maps(),
                    state.programs(),
                    state.pods(),
                    state.staging(),
                ] {
                    fs::create_dir_all(&directory)
                        .tried(|| format!("create {}", directory.display()))?;
                }
                return Ok(state);
            }
            // Another process has just removed it, as the last pod was withdrawn.
        }
    }

    /// Opens and locks a state directory, if it is there.
    ///
    /// # Errors
    /// Where it is there and is no directory of a bpffs.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let lock = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).tried(|| format!("open {}", path.display())),
        };
        if !is_bpffs(path) {
            return Err(Error::input(
                format!("--state-dir {}", path.display()),
                "is not on a bpffs",
                format!("use a directory below {BPFFS}, or one that does not exist yet"),
            ));
        }
        lock.lock().tried(|| format!("lock {}", path.display()))?;
        // What was locked may have been removed while this process waited.
        let locked = lock.metadata().tried(|| "read the lock's inode")?;
        match fs::metadata(path) {
            Ok(now) if now.ino() == locked.ino() => Ok(Some(Self {
                path: path.into(),
                _lock: lock,
            })),
            _ => Ok(None),
        }
    }

    /// Where the shared maps are pinned.
    pub fn maps(&self) -> PathBuf {
        self.path.join("maps")
    }

    /// Where the shared programs are pinned.
    pub fn programs(&self) -> PathBuf {
        self.path.join("programs")
    }

    /// Where the pods' links are pinned.
    pub fn pods(&self) -> PathBuf {
        self.path.join("pods")
    }

    /// Where the links of a pod that is being enrolled are pinned.
    pub fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }

    /// The directory of one pod. bpffs allows no dots in names, so it is not the pod's name.
    pub fn pod(&self, netns_cookie: u64) -> PathBuf {
        self.pods().join(pod_file_name(netns_cookie))
    }

    /// The directory of one pod that is being enrolled.
    pub fn staged_pod(&self, netns_cookie: u64) -> PathBuf {
        self.staging().join(pod_file_name(netns_cookie))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes everything; the directory itself stays where a bpffs is mounted on it.
    ///
    /// # Errors
    /// Where a part of it can't be removed.
    pub fn remove(self) -> Result<()> {
        for directory in [self.pods(), self.staging(), self.programs(), self.maps()] {
            remove_tree(&directory)?;
        }
        match fs::remove_dir(&self.path) {
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                Err(error).tried(|| format!("remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Removes a directory of pins, if it is there.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).tried(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn pod_file_name(netns_cookie: u64) -> String {
    format!("{netns_cookie:016x}")
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a bpffs where there is none yet: at its usual place if the directory is below it,
/// else at the directory itself.
fn ensure_bpffs(path: &Path) -> Result<()> {
    let existing = path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or_else(|| Path::new("/"));
    if is_bpffs(existing) {
        return Ok(());
    }
    let mount_point = if path.starts_with(BPFFS) && Path::new(BPFFS).is_dir() {
        Path::new(BPFFS)
    } else {
        if existing == path && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
        {
            return Err(Error::input(
                format!("--state-dir {}", path.display()),
                "exists, is not on a bpffs and is not empty",
                format!("use a directory below {BPFFS}, or an empty one"),
            ));
        }
        fs::create_dir_all(path).tried(|| format!("create {}", path.display()))?;
        path
    };
    mount(
        Some("bpf"),
        mount_point,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(io::Error::from)
    .tried(|| format!("mount a bpffs at {}", mount_point.display()))
}
