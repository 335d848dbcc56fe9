//! Processes of a pod that run as the sidecar's user.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use procfs::process::Process;

use crate::{
    cli::out::plain,
    ebpf::view::PodView,
    pod::{cgroup_of_process, cgroup_root},
};

/// What they are, as far as they can be looked at.
#[derive(Debug, Default)]
pub struct Users {
    /// Outside of the sidecar's cgroup, where that is known: number and command.
    pub strangers: Vec<(i32, String)>,
    /// In how many cgroups there are some.
    pub cgroups: usize,
    /// Whether the sidecar's cgroup is known, and gone.
    pub is_sidecar_gone: bool,
}

impl Users {
    /// Those of a pod.
    pub fn of(pod: &PodView) -> Self {
        let (Some(user), Ok(root)) = (pod.sidecar_uid, cgroup_root()) else {
            return Self::default();
        };
        let (mut found, mut cgroups) = (Self::default(), BTreeSet::new());
        for pid in pod.processes().unwrap_or_default() {
            let Some((command, cgroup)) = look_at(pid, user, &root) else {
                continue;
            };
            cgroups.insert(cgroup);
            if pod.sidecar_cgroup.is_some_and(|sidecar| sidecar != cgroup) {
                found.strangers.push((pid, plain(&command)));
            }
        }
        found.cgroups = cgroups.len();
        found.is_sidecar_gone = pod.sidecar_cgroup.is_some_and(|id| {
            let pod = pod.cgroup_path.as_deref();
            pod.is_some_and(|pod| find_below(pod, id).is_none())
        });
        found
    }
}

/// Command and cgroup of a process, if it is of that user. One that has just ended is none.
fn look_at(pid: i32, user: u32, root: &Path) -> Option<(String, u64)> {
    let status = Process::new(pid).ok()?.status().ok()?;
    if status.ruid != user {
        return None;
    }
    Some((status.name, cgroup_of_process(pid, root).ok()?))
}

/// The cgroup of that number below another one.
fn find_below(above: &Path, id: u64) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let entries = above.read_dir().ok()?.flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
    directories.map(|entry| entry.path()).find_map(|path| {
        let is_it = path.metadata().is_ok_and(|it| it.ino() == id);
        if is_it {
            Some(path)
        } else {
            find_below(&path, id)
        }
    })
}
