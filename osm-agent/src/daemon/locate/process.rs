//! The process of a pod by which its namespaces are known.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use procfs::{Current as _, ProcError, Uptime, process::Process};

use crate::{pod::processes_below, sys};

/// The processes of a pod, as they were listed.
///
/// The oldest one stands for the pod: it is the sandbox's own, where there is such a process.
/// Where several network namespaces are found, one goes first that belongs to the user namespace
/// closest to the node's: without privilege over the node, a program can make itself one only in
/// a user namespace of its own. Those that are still in the node's network namespace go last: a
/// container runtime starts there.
#[derive(Debug)]
pub(super) struct Members {
    cgroup: PathBuf,
    seen: Vec<Seen>,
}

/// What looking for processes came to.
#[derive(Debug)]
pub(super) enum Search {
    /// There may be some.
    Members(Members),
    /// There are some, and this process can't see into them: why, and what to do.
    Unseen(String),
}

/// A process, by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    pid: i32,
    /// In clock ticks since the kernel started.
    started: u64,
    netns: u64,
}

/// A process of a pod. Its directory in /proc is held open, so that its number can't come to
/// mean another one.
#[derive(Debug)]
pub(super) struct Member {
    process: Process,
    seen: Seen,
    /// Its network namespace.
    pub netns: File,
}

impl Members {
    /// Lists the processes in a cgroup, of either version, and below it.
    ///
    /// # Errors
    /// Where they can't be listed. A list with gaps would let a pod choose who is the oldest.
    pub(super) fn of(cgroup: &Path) -> io::Result<Search> {
        let mut seen = Vec::new();
        let listed = processes_below(cgroup)?;
        if !listed.is_empty() && listed.iter().all(|pid| *pid == 0) {
            return Ok(Search::Unseen(
                "its processes are in another PID namespace: run the agent in the node's (hostPID)"
                    .into(),
            ));
        }
        for pid in listed.into_iter().filter(|pid| *pid != 0) {
            match Member::open(pid) {
                Ok(member) => seen.extend(member.map(|it| it.seen)),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Ok(Search::Unseen(format!(
                        "its process {pid} can't be looked into: run the agent as root with \
                         CAP_SYS_PTRACE"
                    )));
                }
                Err(error) => return Err(error),
            }
        }
        sort(&mut seen);
        let cgroup = cgroup.to_owned();
        Ok(Search::Members(Self { cgroup, seen }))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// The process that stands for the pod; none where it has just ended.
    pub(super) fn first(&self) -> Option<Member> {
        self.open(self.seen.first()?)
    }

    /// The first one in this network namespace.
    pub(super) fn in_netns(&self, inode: u64) -> Option<Member> {
        let mut there = self.seen.iter().filter(|it| it.netns == inode);
        there.find_map(|it| self.open(it))
    }

    /// One for each network namespace.
    pub(super) fn of_each_netns(&self) -> impl Iterator<Item = Member> {
        let mut known = BTreeSet::new();
        let firsts = self.seen.iter().filter(move |it| known.insert(it.netns));
        firsts.filter_map(|it| self.open(it))
    }

    fn open(&self, seen: &Seen) -> Option<Member> {
        let member = Member::open(seen.pid).ok()??;
        // Who had its number when it was listed, and still has it in the pod, is the process
        // that was opened in between.
        let again = processes_below(&self.cgroup).ok()?;
        (member.seen == *seen && again.contains(&seen.pid) && member.is_alive()).then_some(member)
    }
}

impl Member {
    /// None where it has ended.
    fn open(pid: i32) -> io::Result<Option<Self>> {
        let Some(process) = unless_gone(Process::new(pid))? else {
            return Ok(None);
        };
        let Some(stat) = unless_gone(process.stat())? else {
            return Ok(None);
        };
        let netns = match unless_gone(process.open_relative("ns/net")) {
            Ok(Some(netns)) => netns,
            // One that ends just now is said to be forbidden.
            Err(_) if process.stat().is_err() => return Ok(None),
            Ok(None) => return Ok(None),
            Err(error) => return Err(error),
        };
        let seen = Seen {
            pid,
            started: stat.starttime,
            netns: netns.metadata()?.ino(),
        };
        Ok(Some(Self {
            process,
            seen,
            netns,
        }))
    }

    /// Whether the process that was opened is still there.
    fn is_alive(&self) -> bool {
        self.process
            .stat()
            .is_ok_and(|stat| stat.starttime == self.seen.started)
    }

    pub(super) const fn pid(&self) -> i32 {
        self.seen.pid
    }

    /// Where its network namespace is seen.
    pub(super) fn netns_path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.seen.pid).into()
    }

    /// Whether its network namespace is the node's or the agent's.
    pub(super) fn is_in_the_node_s(&self) -> bool {
        nodes_netns().contains(&self.seen.netns)
    }

    /// How long ago it started, in whole seconds.
    pub(super) fn age(&self) -> Duration {
        let uptime = Uptime::current().map_or(0.0, |it| it.uptime);
        let started = Duration::from_secs(self.seen.started / procfs::ticks_per_second().max(1));
        Duration::try_from_secs_f64(uptime)
            .unwrap_or_default()
            .saturating_sub(started)
    }

    /// The users of its user namespace, as the initial one numbers them.
    pub(super) fn uid_map(&self) -> io::Result<String> {
        let mut text = String::new();
        self.process
            .open_relative("uid_map")
            .map_err(into_io)?
            .read_to_string(&mut text)?;
        Ok(text)
    }
}

fn sort(seen: &mut [Seen]) {
    let mut ranks = BTreeMap::new();
    for it in seen.iter() {
        ranks.entry(it.netns).or_insert(it.pid);
    }
    // Nearly always there is only one, and nothing to be asked.
    if ranks.len() > 1 {
        let nodes = nodes_netns();
        let ranks: BTreeMap<u64, _> = ranks
            .into_iter()
            .map(|(netns, pid)| (netns, (nodes.contains(&netns), depth(pid, netns))))
            .collect();
        seen.sort_by_key(|it| (ranks.get(&it.netns).copied(), it.started, it.pid));
    } else {
        seen.sort_by_key(|it| (it.started, it.pid));
    }
}

/// How far from the node's user namespace the owner of this network namespace is; what can't be
/// told is not trusted first.
fn depth(pid: i32, netns: u64) -> usize {
    let member = Member::open(pid).ok().flatten();
    member
        .filter(|it| it.seen.netns == netns)
        .and_then(|it| sys::userns::depth_of_owner(&it.netns).ok())
        .unwrap_or(usize::MAX)
}

fn nodes_netns() -> Vec<u64> {
    ["/proc/1/ns/net", "/proc/self/ns/net"]
        .iter()
        .filter_map(|path| Some(fs::metadata(path).ok()?.ino()))
        .collect()
}

fn unless_gone<T>(result: Result<T, ProcError>) -> io::Result<Option<T>> {
    match result.map_err(into_io) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

fn into_io(error: ProcError) -> io::Error {
    match error {
        ProcError::NotFound(_) => io::ErrorKind::NotFound.into(),
        ProcError::PermissionDenied(_) => io::ErrorKind::PermissionDenied.into(),
        ProcError::Io(error, _) => error,
        other => io::Error::other(other),
    }
}
