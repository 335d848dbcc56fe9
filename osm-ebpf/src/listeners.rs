//! The sidecar's listening sockets: kept when they start to listen, found when a connection
//! is to be redirected.

use aya_log_ebpf::{info, warn};
use osm_ebpf_common::{
    INBOUND_PORT, OUTBOUND_PORT,
    address::Address,
    decision::Direction,
    maps::{Family, LISTENER_SLOTS, ListenerKey, OriginalDestination},
};

use crate::{
    kernel::{self, Listener, Lookup, Operation, Socket},
    pod::Pod,
};

/// The port that the sidecar listens on.
#[inline(always)]
#[must_use]
pub const fn port_of(direction: Direction) -> u16 {
    match direction {
        Direction::Outbound => OUTBOUND_PORT,
        Direction::Inbound => INBOUND_PORT,
    }
}

/// The direction that a sidecar's port stands for.
#[inline(always)]
#[must_use]
pub const fn direction_of(port: u16) -> Option<Direction> {
    match port {
        OUTBOUND_PORT => Some(Direction::Outbound),
        INBOUND_PORT => Some(Direction::Inbound),
        _ => None,
    }
}

/// Keeps the sidecar's listeners as they appear. A process that is not the sidecar may
/// listen on the same port in another way; it is never given a connection. `caller` tells the user
/// that calls listen().
#[inline(always)]
pub fn listening(operation: Operation, caller: impl FnOnce() -> Option<u32>) {
    let Some(direction) = direction_of(operation.local_port()) else {
        return;
    };
    let cookie = operation.netns_cookie();
    let Some(pod) = Pod::find(cookie) else {
        return;
    };
    if !is_the_sidecar_s(operation, &pod, caller) {
        return;
    }
    let family = operation.family();
    for nth in 0..LISTENER_SLOTS {
        let slot = ListenerKey::slot(nth);
        if operation.keep_listener(ListenerKey::new(cookie, direction, family, slot), false) {
            info!(
                operation,
                "keeps the listener on port {}",
                operation.local_port()
            );
            return;
        }
    }
    // All slots are taken, by workers that share the port: any of them makes room, as the
    // new one may be here when all of those are gone.
    let slot = kernel::random() % LISTENER_SLOTS;
    if !operation.keep_listener(ListenerKey::new(cookie, direction, family, slot), true) {
        warn!(
            operation,
            "can't keep the listener on port {}",
            operation.local_port()
        );
    }
}

/// Whether the sidecar listens. Programs of this kind may not ask for the caller's cgroup: where that counts,
/// bind() has asked.
#[inline(always)]
fn is_the_sidecar_s(operation: Operation, pod: &Pod, caller: impl FnOnce() -> Option<u32>) -> bool {
    if pod.goes_by_cgroup() {
        let binder = operation.socket().and_then(Socket::binder);
        return binder.is_some() && binder == pod.entry.sidecar_cgroup();
    }
    caller() == Some(pod.entry.sidecar_uid())
}

/// Where a connection made in the pod is sent to reach the sidecar: an IPv4 one to the
/// address of 127.64.0.0/10 that stands for its destination. IPv6 has one loopback address
/// only. Who listens there does not matter: [`assign`] finds the listener.
#[inline(always)]
#[must_use]
pub fn target(dialled: &OriginalDestination) -> Address {
    let destination = dialled.address();
    if destination.is_v4() {
        destination.spread_loopback(dialled.port())
    } else {
        Address::LOCALHOST_V6
    }
}

/// Gives a connection to the sidecar's listener for a direction, whatever address that is
/// bound to; false where there is none that fits.
///
/// Where listeners share a port (`SO_REUSEPORT`), the kernel shares out the connections: among all that are bound
/// to it by the same user. Where the user does not make the sidecar, somebody else may be one of them. There, each of
/// the listeners that were kept gets what falls between it and the one before it on the ring of the slots.
///
/// The verifier walks through all the slots wherever this stands: call it at one place, and ask
/// afterwards for nothing that was known before, or it walks once more for each value. A walk for
/// IPv6 is the second half of one for IPv4, which it knows by then.
#[inline(always)]
#[must_use]
pub fn assign(lookup: Lookup, netns_cookie: u64, direction: Direction) -> bool {
    let Some(pod) = Pod::find(netns_cookie) else {
        return false;
    };
    // Numbers and no branches: see above.
    let exactly = pod.wants_cgroup();
    let start = exactly * ListenerKey::start(lookup.digest());
    // A listener of the packet's own family first; an IPv6 one may take IPv4 as well.
    let mut family = lookup.family();
    loop {
        for nth in 0..u64::from(LISTENER_SLOTS) {
            let slot = (start + nth) % u64::from(LISTENER_SLOTS);
            let key = ListenerKey::words(netns_cookie, direction, family, slot);
            if let Some(listener) = Listener::find(&key) {
                let assigned = lookup.assign(&listener, exactly);
                listener.release();
                if assigned {
                    return true;
                }
            }
        }
        match family {
            Family::V4 => family = Family::V6,
            Family::V6 => return false,
        }
    }
}
