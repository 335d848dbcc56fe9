//! The layout of map keys and values. Ports are in host byte order, addresses as
//! [`crate::address::Address`] holds them. `osm-ebpf/src/maps.rs` says who writes which map, and when.

mod agent;
mod event;
mod pod;
mod policy;
mod ports;
mod shortcut;
mod socket;

use crate::reason::COUNTERS;

pub use agent::{Meta, PodRecord, PolicyRecord, State};
pub use event::{Caller, Ends, Event, MonitorWord};
pub use pod::{LocalKey, PodEntry};
pub use policy::{
    InterceptedPair, InterfaceKey, Origin, PolicyWord, RangeEntry, RangeKey, RouteEntry, RouteKey,
};
pub use ports::{PortPage, PortPageKey};
pub use shortcut::{
    AppCalls, MAX_MESSAGES, MAX_UNREAD, ShortcutEnd, ShortcutKey, ShortcutPair, ShortcutSocket,
    SocketLayout,
};
pub use socket::{End, Family, HandshakeKey, ListenerKey, OriginalDestination};

/// The most pods one node can enrol. The kubelet's own limit is a fraction of it.
pub const MAX_PODS: u32 = 1024;
/// How many sockets of one kind of listener are kept, so that `SO_REUSEPORT` workers may
/// come and go: as long as one of these lives, connections find it.
pub const LISTENER_SLOTS: u32 = 64;

/// How many handshakes of one pod may be on their way at once. Beyond that, connections are
/// refused: a pod whose sidecar hangs must not take the room of all others.
pub const MAX_HANDSHAKES_PER_POD: u64 = 4096;

/// How many destinations of one pod are known by their loopback address alone. They are counted
/// as handshakes are, and stay until the pod is let go of: pods must leave each other room.
pub const MAX_DESTINATIONS_PER_POD: u64 = 128;

/// How many bytes of events wait for who listens: some ten thousand connections.
pub const EVENTS_BYTES: usize = 1 << 20;

/// The counters of one pod, one for each [`crate::reason::Reason`], on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Counters(pub [u64; COUNTERS]);

impl Counters {
    /// Nothing counted yet.
    pub const ZERO: Self = Self([0; COUNTERS]);
}

const _: () = {
    assert!(size_of::<Counters>() == 8 * COUNTERS);
};
