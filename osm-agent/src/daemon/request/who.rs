//! Who a peer is, by the kernel's word alone.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::socket::{
        getsockopt,
        sockopt::{PeerCredentials, PeerPidfd},
    },
};

use super::outcome::{Outcome, Refusal};

/// The process that connected.
#[derive(Debug)]
pub(super) struct Who {
    pub pid: i32,
    /// As the agent's user namespace numbers it.
    pub uid: u32,
    /// Device and inode of its network namespace.
    pub netns: (u64, u64),
    /// Its cgroup of v2, relative to the root of the hierarchy.
    pub cgroup: PathBuf,
    /// What tells its pod from others besides the namespace, where there is such a cgroup.
    pub pod: Option<PathBuf>,
    life: Life,
}

/// What shows that the number is still the same process's.
#[derive(Debug)]
enum Life {
    /// Readable as soon as the process is over. Linux 6.5.
    Pidfd(OwnedFd),
    /// When it started, in clock ticks since boot. A process that took over the number before
    /// it was read goes unnoticed: its pod is then asked for instead, which harms nobody.
    Started(u64),
}

impl Who {
    /// Finds out who is on the other side. Reads /proc: not for a thread that must not wait.
    pub fn of(stream: impl AsFd) -> Result<Self, Refusal> {
        let peer = getsockopt(&stream, PeerCredentials).map_err(|error| gone(&error.into()))?;
        let pid = peer.pid();
        if pid == 0 {
            return Err(Refusal::new(
                Outcome::Invisible,
                "the agent can't see this process, as it is in another PID namespace: the agent \
                 has to run with hostPID: true",
            ));
        }
        let life = Life::of(&stream, pid).map_err(|error| gone(&error))?;
        let look = || {
            let netns = netns_of(pid)?;
            let text = cgroups_of(pid)?;
            let cgroup = text.lines().find_map(|line| line.strip_prefix("0::"));
            let cgroup = relative(cgroup.unwrap_or("/"))?;
            io::Result::Ok((netns, cgroup, pod_s(&text)))
        };
        let (netns, cgroup, pod) = look().map_err(|error| gone(&error))?;
        let who = Self {
            pid,
            uid: peer.uid(),
            netns,
            cgroup,
            pod,
            life,
        };
        who.check_alive()?;
        Ok(who)
    }

    /// What was read below `/proc/<pid>` before this was of this process.
    pub fn check_alive(&self) -> Result<(), Refusal> {
        let is_alive = match &self.life {
            Life::Pidfd(pidfd) => {
                let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                poll(&mut polled, PollTimeout::ZERO) == Ok(0)
            }
            Life::Started(at) => started(self.pid).is_ok_and(|now| now == *at),
        };
        if is_alive {
            return Ok(());
        }
        Err(gone(&io::ErrorKind::NotFound.into()))
    }

    /// Whether it is in the network namespace of the node or of the agent.
    pub fn is_on_the_node(&self) -> bool {
        let own = ["/proc/1/ns/net", "/proc/self/ns/net"];
        let mut own = own
            .into_iter()
            .filter_map(|path| identity(Path::new(path)).ok());
        own.any(|own| own == self.netns)
    }
}

impl Life {
    fn of(stream: impl AsFd, pid: i32) -> io::Result<Self> {
        match getsockopt(&stream, PeerPidfd) {
            Ok(pidfd) => Ok(Self::Pidfd(pidfd)),
            Err(Errno::ENOPROTOOPT) => started(pid).map(Self::Started),
            Err(error) => Err(error.into()),
        }
    }
}

fn gone(error: &io::Error) -> Refusal {
    let text = format!("the agent can't tell which pod this process is in ({error})");
    Refusal::new(Outcome::Vanished, text)
}

fn netns_of(pid: i32) -> io::Result<(u64, u64)> {
    identity(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// By which a namespace is told from others, as long as somebody has it open.
pub(super) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// When a process started: field 22 of proc_pid_stat(5). The name before it may hold anything.
fn started(pid: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = after_name.split_ascii_whitespace().nth(19);
    field
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))
}

/// The cgroups of a process, as the node sees them: an agent that has a cgroup namespace of its
/// own sees all others above it, by paths that start with `/..`.
fn cgroups_of(pid: i32) -> io::Result<String> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path)?;
    if !text.lines().any(|line| line.contains(":/..")) {
        return Ok(text);
    }
    let of_the_node = fs::File::open("/proc/1/ns/cgroup")?;
    let read = || {
        setns(of_the_node.as_fd(), CloneFlags::CLONE_NEWCGROUP)?;
        fs::read_to_string(&path)
    };
    thread::scope(|scope| scope.spawn(read).join())
        .map_err(|_| io::Error::other("the thread in the cgroup namespace panicked"))?
}

