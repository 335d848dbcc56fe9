//! A live connection: what the kernel remembers of it, and what it shows to each end.

use std::{collections::HashSet, io, net::SocketAddr, os::fd::OwnedFd};

use osm_ebpf_common::maps::OriginalDestination;
use procfs::{
    net::{TcpNetEntry, TcpState},
    process::{FDTarget, Process},
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::Serialize;
use socket2::SockRef;

use crate::{
    ebpf::view::{PodView, View},
    error::Result,
};

/// One end of a connection, of which the pod may have both.
#[derive(Clone, Debug, Serialize)]
pub struct End {
    /// The process that has the socket; the first of several.
    pub pid: i32,
    /// What that process is called.
    pub process: String,
    /// The socket's user, as the initial user namespace numbers it.
    pub uid: u32,
    /// Its state, as in the kernel's tables.
    pub state: String,
    /// The own address in the kernel's tables, where no program changes it.
    pub local: SocketAddr,
    /// The peer's, likewise.
    pub remote: SocketAddr,
    /// What `getsockname` answers; none where it fails.
    pub shown_local: Option<SocketAddr>,
    /// What `getpeername` answers.
    pub shown_peer: Option<SocketAddr>,
    /// What `SO_ORIGINAL_DST` answers.
    pub original_destination: Option<SocketAddr>,
    /// What the socket itself remembers; none where the address alone tells, or nothing is redirected.
    pub remembered: Option<Remembered>,
}

/// What is kept in a socket's storage.
#[derive(Clone, Debug, Serialize)]
pub struct Remembered {
    /// What was dialled.
    pub dialled: SocketAddr,
    /// Whether this is the end that dialled; else the sidecar accepted it.
    pub is_dialler: bool,
    /// Whether the connection was to take the loopback shortcut.
    pub by_shortcut: bool,
}

/// The ends, in the pod, of the connections that have an address: as either end's, as the kernel's
/// tables have it or as programs show it.
///
/// # Errors
/// Where the pod's processes can't be looked into.
pub fn find(view: &View, pod: &PodView, address: SocketAddr) -> Result<Vec<End>> {
    let mut seen = HashSet::new();
    let mut ends = Vec::new();
    for pid in pod.processes()? {
        // A process that ends meanwhile has no connections any more.
        for (entry, socket) in sockets(pid).unwrap_or_default() {
            if seen.insert(entry.inode) {
                let end = end(view, pid, &entry, &socket)?;
                ends.extend(end.has(address).then_some(end));
            }
        }
    }
    Ok(ends)
}

impl End {
    fn has(&self, address: SocketAddr) -> bool {
        let shown = [self.shown_local, self.shown_peer].into_iter().flatten();
        shown
            .chain([self.local, self.remote])
            .any(|it| plain(it) == plain(address))
    }
}

fn end(view: &View, pid: i32, entry: &TcpNetEntry, socket: &OwnedFd) -> Result<End> {
    let asked = SockRef::from(socket);
    let address = |answer: io::Result<socket2::SockAddr>| answer.ok()?.as_socket().map(plain);
    let original = address(asked.original_dst_v4()).or_else(|| address(asked.original_dst_v6()));
    let remembered = view.remembered(socket)?;
    let process = Process::new(pid).and_then(|process| process.stat());
    Ok(End {
        pid,
        process: process.map_or_else(|_| "?".into(), |stat| stat.comm),
        uid: entry.uid,
        state: format!("{:?}", entry.state),
        local: plain(entry.local_address),
        remote: plain(entry.remote_address),
        shown_local: address(asked.local_addr()),
        shown_peer: address(asked.peer_addr()),
        original_destination: original,
        remembered: remembered.map(Remembered::from),
    })
}

impl From<OriginalDestination> for Remembered {
    fn from(kept: OriginalDestination) -> Self {
        Self {
            dialled: kept.into(),
            is_dialler: kept.is_app_end(),
            by_shortcut: kept.is_by_shortcut(),
        }
    }
}

/// The connected sockets of a process. It keeps them: these are further descriptors.
fn sockets(pid: i32) -> io::Result<Vec<(TcpNetEntry, OwnedFd)>> {
    let process = Process::new(pid).map_err(io::Error::other)?;
    let v4 = process.tcp().map_err(io::Error::other)?;
    let v6 = process.tcp6().map_err(io::Error::other)?;
    let mut entries = v4.into_iter().chain(v6).collect::<Vec<_>>();
    entries.retain(|entry| entry.state != TcpState::Listen && entry.inode != 0);
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let raw = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
    let mut found = Vec::new();
    for fd in process.fd().map_err(io::Error::other)?.flatten() {
        let FDTarget::Socket(inode) = fd.target else {
            continue;
        };
        let Some(index) = entries.iter().position(|entry| entry.inode == inode) else {
            continue;
        };
        if let Ok(socket) = pidfd_getfd(&pidfd, fd.fd, PidfdGetfdFlags::empty()) {
            found.push((entries.swap_remove(index), socket));
        }
    }
    Ok(found)
}

/// IPv4 as IPv4, from whichever socket.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
