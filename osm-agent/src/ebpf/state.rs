//! The state directory: a place in a bpffs, one process at a time. [`Layout`] says what is where.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    ops::Deref,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    layout::{Layout, file_name},
    lock::{Patience, wait_for},
    maps::SHARED,
    pins,
    place::{self, BPFFS},
};
use crate::error::{Error, Result, Tried as _};

/// Where the state is unless something else is said.
pub const DEFAULT_STATE_DIR: &str = "/sys/fs/bpf/osm";

/// A state directory, locked.
#[derive(Debug)]
pub struct StateDir {
    layout: Layout,
    // The lock goes with the descriptor.
    _lock: File,
}

impl Deref for StateDir {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

impl StateDir {
    /// Opens and locks a state directory, made and mounted as needed.
    ///
    /// # Errors
    /// Where the directory or the mount can't be made, or another process keeps it.
    pub fn create(path: &Path, patience: Patience) -> Result<Self> {
        let path = &std::path::absolute(path).tried(|| format!("resolve {}", path.display()))?;
        loop {
            place::prepare(path)?;
            fs::create_dir_all(path).tried(|| format!("create {}", path.display()))?;
            if let Some(state) = Self::open(path, patience)? {
                return Ok(state);
            }
            // Another process has just removed it, as the last pod was withdrawn.
        }
    }

    /// Makes the directories, where they are not there.
    ///
    /// # Errors
    /// Where one can't be made.
    pub fn make_directories(&self) -> Result<()> {
        for directory in self.directories() {
            fs::create_dir_all(&directory).tried(|| format!("create {}", directory.display()))?;
        }
        Ok(())
    }

    /// Opens and locks a state directory, if it is there.
    ///
    /// # Errors
    /// Where it is there and is no directory of a bpffs, or another process keeps it.
    pub fn open(path: &Path, patience: Patience) -> Result<Option<Self>> {
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
        wait_for(&lock, path, patience)?;
        // What was locked may have been removed while this process waited.
        let locked = lock.metadata().tried(|| "read the lock's inode")?;
        match fs::metadata(path) {
            Ok(now) if now.ino() == locked.ino() => Ok(Some(Self {
                layout: Layout::new(path),
                _lock: lock,
            })),
            _ => Ok(None),
        }
    }

    /// Where something is made that [`Self::publish`] puts where it belongs.
    ///
    /// # Errors
    /// Where what an earlier attempt left can't be removed.
    pub fn stage(&self, published: &Path) -> Result<PathBuf> {
        let staged = self
            .staging()
            .join(published.file_name().unwrap_or_default());
        pins::detach(&staged)?;
        remove_all(&staged)?;
        fs::create_dir_all(&staged).tried(|| format!("create {}", staged.display()))?;
        Ok(staged)
    }

    /// Puts what was made where it belongs, at once.
    ///
    /// # Errors
    /// Where something is there.
    #[expect(clippy::unused_self, reason = "whoever has it holds the lock")]
    pub fn publish(&self, staged: &Path, published: &Path) -> Result<()> {
        if let Some(directory) = published.parent() {
            // Somebody may have removed it since this was opened.
            fs::create_dir_all(directory).tried(|| format!("create {}", directory.display()))?;
        }
        fs::rename(staged, published).tried(|| format!("create {}", published.display()))
    }

    /// Undoes what an agent that was killed was making.
    ///
    /// # Errors
    /// Where a part of it can't be removed.
    pub fn empty_staging(&self) -> Result<()> {
        for number in self.numbered(&self.staging())? {
            let staged = self.staging().join(file_name(number));
            pins::detach(&staged)?;
            remove_all(&staged)?;
        }
        Ok(())
    }

    /// Refuses a directory in which somebody else keeps things where ours would go.
    ///
    /// # Errors
    /// Says which.
    pub fn refuse_foreign(&self) -> Result<()> {
        let mut foreign = foreign_in(&self.maps(), is_shared_map)?;
        for directory in self.directories().into_iter().skip(1) {
            foreign = foreign.or(foreign_in(&directory, |name| number_of(name).is_some())?);
        }
        let Some(foreign) = foreign else {
            return Ok(());
        };
        Err(Error::input(
            format!("--state-dir {}", self.path().display()),
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
        remove_empty(self.path())
    }

    /// Removes everything of ours but the directory itself.
    ///
    /// # Errors
    /// Where a part of it can't be removed.
    pub fn remove_contents(&self) -> Result<()> {
        for directory in [self.pods(), self.cgroups(), self.staging(), self.versions()] {
            for number in self.numbered(&directory)? {
                let below = directory.join(file_name(number));
                remove_pins(&below, entries(&below)?.iter().filter_map(|it| name_of(it)))?;
            }
            remove_empty(&directory)?;
        }
        remove_pins(&self.maps(), SHARED.iter().map(|map| map.name))
    }
}

/// Removes pins by their names, and the directory if nothing else is in it.
///
/// # Errors
/// Where one is there and can't be removed.
pub fn remove_pins<'a>(directory: &Path, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
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

/// Removes a directory of the agent's own, with all its pins.
///
/// # Errors
/// Where one is there and can't be removed.
pub fn remove_all(directory: &Path) -> Result<()> {
    remove_pins(
        directory,
        entries(directory)?.iter().filter_map(|path| name_of(path)),
    )
}

/// Removes a directory, unless it is not there, in use, or holds what is not ours.
pub fn remove_empty(directory: &Path) -> Result<()> {
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
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
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

/// The last part of a path.
pub fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(OsStr::to_str)
}

fn is_shared_map(name: &str) -> bool {
    SHARED.iter().any(|map| map.name == name)
}

/// The number that a file is called by, if it is.
pub fn number_of(name: &str) -> Option<u64> {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    (name.len() == 16 && name.chars().all(is_digit))
        .then(|| u64::from_str_radix(name, 16).ok())
        .flatten()
}
