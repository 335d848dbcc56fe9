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
    pod::Pod,
};

/// Finds the sidecar's listening sockets in the pod's processes and keeps those for the
/// directions asked for; returns how many there were. `cgroup`: by which the sidecar is told from others of its user,
/// where it is.
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
    cgroup: Option<u64>,
) -> Result<usize> {
    let cookie = pod.netns.cookie()?;
    let found = look(pod, cgroup)?;
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
pub fn directions(pod: &Pod, cgroup: Option<u64>) -> Result<Vec<Direction>> {
    let found = look(pod, cgroup)?;
    Ok(found
        .iter()
        .filter_map(|found| direction(found.address))
        .collect())
}

fn look(pod: &Pod, cgroup: Option<u64>) -> Result<Vec<Found>> {
    let netns = pod.netns.inode()?;
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let processes = cgroup.map_or_else(
        || pod.cgroup.processes(),
        |number| pod.cgroup.processes_of(number),
    );
    let processes =
        processes.tried(|| format!("list the processes of {}", pod.cgroup.path().display()))?;
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
    for nth in 0..LISTENER_SLOTS {
        let slot = ListenerKey::slot(nth);
        let key = ListenerKey::new(netns_cookie, direction, family, slot);
        match listeners.insert(key, found.socket.as_raw_fd(), BPF_NOEXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
            result => return result,
        }
    }
    // As many as there are slots: the others are of the same kind. By its user, they share the work all the same.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_lie_evenly_on_the_ring_however_many_there_are() {
        for count in 1..=LISTENER_SLOTS {
            let mut slots: Vec<_> = (0..count).map(ListenerKey::slot).collect();
            slots.sort_unstable();
            let before = slots.last().map(|last| last.wrapping_sub(LISTENER_SLOTS));
            let before = before.into_iter().chain(slots.clone());
            let shares: Vec<_> = slots
                .iter()
                .zip(before)
                .map(|(slot, before)| slot.wrapping_sub(before))
                .collect();
            let (least, most) = (shares.iter().min(), shares.iter().max());
            assert!(
                least
                    .zip(most)
                    .is_some_and(|(least, most)| *least > 0 && *most <= 2 * least),
                "{shares:?}"
            );
        }
    }

    #[test]
    fn every_slot_is_a_start() {
        let starts: HashSet<_> = (0..1 << 16).map(ListenerKey::start).collect();
        assert_eq!(starts, (0..LISTENER_SLOTS.into()).collect());
    }
}
