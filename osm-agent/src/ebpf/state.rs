//! The state directory: a place in a bpffs, one process at a time.
//!
//! ```text
//! <state dir>/maps/<MAP>             shared maps
//! <state dir>/programs/<program>     shared programs
//! <state dir>/pods/<cookie>/<link>   a pod's links, put there by one rename
//! <state dir>/staging/<cookie>/      a pod being enrolled; of no worth after a crash
//! ```

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    links::{self, CGROUP_HOOKS},
    maps::NAMES,
    place::{self, BPFFS},
};
use crate::error::{Error, Result, Tried as _};

/// Where the state is unless something else is said.
pub const DEFAULT_STATE_DIR: &str = "/sys/fs/bpf/osm";

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
        let path = &std::path::absolute(path).tried(|| format!("resolve {}", path.display()))?;
        loop {
            place::prepare(path)?;
            fs::create_dir_all(path).tried(|| format!("create {}", path.display()))?;
            if let Some(state) = Self::open(path)? {
                return Ok(state);
            }
            // Another process has just removed it, as the last pod was withdrawn.
        }
    }

    /// Makes the four directories, where they are not there.
    ///
    /// # Errors
    /// Where one can't be made.
    pub fn make_directories(&self) -> Result<()> {
        for directory in [self.maps(), self.programs(), self.pods(), self.staging()] {
            fs::create_dir_all(&directory).tried(|| format!("create {}", directory.display()))?;
        }
        Ok(())
    }

    /// Opens and locks a state directory, if it is there.
    ///
    /// # Errors
    /// Where it is there and is no directory of a bpffs.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let lock = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(_) if path.is_file() => return Err(place::not_a_directory(path, path)),
            Err(error) => return Err(error).tried(|| format!("open {}", path.display())),
        };
        if !place::is_bpffs(path) {
            return Err(Error::input(
                format!("--state-dir {}", path.display()),
                "is not on a bpffs",
                format!("use a directory below {BPFFS}, or one that does not exist yet"),
            ));
        }
        if !path.is_dir() {
            return Err(place::not_a_directory(path, path));
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

    /// How many pods have links here.
    ///
    /// # Errors
    /// Where the directory can't be read.
    pub fn count_pods(&self) -> Result<usize> {
        Ok(self.pod_directories(&self.pods())?.len())
    }

    /// The pods that were being enrolled when an agent was killed.
    ///
    /// # Errors
    /// Where the directory can't be read.
    pub fn staged_pods(&self) -> Result<Vec<PathBuf>> {
        self.pod_directories(&self.staging())
    }

    /// Refuses a directory in which somebody else keeps things where ours would go.
    ///
    /// # Errors
    /// Says which.
    pub fn refuse_foreign(&self) -> Result<()> {
        let mut foreign = foreign_in(&self.maps(), |name| NAMES.contains(&name))?;
        if foreign.is_none() {
            foreign = foreign_in(&self.programs(), is_program)?;
        }
        for directory in [self.pods(), self.staging()] {
            if foreign.is_none() {
                foreign = foreign_in(&directory, is_pod_file_name)?;
            }
            if foreign.is_some() {
                break;
            }
            for pod in self.pod_directories(&directory)? {
                foreign = foreign.or(foreign_in(&pod, is_link)?);
            }
        }
        let Some(foreign) = foreign else {
            return Ok(());
        };
        Err(Error::input(
            format!("--state-dir {}", self.path.display()),
            format!("{} is not of this agent's making", foreign.display()),
            "use a directory of the agent's own",
        ))
    }

    /// Removes everything of ours; the directory itself stays where a bpffs is mounted on it, or
    /// somebody else has something in it.
    ///
    /// # Errors
    /// Where a part of it can't be removed.
    pub fn remove(self) -> Result<()> {
        self.remove_contents()?;
        remove_empty(&self.path)
    }

    /// Removes everything of ours but the directory itself.
    ///
    /// # Errors
    /// Where a part of it can't be removed.
    pub fn remove_contents(&self) -> Result<()> {
        for directory in [self.pods(), self.staging()] {
            for pod in self.pod_directories(&directory)? {
                remove_pins(&pod, links::names())?;
            }
            remove_empty(&directory)?;
        }
        let programs = CGROUP_HOOKS.iter().map(|hook| hook.program);
        remove_pins(&self.programs(), programs)?;
        remove_pins(&self.maps(), NAMES)
    }

    #[expect(clippy::unused_self, reason = "whoever has it holds the lock")]
    fn pod_directories(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        let mut found = entries(directory)?;
        found.retain(|path| name_of(path).is_some_and(is_pod_file_name) && path.is_dir());
        Ok(found)
    }
}

/// Removes pins by their names, and the directory if nothing else is in it.
///
/// # Errors
/// Where one is there and can't be removed.
pub fn remove_pins(directory: &Path, names: impl IntoIterator<Item = &'static str>) -> Result<()> {
    for name in names {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if !is_absent(&error) => {
                return Err(error).tried(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    remove_empty(directory)
}

/// Removes a directory, unless it is not there, in use, or holds what is not ours.
fn remove_empty(directory: &Path) -> Result<()> {
    match fs::remove_dir(directory) {
        Err(error)
            if !is_absent(&error)
                && !matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
                ) =>
        {
            Err(error).tried(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// What is in a directory, if it is there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let tried = || format!("read {}", directory.display());
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .tried(tried),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(error).tried(tried),
    }
}

/// The first thing in a directory whose name is none of ours; or what is in its place.
fn foreign_in(directory: &Path, is_ours: impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    if directory.exists() && !directory.is_dir() {
        return Ok(Some(directory.into()));
    }
    let found = entries(directory)?;
    Ok(found
        .into_iter()
        .find(|path| !name_of(path).is_some_and(&is_ours)))
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(OsStr::to_str)
}

fn is_program(name: &str) -> bool {
    CGROUP_HOOKS.iter().any(|hook| hook.program == name)
}

fn is_link(name: &str) -> bool {
    links::names().any(|link| link == name)
}

fn pod_file_name(netns_cookie: u64) -> String {
    format!("{netns_cookie:016x}")
}

fn is_pod_file_name(name: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    name.len() == 16 && name.chars().all(is_digit)
}