fn relative(cgroup: &str) -> io::Result<PathBuf> {
    // What the kernel adds where the cgroup was removed.
    let cgroup = cgroup.strip_suffix(" (deleted)").unwrap_or(cgroup);
    let path = PathBuf::from(cgroup.trim_start_matches('/'));
    let is_plain = |part| matches!(part, std::path::Component::Normal(_));
    if path.components().all(is_plain) {
        return Ok(path);
    }
    Err(io::Error::other(format!(
        "its cgroup {cgroup} is outside of what the agent sees"
    )))
}

/// What tells the process's pod from others: the cgroup that the kubelet made for it, of whichever
/// version, or else its own one of v2; none where that is the root.
///
/// The kubelet's are `…/pod<UID>` or `…/…-pod<UID>.slice`.
pub(crate) fn pod_s(cgroups: &str) -> Option<PathBuf> {
    let paths = || {
        cgroups
            .lines()
            .filter_map(|line| line.splitn(3, ':').nth(2))
    };
    let of_the_kubelet = paths().find_map(|path| {
        let parts: Vec<_> = Path::new(path).components().collect();
        let pod = parts.iter().position(|part| is_pod(part.as_os_str()))?;
        Some(parts[..=pod].iter().collect())
    });
    of_the_kubelet.or_else(|| {
        let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
        own.filter(|own| !matches!(*own, "" | "/")).map(Into::into)
    })
}

fn is_pod(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let name = name.strip_suffix(".slice").unwrap_or(&name);
    let is_uid = |c: char| c.is_ascii_hexdigit() || matches!(c, '-' | '_');
    name.rsplit_once("pod")
        .is_some_and(|(_, uid)| uid.len() >= 32 && uid.chars().all(is_uid))
}

#[cfg(test)]
impl Who {
    /// A peer for tests of limits.
    pub fn made_up(netns: u64, pod: Option<&str>) -> Self {
        Self {
            pid: 1,
            uid: 0,
            netns: (4, netns),
            cgroup: PathBuf::new(),
            pod: pod.map(Into::into),
            life: Life::Started(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_s_cgroup_is_the_kubelet_s_whatever_is_below() {
        const UID: &str = "0b1e5c1e-6a3c-4bb0-8d68-0f5b7a0c8f11";
        let slice = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
        for (text, pod) in [
            (
                format!("0::/kubepods/burstable/pod{UID}/4f1c/deeper\n"),
                Some(format!("/kubepods/burstable/pod{UID}")),
            ),
            (
                format!("0::/kubelet.slice/{slice}/cri-containerd-4f1c.scope\n"),
                Some(format!("/kubelet.slice/{slice}")),
            ),
            (
                format!("5:memory:/kubepods/pod{UID}/4f1c\n0::/\n"),
                Some(format!("/kubepods/pod{UID}")),
            ),
            // One pod inside of another's cgroup is still that one.
            (
                format!("0::/pod{UID}/pod{}\n", UID.replace('0', "1")),
                Some(format!("/pod{UID}")),
            ),
            (
                "5:memory:/a/long/one\n0::/my/podman\n".into(),
                Some("/my/podman".into()),
            ),
            ("5:memory:/a/long/one\n0::/\n".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(pod_s(&text), pod.map(PathBuf::from), "{text}");
        }
    }

    #[test]
    fn process_that_is_over_is_noticed_even_when_its_number_is_another_s() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep");
        let pid = child.id().cast_signed();
        let own = rustix::process::Pid::from_raw(pid).expect("a pid");
        let none = rustix::process::PidfdFlags::empty();
        let pidfd = rustix::process::pidfd_open(own, none).expect("Linux 5.3");
        let at = started(pid).expect("it runs");
        let with = |life| Who {
            pid,
            life,
            ..Who::made_up(1, None)
        };
        let by_pidfd = with(Life::Pidfd(pidfd));
        let by_start = with(Life::Started(at));
        assert!(by_pidfd.check_alive().is_ok() && by_start.check_alive().is_ok());
        let another = with(Life::Started(at - 1));
        assert!(another.check_alive().is_err(), "another's start");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        let outcome = |who: &Who| who.check_alive().map_err(|refusal| refusal.outcome);
        assert_eq!(outcome(&by_pidfd), Err(Outcome::Vanished));
        assert_eq!(outcome(&by_start), Err(Outcome::Vanished));
    }

    #[test]
    fn start_of_this_process_is_read_and_stays() {
        let pid = std::process::id().cast_signed();
        let at = started(pid).expect("this process");
        assert!(at > 0);
        assert_eq!(started(pid).expect("this process"), at);
        assert!(started(0).is_err());
    }
}
