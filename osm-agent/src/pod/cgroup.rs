//! A pod's cgroup, and which ones are no pod's.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};

use crate::error::{Error, Result, Tried as _};

/// An open cgroup (v2).
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    directory: File,
}

impl Cgroup {
    /// Opens a pod's cgroup; a relative path is taken from the root of the hierarchy.
    ///
    /// # Errors
    /// Where the path is no cgroup of v2, or not one pod's own.
    pub fn open(path: &Path, root: &Path) -> Result<Self> {
        Self::open_unless(path, root, &Guarded::of_this_process(root))
    }

    /// Opens a cgroup that is none of `guarded`.
    ///
    /// # Errors
    /// Where the path is no cgroup of v2, or one of those.
    pub(crate) fn open_unless(path: &Path, root: &Path, guarded: &Guarded) -> Result<Self> {
        let path = root.join(path);
        let what = format!("--cgroup {}", path.display());
        let example = format!("give a pod's directory below {}", root.display());
        let directory = File::open(&path).map_err(|error| {
            Error::input(&what, format!("cannot be opened ({error})"), &example)
        })?;
        let kind = fstatfs(&directory)
            .map_err(io::Error::from)
            .tried(|| &what)?
            .filesystem_type();
        if kind == CGROUP_SUPER_MAGIC {
            return Err(Error::input(&what, "is a cgroup of version 1", example));
        }
        let metadata = directory.metadata().tried(|| &what)?;
        if kind != CGROUP2_SUPER_MAGIC || !metadata.is_dir() {
            return Err(Error::input(&what, "is not a cgroup", example));
        }
        let path = path.canonicalize().tried(|| format!("resolve {what}"))?;
        if let Some(problem) = guarded.problem(Place::of(&metadata)) {
            return Err(Error::input(&what, problem, example));
        }
        Ok(Self { path, directory })
    }

    /// Opens a cgroup below this one, such as a container's; a relative path is taken from the root of the
    /// hierarchy.
    ///
    /// # Errors
    /// Where the path is no cgroup of v2, or not below this one.
    pub fn open_below(&self, path: &Path, root: &Path) -> Result<Self> {
        let path = root.join(path);
        let what = format!("the sidecar's cgroup {}", path.display());
        let advice = format!("give a directory below {}", self.path.display());
        let resolved = path.canonicalize();
        let resolved = resolved
            .map_err(|error| Error::input(&what, format!("cannot be opened ({error})"), &advice))?;
        if resolved == self.path || !resolved.starts_with(&self.path) {
            return Err(Error::input(&what, "is not below the pod's cgroup", advice));
        }
        let directory = File::open(&resolved).tried(|| format!("open {what}"))?;
        if !directory.metadata().is_ok_and(|it| it.is_dir()) {
            return Err(Error::input(&what, "is not a cgroup", advice));
        }
        Ok(Self {
            path: resolved,
            directory,
        })
    }

    /// The open directory.
    #[must_use]
    pub const fn directory(&self) -> &File {
        &self.directory
    }

    /// The path it was opened by, resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number by which the kernel knows it: the directory's inode.
    ///
    /// # Errors
    /// Where the kernel can't tell.
    pub fn id(&self) -> Result<u64> {
        Ok(self
            .directory
            .metadata()
            .tried(|| "read the cgroup's inode")?
            .ino())
    }

    /// The processes in it and below it.
    ///
    /// # Errors
    /// Where a directory of it can't be read, other than by having gone.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        processes_below(&self.path)
    }

    /// The processes of the one cgroup below it that the kernel knows by a number; none where it is gone.
    ///
    /// # Errors
    /// Where a directory of it can't be read, other than by having gone.
    pub fn processes_of(&self, number: u64) -> io::Result<Vec<i32>> {
        let mut found = Vec::new();
        walk(&self.path, |directory, processes| {
            if fs::metadata(directory).is_ok_and(|it| it.ino() == number) {
                found = processes;
            }
        })?;
        Ok(found)
    }
}

/// The processes in a cgroup and below it, of either version; 0 for those that this PID
/// namespace does not show.
///
/// # Errors
/// Where a directory of it can't be read, other than by having gone.
pub fn processes_below(cgroup: &Path) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    walk(cgroup, |_, processes| found.extend(processes))?;
    Ok(found)
}

