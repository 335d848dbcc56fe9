//! Where things are pinned. To read there takes no lock.
//!
//! ```text
//! <state dir>/maps/<MAP>                       maps that all versions of the agent share
//! <state dir>/versions/<version>/<MAP>         maps of one version, or of one layout
//! <state dir>/versions/<version>/<program>     programs of one version
//! <state dir>/pods/<cookie>/<link>             a pod's links, put there by one rename
//! <state dir>/cgroups/<id>/<link>              links of a cgroup that several pods share
//! <state dir>/staging/<any of these>/          what is being made; of no worth after a crash
//! ```

use std::path::{Path, PathBuf};

use super::state::{entries, name_of, number_of};
use crate::error::Result;

/// The places in one state directory.
#[derive(Clone, Debug)]
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// Of the directory at a path.
    pub fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// Where the shared maps are pinned.
    pub fn maps(&self) -> PathBuf {
        self.path.join("maps")
    }

    /// Where versions keep their own maps and programs.
    pub fn versions(&self) -> PathBuf {
        self.path.join("versions")
    }

    /// Where one version keeps its own maps and programs.
    pub fn version(&self, version: u64) -> PathBuf {
        self.versions().join(file_name(version))
    }

    /// Where the pods' links are pinned.
    pub fn pods(&self) -> PathBuf {
        self.path.join("pods")
    }

    /// Where the links of cgroups are pinned that several pods share.
    pub fn cgroups(&self) -> PathBuf {
        self.path.join("cgroups")
    }

    /// The directory of one such cgroup.
    pub fn cgroup(&self, id: u64) -> PathBuf {
        self.cgroups().join(file_name(id))
    }

    /// Where things are pinned that are being made.
    pub fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }

    /// The directory of one pod. bpffs allows no dots in names, so it is not the pod's name.
    pub fn pod(&self, netns_cookie: u64) -> PathBuf {
        self.pods().join(file_name(netns_cookie))
    }

    /// All of these.
    pub fn directories(&self) -> [PathBuf; 5] {
        [
            self.maps(),
            self.versions(),
            self.pods(),
            self.cgroups(),
            self.staging(),
        ]
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pods that have links here, by their netns cookies.
    ///
    /// # Errors
    /// Where the directory can't be read.
    pub fn linked_pods(&self) -> Result<Vec<u64>> {
        self.numbered(&self.pods())
    }

    /// The directories in one of the directories that are called by numbers.
    ///
    /// # Errors
    /// Where it can't be read.
    #[expect(
        clippy::unused_self,
        reason = "only directories of a layout are called by numbers"
    )]
    pub fn numbered(&self, directory: &Path) -> Result<Vec<u64>> {
        let found = entries(directory)?.into_iter();
        let directories = found.filter(|path| path.is_dir());
        Ok(directories
            .filter_map(|path| number_of(name_of(&path)?))
            .collect())
    }
}

/// What a directory is called by.
pub fn file_name(number: u64) -> String {
    format!("{number:016x}")
}
