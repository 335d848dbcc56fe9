//! The sidecar's listening sockets: kept when they start to listen, found when a connection
//! is to be redirected.

use osm_ebpf_common::{
    INBOUND_PORT, OUTBOUND_PORT,
    address::Address,
    decision::Direction,
    maps::{Family, LISTENER_SLOTS, ListenerKey},
};

use crate::{
    kernel::{self, Listener, Lookup, Operation},
    pod::Pod,
};

/// Where redirected connections of the pod itself are sent.
pub struct Target {
    /// A loopback address on which the sidecar listens.
    pub address: Address,
    /// The listener's port.
    pub port: u16,
}

impl Target {
    /// An address at which nobody can listen, so that the kernel refuses the connection.
    #[inline(always)]
    #[must_use]
    pub const fn nobody(v4: bool) -> Self {
        Self {
            address: if v4 {
                Address::LOCALHOST_V4
            } else {
                Address::LOCALHOST_V6
            },
            port: 0,
        }
    }
}

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
/// listen on the same port in another way; it is never given a connection.
#[inline(always)]
pub fn listening(operation: Operation) {
    let Some(direction) = direction_of(operation.local_port()) else {
        return;
    };
    let cookie = operation.netns_cookie();
    let Some(pod) = Pod::find(cookie) else {
        return;
    };
    if kernel::current_uid() != pod.entry.sidecar_uid() {
        return;
    }
    let family = operation.family();
    for slot in 0..LISTENER_SLOTS {
        if operation.keep_listener(ListenerKey::new(cookie, direction, family, slot)) {
            return;
        }
    }
}

/// Where a connection made in the pod has to go to reach the sidecar. IPv4: anywhere in
/// 127.64.0.0/10 where it listens on all addresses, else 127.0.0.1. IPv6 has one loopback
/// address only. None where it does not listen.
#[inline(always)]
#[must_use]
pub fn target(netns_cookie: u64, direction: Direction, v4: bool) -> Option<Target> {
    let port = port_of(direction);
    if !v4 {
        own_address(netns_cookie, direction, Family::V6)?;
        let address = Address::LOCALHOST_V6;
        return Some(Target { address, port });
    }
    let address = own_address(netns_cookie, direction, Family::V4)
        .or_else(|| own_address(netns_cookie, direction, Family::V6))?;
    let address = if address.is_unspecified() {
        Address::spread_loopback(kernel::random())
    } else {
        Address::LOCALHOST_V4
    };
    Some(Target { address, port })
}

#[inline(always)]
fn own_address(netns_cookie: u64, direction: Direction, family: Family) -> Option<Address> {
    for slot in 0..LISTENER_SLOTS {
        let key = ListenerKey::new(netns_cookie, direction, family, slot);
        if let Some(listener) = Listener::find(&key) {
            let address = listener.address();
            listener.release();
            return Some(address);
        }
    }
    None
}

/// Gives a connection that reaches the pod to the sidecar's inbound listener; false where
/// there is none for it.
#[inline(always)]
#[must_use]
pub fn assign(lookup: Lookup, netns_cookie: u64) -> bool {
    // A listener of the packet's own family first; an IPv6 one may take IPv4 as well.
    match lookup.family() {
        Family::V4 => {
            assign_one(lookup, netns_cookie, Family::V4)
                || assign_one(lookup, netns_cookie, Family::V6)
        }
        Family::V6 => assign_one(lookup, netns_cookie, Family::V6),
    }
}

#[inline(always)]
fn assign_one(lookup: Lookup, netns_cookie: u64, family: Family) -> bool {
    for slot in 0..LISTENER_SLOTS {
        let key = ListenerKey::new(netns_cookie, Direction::Inbound, family, slot);
        if let Some(listener) = Listener::find(&key) {
            let assigned = lookup.assign(&listener);
            listener.release();
            if assigned {
                return true;
            }
        }
    }
    false
}
