//! In which cgroup a pod's sidecar runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    daemon::source::SidecarPlace,
    error::Result,
    pod::{Cgroup, SidecarCgroup, processes_below},
};

/// The cgroup that the sidecar's processes are in, if some are there as yet. What the kubelet and the
/// runtime named lies right below the pod's cgroup; below that, a container may name what it likes.
///
/// # Errors
/// Where the one that is given is not the pod's.
pub(super) fn cgroup(
    place: Option<&SidecarPlace>,
    pod: &Cgroup,
    root: &Path,
) -> Result<SidecarCgroup> {
    let opened = match place {
        // It may come yet.
        Some(SidecarPlace::Cgroup(path)) if !root.join(path).exists() => None,
        Some(SidecarPlace::Cgroup(path)) => Some(pod.open_below(path, root)?),
        Some(SidecarPlace::Container(id)) => of_container(pod.path(), id)
            .and_then(populated)
            .and_then(|path| pod.open_below(&path, root).ok()),
        None => None,
    };
    Ok(opened.map_or(SidecarCgroup::Unknown, SidecarCgroup::Known))
}

fn of_container(pod: &Path, id: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir(pod).ok()?.map_while(Result::ok);
    entries
        .find(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| is_of_container(name, id))
        })
        .map(|entry| entry.path())
}

/// `ID`, or `RUNTIME-ID.scope` with systemd.
fn is_of_container(directory: &str, id: &str) -> bool {
    let name = directory.strip_suffix(".scope").unwrap_or(directory);
    let runtime = name.strip_suffix(id).map(|it| it.strip_suffix('-'));
    // CRI-O has a process of its own beside each container.
    !id.is_empty() && (name == id || matches!(runtime, Some(Some(it)) if it != "crio-conmon"))
}

/// The cgroup itself, or the one below it that its processes are in: crun makes one for them.
fn populated(path: PathBuf) -> Option<PathBuf> {
    let own = fs::read_to_string(path.join("cgroup.procs")).ok()?;
    if !own.trim().is_empty() {
        return Some(path);
    }
    let entries = fs::read_dir(&path).ok()?.map_while(Result::ok);
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
    let mut used = directories
        .map(|entry| entry.path())
        .filter(|path| processes_below(path).is_ok_and(|processes| !processes.is_empty()));
    used.next().and_then(populated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_a_container_is_known_by_its_id() {
        const ID: &str = "4f2a";
        for (name, expected) in [
            ("4f2a", true),
            ("cri-containerd-4f2a.scope", true),
            ("crio-4f2a.scope", true),
            ("docker-4f2a.scope", true),
            ("crio-conmon-4f2a.scope", false),
            ("cri-containerd-14f2a.scope", false),
            ("cri-containerd-4f2a1.scope", false),
            ("14f2a", false),
            ("", false),
        ] {
            assert_eq!(is_of_container(name, ID), expected, "{name}");
        }
        assert!(!is_of_container("x-", ""));
    }
}
