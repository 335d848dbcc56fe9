//! When files may have changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask};

use super::{FileOptions, RETRY};

/// Room for a name of the greatest length, and some more events.
const BUFFER: usize = 4096;

/// Watches directories rather than files, which are replaced by renaming others over them.
#[derive(Debug)]
pub(super) struct Watch {
    stream: EventStream<Vec<u8>>,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    watched: BTreeMap<PathBuf, WatchDescriptor>,
}

impl Watch {
    pub(super) fn new(options: &FileOptions) -> io::Result<Self> {
        Ok(Self {
            stream: Inotify::init()?.into_event_stream(vec![0; BUFFER])?,
            files: options.mesh_config.iter().cloned().collect(),
            directories: options.pods.iter().cloned().collect(),
            watched: BTreeMap::new(),
        })
    }

    /// Watches what the paths lead to now; says whether all of it can be.
    pub(super) fn renew(&mut self) -> bool {
        let wanted = self.wanted();
        let mut watches = self.stream.watches();
        let mut is_complete = true;
        let mut now = BTreeMap::new();
        for path in wanted {
            // A directory that is watched already stays so, with the same number.
            match watches.add(&path, mask()) {
                Ok(descriptor) => {
                    now.insert(path, descriptor);
                }
                Err(error) => {
                    tracing::debug!("cannot watch {}: {error}", path.display());
                    is_complete = false;
                }
            }
        }
        for old in self.watched.values() {
            if !now.values().any(|it| it == old) {
                // The kernel drops those of directories that are gone by itself.
                let _ = watches.remove(old.clone());
            }
        }
        self.watched = now;
        is_complete
    }

    /// Waits until something may have changed.
    pub(super) async fn changed(&mut self) {
        // What changed does not matter, and neither does that the kernel had no room to say it:
        // everything is read again.
        match self.stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!("cannot read what inotify says: {error}");
                tokio::time::sleep(RETRY).await;
            }
            None => std::future::pending().await,
        }
    }

    /// The directories in which a name can come to mean another file: those that hold what is
    /// read, by its own name and by the one that symbolic links lead to.
    fn wanted(&self) -> BTreeSet<PathBuf> {
        let mut wanted = BTreeSet::new();
        for path in self.files.iter().chain(&self.directories) {
            wanted.insert(parent(path));
            if let Ok(real) = fs::canonicalize(path) {
                wanted.insert(parent(&real));
            }
        }
        for directory in &self.directories {
            wanted.insert(directory.clone());
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let links = entries.filter(|it| it.file_type().is_ok_and(|kind| kind.is_symlink()));
            let targets = links.filter_map(|it| fs::canonicalize(it.path()).ok());
            wanted.extend(targets.map(|target| parent(&target)));
        }
        wanted
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => ".".into(),
        None => path.to_owned(),
    }
}

fn mask() -> WatchMask {
    WatchMask::ATTRIB
        | WatchMask::CREATE
        | WatchMask::MODIFY
        | WatchMask::CLOSE_WRITE
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
}
