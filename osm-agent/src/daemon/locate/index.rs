//! Which cgroups are pods'.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::names::uid_of_directory;
use crate::{
    error::{Result, Tried as _},
    pod::{Guarded, is_gone},
};

/// How deep a pod's directory may be. Nodes that are containers themselves nest two kubelets'
/// hierarchies, of four or five levels each.
const MAX_DEPTH: usize = 16;

/// The pods' cgroups, as one walk of the hierarchy found them.
#[derive(Debug)]
pub struct Index {
    root: PathBuf,
    /// Who owns the root: what others have made is not the kubelet's.
    owner: u32,
    pods: Pods,
    /// Cgroup id → path, of all cgroups above and besides pods' containers.
    by_id: HashMap<u64, PathBuf>,
    /// The same of the rest, which is read when it is asked for.
    deep: OnceLock<HashMap<u64, PathBuf>>,
    /// Of a version 1 hierarchy, where that is wanted.
    legacy: Pods,
    /// What no pod may have of its own.
    pub(super) guarded: Guarded,
    /// What pods may not even share.
    pub(super) roots: Guarded,
}

type Pods = HashMap<String, Vec<PathBuf>>;

/// What is known of a pod's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directory<'a> {
    /// There is none.
    None,
    /// It is this.
    One(&'a Path),
    /// Which one it is can't be told.
    Many(&'a Path, &'a Path),
}

impl Index {
    /// Walks the cgroup v2 hierarchy from its root, and one of version 1 where pods may have
    /// their directories there only.
    ///
    /// # Errors
    /// Where the root can't be read.
    pub(super) fn read(root: &Path, with_legacy: bool) -> Result<Self> {
        let what = || format!("read the cgroup hierarchy at {}", root.display());
        let owner = fs::metadata(root).tried(what)?.uid();
        let mut index = Self {
            root: root.to_owned(),
            owner,
            pods: Pods::new(),
            by_id: HashMap::new(),
            deep: OnceLock::new(),
            legacy: Pods::new(),
            guarded: Guarded::of_this_process(root),
            roots: Guarded::roots(root),
        };
        let (pods, by_id) = (&mut index.pods, &mut index.by_id);
        walk(root, |name, id, path| {
            by_id.insert(id, path.to_owned());
            note_pod(pods, name, path)
        })
        .tried(what)?;
        if with_legacy {
            index.legacy = legacy_pods();
        }
        Ok(index)
    }

    /// How many pods have a cgroup.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    pub(super) fn directory(&self, uid: &str) -> Directory<'_> {
        let found = self.pods.get(uid).map_or(&[][..], Vec::as_slice);
        let [first, second, ..] = found else {
            return found
                .first()
                .map_or(Directory::None, |it| Directory::One(it));
        };
        // Whom a part of the hierarchy is delegated to can make any name there.
        let is_kubelets =
            |it: &&PathBuf| fs::metadata(it).is_ok_and(|about| about.uid() == self.owner);
        let mut own = found.iter().filter(is_kubelets);
        match (own.next(), own.next()) {
            (Some(only), None) => Directory::One(only),
            (Some(one), Some(other)) => Directory::Many(one, other),
            _ => Directory::Many(first, second),
        }
    }

    /// Where version 1 has the pod's processes.
    pub(super) fn legacy(&self, uid: &str) -> Option<&Path> {
        match self.legacy.get(uid).map(Vec::as_slice) {
            Some([only]) => Some(only),
            _ => None,
        }
    }

    /// The cgroup with this id, wherever it is.
    pub(super) fn path_of(&self, id: u64) -> Option<&Path> {
        let deep = || {
            let mut all = HashMap::new();
            // The root could be read a moment ago; what can't be is not found.
            let _ = walk(&self.root, |_, id, path| {
                all.insert(id, path.to_owned());
                true
            });
            all
        };
        self.by_id
            .get(&id)
            .or_else(|| self.deep.get_or_init(deep).get(&id))
            .map(PathBuf::as_path)
    }
}

/// Notes a pod's directory; says whether to look below it. What is in a pod's, the pod may have
/// named.
fn note_pod(pods: &mut Pods, name: &str, path: &Path) -> bool {
    let Some(uid) = uid_of_directory(name) else {
        return true;
    };
    pods.entry(uid).or_default().push(path.to_owned());
    false
}

/// Visits the directories below one, those above first: name, inode, path. Where `visit` says
/// no, nothing below is visited. Symbolic links are not followed.
fn walk(root: &Path, mut visit: impl FnMut(&str, u64, &Path) -> bool) -> io::Result<()> {
    let mut open = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = open.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            Err(error) => {
                if !is_gone(&error) {
                    tracing::warn!("cannot read {}: {error}", directory.display());
                }
                continue;
            }
        };
        for entry in entries.map_while(io::Result::ok) {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let (name, path) = (entry.file_name(), entry.path());
            // No kubelet names a directory in anything but ASCII.
            let name = name.to_str().unwrap_or_default();
            if visit(name, entry.ino(), &path) && depth + 1 < MAX_DEPTH {
                open.push((path, depth + 1));
            }
        }
    }
    Ok(())
}

/// The pods' directories in the first hierarchy of version 1 that has any.
fn legacy_pods() -> Pods {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut found = legacy_hierarchies(&mounts).into_iter().map(|root| {
        let mut pods = Pods::new();
        if let Err(error) = walk(&root, |name, _, path| note_pod(&mut pods, name, path)) {
            tracing::warn!("cannot read {}: {error}", root.display());
        }
        pods
    });
    found.find(|pods| !pods.is_empty()).unwrap_or_default()
}

/// Where hierarchies of version 1 are mounted, those with the usual controllers first.
fn legacy_hierarchies(mounts: &str) -> Vec<PathBuf> {
    const USUAL: [&str; 3] = ["pids", "memory", "cpu"];
    let fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let mut found: Vec<_> = fields
        .filter(|fields| fields.get(2) == Some(&"cgroup"))
        .filter_map(|fields| {
            let (path, options) = (fields.get(1)?, fields.get(3)?);
            let rank = USUAL
                .iter()
                .position(|it| options.split(',').any(|option| option == *it));
            Some((rank.unwrap_or(USUAL.len()), PathBuf::from(path)))
        })
        .collect();
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_with_the_usual_controllers_come_first() {
        let mounts = "cgroup /c/freezer cgroup rw,freezer 0 0\n\
                      cgroup2 /c/unified cgroup2 rw 0 0\n\
                      cgroup /c/memory cgroup rw,memory 0 0\n\
                      cgroup /c/pids cgroup rw,relatime,pids 0 0\n\
                      tmpfs /c tmpfs rw,pids 0 0\n";
        let expected = ["/c/pids", "/c/memory", "/c/freezer"].map(PathBuf::from);
        assert_eq!(legacy_hierarchies(mounts), expected);
    }
}
