//! Listeners of the sidecar that are older than the enrolment: no program has seen them.

use std::{
    collections::HashSet,
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use aya::maps::{MapData, MapError, SockHash};
use osm_ebpf_common::{
    INBOUND_PORT, OUTBOUND_PORT,
    decision::Direction,
    maps::{Family, LISTENER_SLOTS, ListenerKey},
};
use procfs::{
    ProcError,
    net::TcpState,
    process::{FDTarget, Process},
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::found;
use crate::{
    error::{Result, Tried as _},
    pod::{Pod, SidecarCgroup},
};

/// Finds the sidecar's listening sockets in the pod's processes and keeps those for the
/// directions asked for; returns how many there were. `by_cgroup`: only processes of the sidecar's
/// cgroup have some, where that is known.
///
/// A process that can't be inspected is skipped: it may just end, or an app may have made
/// itself so, and must not keep the pod from being intercepted.
///
/// # Errors
/// Where the pod's processes can't be listed, or a listener can't be kept.
pub fn find(
    pod: &Pod,
    listeners: &mut SockHash<MapData, ListenerKey>,
    wanted: &[Direction],
    by_cgroup: bool,
) -> Result<usize> {
    let cookie = pod.netns.cookie()?;
    let found = look(pod, by_cgroup)?;
    for listener in &found {
        if direction(listener.address).is_some_and(|it| wanted.contains(&it)) {
            keep(cookie, listener, listeners)
                .tried(|| format!("keep the listener {}", listener.address))?;
        }
    }
    Ok(found.len())
}

/// Forgets all listeners of a pod: connections are refused until some are kept again.
///
/// # Errors
/// Where the map can't be read or written.
pub fn forget(cookie: u64, listeners: &mut SockHash<MapData, ListenerKey>) -> Result<()> {
    let keys: Result<Vec<_>, _> = listeners.keys().collect();
    for key in keys.tried(|| "read the map LISTENERS")? {
        if key.netns_cookie() == cookie {
            found(listeners.remove(&key)).tried(|| "remove from the map LISTENERS")?;
        }
    }
    Ok(())
}

/// For which directions the sidecar listens, as far as the pod's processes tell.
///
/// # Errors
/// Where the pod's processes can't be listed.
pub fn directions(pod: &Pod, by_cgroup: bool) -> Result<Vec<Direction>> {
    let found = look(pod, by_cgroup)?;
    Ok(found
        .iter()
        .filter_map(|found| direction(found.address))
        .collect())
}

fn look(pod: &Pod, by_cgroup: bool) -> Result<Vec<Found>> {
    let netns = pod.netns.inode()?;
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let cgroup = match &pod.sidecar_cgroup {
        SidecarCgroup::Known(cgroup) if by_cgroup => cgroup,
        // Whose they are can't be told.
        SidecarCgroup::Unsaid if by_cgroup => return Ok(Vec::new()),
        _ => &pod.cgroup,
    };
    let processes = cgroup
        .processes()
        .tried(|| format!("list the processes of {}", cgroup.path().display()))?;
    for pid in processes {
        let of_process = of_process(pid, netns, pod.sidecar_uid).unwrap_or_default();
        found.extend(of_process.into_iter().filter(|it| seen.insert(it.inode)));
    }
    Ok(found)
}

struct Found {
    address: SocketAddr,
    inode: u64,
    socket: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error(transparent)]
    System(#[from] rustix::io::Errno),
}

fn of_process(pid: i32, netns: u64, uid: u32) -> Result<Vec<Found>, LookError> {
    let process = Process::new(pid)?;
    let namespaces = process.namespaces()?;
    if namespaces
        .0
        .values()
        .all(|ns| ns.ns_type != "net" || ns.identifier != netns)
    {
        return Ok(Vec::new());
    }
    let wanted: Vec<_> = process
        .tcp()?
        .into_iter()
        .chain(process.tcp6()?)
        .filter(|entry| entry.state == TcpState::Listen && entry.uid == uid)
        .filter(|entry| direction(entry.local_address).is_some())
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let pidfd = pidfd_open(
        Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH)?,
        PidfdFlags::empty(),
    )?;
    let mut found = Vec::new();
    for fd in process.fd()?.flatten() {
        let FDTarget::Socket(inode) = fd.target else {
            continue;
        };
        let Some(entry) = wanted.iter().find(|entry| entry.inode == inode) else {
            continue;
        };
        // It may be closed by now.
        if let Ok(socket) = pidfd_getfd(&pidfd, fd.fd, PidfdGetfdFlags::empty()) {
            found.push(Found {
                address: entry.local_address,
                inode,
                socket,
            });
        }
    }
    Ok(found)
}

const fn direction(address: SocketAddr) -> Option<Direction> {
    match address.port() {
        OUTBOUND_PORT => Some(Direction::Outbound),
        INBOUND_PORT => Some(Direction::Inbound),
        _ => None,
    }
}

fn keep(
    netns_cookie: u64,
    found: &Found,
    listeners: &mut SockHash<MapData, ListenerKey>,
) -> Result<(), MapError> {
    const BPF_NOEXIST: u64 = 1;
    let Some(direction) = direction(found.address) else {
        return Ok(());
    };
    let family = if found.address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    for slot in 0..LISTENER_SLOTS {
        let key = ListenerKey::new(netns_cookie, direction, family, slot);
        match listeners.insert(key, found.socket.as_raw_fd(), BPF_NOEXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
            result => return result,
        }
    }
    // As many as there are slots: the others are of the same kind, and share their work.
    Ok(())
}
