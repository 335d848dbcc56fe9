//! Who a peer is, by the kernel's word alone.

use std::{
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
    /// The most specific of its cgroups, of whichever version: what tells it from other pods.
    pub place: PathBuf,
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
            io::Result::Ok((netns, cgroup, most_specific(&text)))
        };
        let (netns, cgroup, place) = look().map_err(|error| gone(&error))?;
        let who = Self {
            pid,
            uid: peer.uid(),
            netns,
            cgroup,
            place,
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

fn most_specific(cgroups: &str) -> PathBuf {
    let paths = cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2));
    let longest = paths.max_by_key(|path| path.len());
    longest.unwrap_or("/").into()
}
