//! What a test needs of the machine.
//!
//! Where something is missing, a test is skipped with a printed line; in CI (`CI` is set) it fails.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crate::agent;
use crate::cgroup;
use crate::netns::has_ipv6;

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Need {
    /// UID 0.
    Root,
    /// A mounted cgroup v2 hierarchy.
    CgroupV2,
    /// IPv6.
    Ipv6,
    /// MPTCP, switched on.
    Mptcp,
    /// `io_uring`, not switched off.
    IoUring,
    /// Time namespaces.
    TimeNamespaces,
    /// A kernel on which pods are intercepted by eBPF: 5.10 and later ones are, of others the agent is asked.
    Ebpf,
    /// The agent's binary.
    Agent,
    /// The agent's binary with another layout of its maps.
    NextAgent,
    /// A program in `PATH`, which knows `--version`, `-V` or `-v`.
    Program(&'static str),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::CgroupV2 => f.write_str("a mounted cgroup v2 hierarchy"),
            Self::Ipv6 => f.write_str("IPv6"),
            Self::Mptcp => f.write_str("MPTCP"),
            Self::IoUring => f.write_str("io_uring"),
            Self::TimeNamespaces => f.write_str("time namespaces"),
            Self::Ebpf => f.write_str("a kernel that can do eBPF in full"),
            Self::Agent => f.write_str("the osm-agent binary (OSM_AGENT names it)"),
            Self::NextAgent => {
                f.write_str("osm-agent built with --features next-layout (OSM_AGENT_NEXT names it)")
            }
            Self::Program(name) => write!(f, "the program {name}"),
        }
    }
}

impl Need {
    fn is_met(self) -> bool {
        match self {
            Self::Root => nix::unistd::geteuid().is_root(),
            Self::CgroupV2 => cgroup::root().is_some(),
            Self::Ipv6 => has_ipv6(),
            Self::Mptcp => setting("net/mptcp/enabled") == Some(1),
            // 0: everybody may; absent before Linux 6.6.
            Self::IoUring => setting("kernel/io_uring_disabled").unwrap_or(0) == 0,
            Self::TimeNamespaces => Path::new("/proc/self/ns/time").exists(),
            Self::Ebpf => can_do_ebpf(),
            Self::Agent => agent::binary().is_some(),
            Self::NextAgent => agent::next_binary().is_some(),
            Self::Program(name) => ["--version", "-V", "-v"]
                .iter()
                .any(|flag| runs(name, flag)),
        }
    }
}

/// Is anything of this missing? Then the test should return: `if missing(&[Need::Mptcp]) { return; }`.
/// Says what is missing, and panics in CI.
#[must_use]
#[track_caller]
pub fn missing(needs: &[Need]) -> bool {
    let Some(need) = needs.iter().find(|need| !need.is_met()) else {
        return false;
    };
    assert!(!in_ci(), "this test needs {need}, and CI must not skip it");
    let test = std::thread::current();
    println!("skipped: {} needs {need}", test.name().unwrap_or("test"));
    true
}

/// Panics unless mounts that this process makes are its own and go with it.
pub fn assert_private_mounts() {
    let own = mount_namespace("self");
    let differs = |pid: &str| mount_namespace(pid).is_some_and(|other| Some(other) != own);
    let private = match mount_namespace("1") {
        Some(first) => Some(first) != own,
        // Where init is hidden, whoever called unshare is an ancestor.
        None => ancestors().iter().any(|pid| differs(pid)),
    };
    assert!(
        private,
        "this test mounts a file system and must run in a mount namespace of its own: \
         cargo xtask test, or unshare --mount --propagation private cargo test"
    );
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty())
}

fn can_do_ebpf() -> bool {
    static CAN: LazyLock<bool> = LazyLock::new(|| is_recent() || agent_takes_ebpf());
    *CAN
}

/// A recent kernel that can't do it is no reason to leave out a test.
fn is_recent() -> bool {
    const FIRST: [u32; 2] = [5, 10];
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let numbers = release.split('.').map_while(|number| number.parse().ok());
    let numbers: Vec<u32> = numbers.take(2).collect();
    numbers.as_slice() >= &FIRST[..]
}

fn agent_takes_ebpf() -> bool {
    let Some(agent) = agent::binary() else {
        return false;
    };
    let output = Command::new(agent).args(["check", "-o", "json"]).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    serde_json::from_slice(&text).is_ok_and(|check: serde_json::Value| check["mode"] == "ebpf")
}

fn setting(name: &str) -> Option<u32> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    text.trim().parse().ok()
}

fn runs(program: &str, flag: &str) -> bool {
    let mut command = Command::new(program);
    let silent = command
        .arg(flag)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

fn mount_namespace(pid: &str) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

fn ancestors() -> Vec<String> {
    let mut found = Vec::new();
    let mut pid = "self".to_owned();
    while let Some(parent) = parent(&pid).filter(|parent| parent != "0") {
        pid.clone_from(&parent);
        found.push(parent);
    }
    found
}

fn parent(pid: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(line.trim().to_owned())
}
