//! What the machine is like, as far as interception depends on it. Nothing is tried here.

use std::{fs, path::Path};

use nix::sys::{
    resource::{RLIM_INFINITY, Resource, getrlimit},
    statfs::{BPF_FS_MAGIC, statfs},
};
use osm_ebpf_common::{LAYOUT_VERSION, SHARED_LAYOUT};
use serde::Serialize;

use crate::{ebpf::objects, privilege};

/// Something about the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Its name, which does not change.
    pub name: &'static str,
    /// What it is.
    pub value: String,
    /// What that means for interception, where it means something.
    pub note: Option<String>,
}

/// Everything, in the order in which it is shown.
pub(super) fn facts(state_dir: &Path) -> Vec<Fact> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    vec![
        agent(),
        kernel(),
        capabilities(),
        seccomp(),
        cgroups(&mounts),
        kubelet(&mounts),
        bpffs(&mounts, state_dir),
        security_modules(),
        lockdown(),
        unprivileged_bpf(),
        jit(),
        locked_memory(),
    ]
}

fn fact(name: &'static str, value: impl Into<String>, note: Option<&str>) -> Fact {
    Fact {
        name,
        value: value.into(),
        note: note.map(String::from),
    }
}

fn agent() -> Fact {
    let value = format!(
        "{}, programs {:016x}, layout {LAYOUT_VERSION}, shared layout {SHARED_LAYOUT}",
        env!("CARGO_PKG_VERSION"),
        objects::version()
    );
    fact("agent", value, None)
}

fn kernel() -> Fact {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map(|it| it.parse::<u32>().ok());
    let version = (numbers.next().flatten(), numbers.next().flatten());
    let is_old = matches!(version, (Some(major), Some(minor)) if (major, minor) < (5, 10));
    let note = "older than 5.10: nobody has seen eBPF interception there";
    let machine = std::env::consts::ARCH;
    fact(
        "kernel",
        format!("{release} {machine}"),
        is_old.then_some(note),
    )
}

fn capabilities() -> Fact {
    let missing = privilege::missing();
    if missing.is_empty() {
        return fact("privileges", "enough", None);
    }
    let value = format!("lacks {}", missing.join(" and "));
    fact(
        "privileges",
        value,
        Some("run this as root on the node itself"),
    )
}

fn seccomp() -> Fact {
    let status = read("/proc/thread-self/status");
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    match mode.map(str::trim) {
        Some("0") => fact("seccomp", "off", None),
        Some(_) => {
            let note = "the container runtime filters system calls: bpf(2) has to be let through";
            fact("seccomp", "filtered", Some(note))
        }
        None => fact("seccomp", "unknown", None),
    }
}

/// Where hierarchies of a version are mounted, with their options.
fn hierarchies<'a>(mounts: &'a str, kind: &str) -> Vec<(&'a str, &'a str)> {
    let fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(2) == Some(&kind))
        .filter_map(|fields| Some((*fields.get(1)?, *fields.get(3)?)))
        .collect()
}

fn cgroups(mounts: &str) -> Fact {
    let (v2, v1) = (
        hierarchies(mounts, "cgroup2"),
        hierarchies(mounts, "cgroup"),
    );
    match (v2.first(), v1.is_empty()) {
        (Some((path, _)), true) => fact("cgroups", format!("version 2 at {path}"), None),
        (Some((path, _)), false) => {
            let value = format!("hybrid: version 2 at {path}, controllers in version 1");
            let note = "where pods have no cgroup of their own in version 2, give the agent \
                        --shared-cgroup";
            fact("cgroups", value, Some(note))
        }
        (None, _) => {
            let value = if v1.is_empty() {
                "none"
            } else {
                "version 1 only"
            };
            let note = "eBPF needs version 2: mount -t cgroup2 none /sys/fs/cgroup/unified";
            fact("cgroups", value, Some(note))
        }
    }
}

/// By the names that its drivers give to the directory of all pods.
fn kubelet(mounts: &str) -> Fact {
    let roots = [
        hierarchies(mounts, "cgroup2"),
        hierarchies(mounts, "cgroup"),
    ]
    .concat();
    for (driver, name) in [("systemd", "kubepods.slice"), ("cgroupfs", "kubepods")] {
        let found = roots
            .iter()
            .map(|(root, _)| Path::new(root).join(name))
            .find(|path| path.is_dir());
        if let Some(path) = found {
            return fact(
                "kubelet",
                format!("{driver} driver: {}", path.display()),
                None,
            );
        }
    }
    fact("kubelet", "no cgroup of pods is seen", None)
}

fn bpffs(mounts: &str, state_dir: &Path) -> Fact {
    let mounted: Vec<_> = hierarchies(mounts, "bpf").iter().map(|it| it.0).collect();
    let existing = state_dir.ancestors().find(|it| it.exists());
    let is_there = existing
        .and_then(|path| statfs(path).ok())
        .is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    let value = if mounted.is_empty() {
        "not mounted".into()
    } else {
        mounted.join(", ")
    };
    let note = format!(
        "none holds {}: the agent mounts one there, which others see only where mounts are shared",
        state_dir.display()
    );
    fact("bpffs", value, (!is_there).then_some(&note))
}

fn security_modules() -> Fact {
    let text = read("/sys/kernel/security/lsm");
    if text.is_empty() {
        return fact("lsm", "unknown: no securityfs", None);
    }
    let confining = text
        .split(',')
        .find(|it| matches!(*it, "selinux" | "apparmor"));
    let note = confining.map(|it| {
        format!(
            "where bpf(2) is refused without a reason, look for denials of {it} in the kernel's log"
        )
    });
    fact("lsm", text.clone(), note.as_deref())
}

fn lockdown() -> Fact {
    let text = read("/sys/kernel/security/lockdown");
    let mode = text.split(['[', ']']).nth(1);
    match mode {
        None => fact("lockdown", "unknown: no securityfs", None),
        Some("confidentiality") => {
            let note = "programs may not read kernel memory: the loopback shortcut is not taken";
            fact("lockdown", "confidentiality", Some(note))
        }
        Some(mode) => fact("lockdown", mode, None),
    }
}

fn unprivileged_bpf() -> Fact {
    let value = read("/proc/sys/kernel/unprivileged_bpf_disabled");
    let note = (value == "0").then_some("anybody may load some kinds of programs; set it to 2");
    let value = if value.is_empty() { "unknown" } else { &value };
    fact("unprivileged_bpf_disabled", value, note)
}

fn jit() -> Fact {
    let value = read("/proc/sys/net/core/bpf_jit_enable");
    let note = (value == "0").then_some("programs are interpreted, which is slow; set it to 1");
    let value = if value.is_empty() { "unknown" } else { &value };
    fact("bpf_jit_enable", value, note)
}

fn locked_memory() -> Fact {
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((RLIM_INFINITY, _)) => fact("memlock", "unlimited", None),
        Ok((soft, _)) => fact("memlock", format!("{soft} bytes"), None),
        Err(error) => fact("memlock", format!("unknown: {error}"), None),
    }
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().into()
}