/// Shows each cgroup from one on, and the processes that are in it itself.
fn walk(cgroup: &Path, mut show: impl FnMut(&Path, Vec<i32>)) -> io::Result<()> {
    let mut directories = vec![cgroup.to_owned()];
    while let Some(directory) = directories.pop() {
        match look_into(&directory) {
            Ok((processes, below)) => {
                show(&directory, processes);
                directories.extend(below);
            }
            // A threaded cgroup has no processes of its own; a container may just end.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The number of the cgroup (v2) that a process is in.
///
/// # Errors
/// Where the process is gone, or its cgroup can't be seen from here.
pub fn of_process(pid: i32, root: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or_else(|| io::Error::other("it is in no cgroup of version 2"))?;
    Ok(fs::metadata(root.join(path))?.ino())
}

/// The processes of one cgroup, and the cgroups right below it.
fn look_into(directory: &Path) -> io::Result<(Vec<i32>, Vec<PathBuf>)> {
    let text = fs::read_to_string(directory.join("cgroup.procs"))?;
    let processes = text.lines().filter_map(|line| line.parse().ok()).collect();
    let mut below = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if is_gone(&error) => return Ok((processes, below)),
        entries => entries?,
    };
    for entry in entries {
        let kind = entry.and_then(|entry| Ok((entry.file_type()?, entry.path())));
        match kind {
            Ok((kind, path)) if kind.is_dir() => below.push(path),
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    Ok((processes, below))
}

/// Whether a cgroup went away, or has no processes of its own.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
    )
}

/// A directory of the hierarchy, by whichever mount it is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    device: u64,
    inode: u64,
}

impl Place {
    /// What the kernel calls the root of cgroup v2, in `kernel/cgroup/cgroup.c` and kernfs.
    const ROOT_INODE: u64 = 1;

    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// The cgroups that are no pod's.
#[derive(Debug, Default)]
pub struct Guarded {
    roots: Vec<Place>,
    /// Those that hold the agent itself.
    own: Vec<Place>,
}

impl Guarded {
    /// The root, and the cgroups that hold this process.
    pub fn of_this_process(root: &Path) -> Self {
        let own = own_cgroup();
        let mut guarded = Self::roots(root);
        for root in roots(root) {
            let Some(own) = &own else { continue };
            let own = root.join(own);
            let holders = own.ancestors().take_while(|it| it.starts_with(&root));
            guarded.own.extend(holders.filter_map(place));
        }
        guarded
    }

    /// The root alone: a cgroup that pods share with others may hold the agent too, whose
    /// network namespace is no pod's.
    pub fn roots(root: &Path) -> Self {
        Self {
            roots: roots(root).iter().filter_map(|it| place(it)).collect(),
            own: Vec::new(),
        }
    }

    fn problem(&self, place: Place) -> Option<&'static str> {
        if place.inode == Place::ROOT_INODE || self.roots.contains(&place) {
            return Some("is the root cgroup, which holds every process of the node");
        }
        self.own
            .contains(&place)
            .then_some("holds this very process, so it is not a pod's own")
    }
}

/// What is given as the root may be any directory; the mounts tell the true one.
fn roots(given: &Path) -> Vec<PathBuf> {
    [Some(given.to_owned()), cgroup_root().ok()]
        .into_iter()
        .flatten()
        .collect()
}

fn place(path: &Path) -> Option<Place> {
    fs::metadata(path).ok().map(|metadata| Place::of(&metadata))
}

/// Where the agent itself is, as seen from the root of the hierarchy; none where that is
/// outside of what its cgroup namespace shows.
fn own_cgroup() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = PathBuf::from(own.trim_start_matches('/'));
    let is_inside = own
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    is_inside.then_some(own)
}

/// The root of the cgroup v2 hierarchy, wherever it is mounted.
///
/// # Errors
/// Where it is not.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").tried(|| "read /proc/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .ok_or_else(|| {
            Error::input(
                "/proc/mounts",
                "no cgroup v2 hierarchy is mounted",
                "mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`) or give --cgroup-root",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(device: u64, inode: u64) -> Place {
        Place { device, inode }
    }

    #[test]
    fn roots_and_holders_of_the_agent_are_no_pod_s() {
        let guarded = Guarded {
            roots: vec![at(7, 40)],
            own: vec![at(7, 50), at(7, 51)],
        };
        for (place, is_pod_s) in [
            (at(7, 1), false),
            (at(8, 1), false),
            (at(7, 40), false),
            (at(7, 50), false),
            (at(7, 51), false),
            (at(8, 40), true),
            (at(8, 50), true),
            (at(7, 52), true),
        ] {
            assert_eq!(guarded.problem(place).is_none(), is_pod_s, "{place:?}");
        }
    }

    #[test]
    fn root_of_the_mounted_hierarchy_is_guarded_whatever_root_is_given() {
        let Ok(root) = cgroup_root() else { return };
        let guarded = Guarded::of_this_process(Path::new("/nonexistent"));
        let place = place(&root).expect("the root is there");
        assert!(guarded.problem(place).is_some());
    }
}
