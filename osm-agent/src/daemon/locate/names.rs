//! The names that kubelets give to pods' cgroups.

use std::path::{Component, Path};

/// The length of a UID without dashes: what the kubelet calls pods from files on its node.
const PLAIN_UID: usize = 32;

/// The lengths of a UUID's parts, which dashes join.
const UUID_PARTS: [usize; 5] = [8, 4, 4, 4, 12];

/// The UID of the pod that a process with this cgroup path belongs to, such as
/// `/kubepods.slice/kubepods-podUID.slice/cri-containerd-ID.scope`. The outermost one counts: what
/// is below a pod's directory, the pod itself may have named.
#[must_use]
pub fn uid_of_cgroup(path: &Path) -> Option<String> {
    path.components().find_map(|part| match part {
        Component::Normal(name) => uid_of_directory(name.to_str()?),
        _ => None,
    })
}

/// The same from the text of `/proc/PID/cgroup`. The line of version 2 counts; those of
/// version 1 only where it names no pod.
#[must_use]
pub fn uid_of_process(text: &str) -> Option<String> {
    let uid_in = |line: &str| uid_of_cgroup(Path::new(line.splitn(3, ':').nth(2)?));
    let (v2, v1): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("0::"));
    v2.into_iter().chain(v1).find_map(uid_in)
}

/// The UID of the pod whose directory has this name: `podUID` with the kubelet's driver for
/// cgroupfs, `…-podUID.slice` with underscores for dashes with the one for systemd.
pub(super) fn uid_of_directory(name: &str) -> Option<String> {
    if let Some(slice) = name.strip_suffix(".slice") {
        let (_, escaped) = slice.rsplit_once("-pod")?;
        let uid = escaped.replace('_', "-");
        return (!escaped.contains('-') && is_uid(&uid)).then_some(uid);
    }
    let uid = name.strip_prefix("pod")?;
    is_uid(uid).then(|| uid.to_owned())
}

/// What is not just so is somebody else's directory: `podman` is no pod.
fn is_uid(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths = text.split('-').map(str::len);
    (text.len() == PLAIN_UID && is_hex(text))
        || (lengths.eq(UUID_PARTS) && text.split('-').all(is_hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn names_of_both_drivers_are_known_and_others_are_not() {
        let underscored = UID.replace('-', "_");
        for (name, uid) in [
            (format!("pod{UID}"), Some(UID)),
            (format!("pod{STATIC}"), Some(STATIC)),
            (format!("kubepods-pod{underscored}.slice"), Some(UID)),
            (
                format!("kubepods-burstable-pod{underscored}.slice"),
                Some(UID),
            ),
            (
                format!("kubelet-kubepods-besteffort-pod{underscored}.slice"),
                Some(UID),
            ),
            (format!("kubepods-pod{STATIC}.slice"), Some(STATIC)),
            ("podman".into(), None),
            ("pod".into(), None),
            ("pod1234".into(), None),
            (format!("pod{underscored}"), None),
            (format!("pod{UID}.slice"), None),
            (format!("kubepods-pod{UID}.slice"), None),
            (format!("kubepods-pod{underscored}.scope"), None),
            (format!("kubepods-pod{underscored}"), None),
            (format!("crio-pod{UID}"), None),
            (format!("pod{UID}x"), None),
            (format!("pod{UID}\n"), None),
            (format!("pod{}", UID.replace('a', "g")), None),
            (format!("pod{}", UID.replace('a', "ä")), None),
        ] {
            assert_eq!(uid_of_directory(&name).as_deref(), uid, "{name:?}");
        }
    }

    #[test]
    fn outermost_pod_of_a_path_counts() {
        let other = UID.replace('0', "f");
        for (path, uid) in [
            (format!("/kubepods/burstable/pod{UID}/4711"), Some(UID)),
            (format!("/../../kubepods/pod{UID}"), Some(UID)),
            (format!("/kubepods/pod{UID}/pod{other}/x"), Some(UID)),
            ("/system.slice/podman.service".into(), None),
            ("/".into(), None),
        ] {
            assert_eq!(uid_of_cgroup(Path::new(&path)).as_deref(), uid, "{path}");
        }
    }

    #[test]
    fn line_of_version_1_counts_where_that_of_version_2_names_no_pod() {
        let other = UID.replace('0', "f");
        for (text, uid) in [
            (format!("0::/kubepods/pod{UID}/x\n"), Some(UID)),
            (
                format!("8:pids:/kubepods/pod{UID}/x\n0::/system.slice/containerd.service\n"),
                Some(UID),
            ),
            (
                format!("8:pids:/kubepods/pod{other}/x\n0::/kubepods/pod{UID}\n"),
                Some(UID),
            ),
            ("1:name=systemd:/\n0::/\n".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(uid_of_process(&text).as_deref(), uid, "{text}");
        }
    }
}
