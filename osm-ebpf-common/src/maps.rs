//! The layout of map keys and values. Ports are in host byte order, addresses as
//! [`Address`] holds them. `osm-ebpf/src/maps.rs` says who writes which map, and when.

use crate::{
    address::Address,
    decision::{Direction, RangeRule},
    reason::COUNTERS,
};

/// The most pods one node can enrol. The kubelet's own limit is a fraction of it.
pub const MAX_PODS: u32 = 1024;
/// How many sockets of one kind of listener are kept, so that `SO_REUSEPORT` workers may
/// come and go: as long as one of these lives, connections find it.
pub const LISTENER_SLOTS: u32 = 64;

/// What the programs must know of a pod. Key: its network namespace's cookie.
///
/// Written once, at enrolment. What changes while the pod lives is its [`PolicyWord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PodEntry {
    netns_cookie: u64,
    slot: u32,
    sidecar_uid: u32,
    address_v4: Address,
    address_v6: Address,
    flags: u32,
    _padding: u32,
}

impl PodEntry {
    const MORE_ADDRESSES: u32 = 1;

    /// A pod with no address of its own yet.
    ///
    /// `slot` is its index in the arrays, `sidecar_uid` the sidecar's user as the initial
    /// user namespace numbers it.
    #[must_use]
    pub const fn new(netns_cookie: u64, slot: u32, sidecar_uid: u32) -> Self {
        Self {
            netns_cookie,
            slot,
            sidecar_uid,
            address_v4: Address::UNSPECIFIED_V4,
            address_v6: Address::UNSPECIFIED_V6,
            flags: 0,
            _padding: 0,
        }
    }

    /// Adds an address. The first of each family is the one redirected connections come
    /// from; for any further one the caller writes a [`LocalKey`] as well.
    #[must_use]
    pub const fn with_address(mut self, address: Address) -> Self {
        if address.is_v4() && self.address_v4.is_unspecified() {
            self.address_v4 = address;
        } else if !address.is_v4() && self.address_v6.is_unspecified() {
            self.address_v6 = address;
        } else {
            self.flags |= Self::MORE_ADDRESSES;
        }
        self
    }

    /// The namespace this entry is about: a reader compares it, as the kernel may give an
    /// entry's memory to another one while it is being read.
    #[inline(always)]
    #[must_use]
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// The pod's index in the arrays.
    #[inline(always)]
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.slot
    }

    /// The sidecar's user, as the initial user namespace numbers it.
    #[inline(always)]
    #[must_use]
    pub const fn sidecar_uid(&self) -> u32 {
        self.sidecar_uid
    }

    /// The pod's first IPv4 address, or 0.0.0.0.
    #[inline(always)]
    #[must_use]
    pub const fn address_v4(&self) -> Address {
        self.address_v4
    }

    /// The pod's first IPv6 address, or `::`.
    #[inline(always)]
    #[must_use]
    pub const fn address_v6(&self) -> Address {
        self.address_v6
    }

    /// Whether the pod has addresses that only [`LocalKey`]s know of.
    #[inline(always)]
    #[must_use]
    pub const fn has_more_addresses(&self) -> bool {
        self.flags & Self::MORE_ADDRESSES != 0
    }
}

/// The key of a pod's second and further addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LocalKey {
    netns_cookie: u64,
    address: Address,
}

impl LocalKey {
    /// The key for one address of one pod.
    #[inline(always)]
    #[must_use]
    pub const fn new(netns_cookie: u64, address: Address) -> Self {
        Self {
            netns_cookie,
            address,
        }
    }

    /// The pod.
    #[must_use]
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }
}

/// The policy in force for one pod: its id, and what there is to look up under it.
///
/// One aligned 64-bit word, so that a change is one store and a reader sees either the old
/// policy or the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct PolicyWord(u64);

impl PolicyWord {
    /// There are range entries.
    pub const RANGES: u32 = 1;
    /// There are inclusion ranges: what they do not hold is not intercepted.
    pub const INCLUSION: u32 = 1 << 1;
    /// There are excluded outbound ports.
    pub const OUTBOUND_PORTS: u32 = 1 << 2;
    /// There are excluded inbound ports.
    pub const INBOUND_PORTS: u32 = 1 << 3;
    /// Native IPv6 is intercepted as well.
    pub const DUAL_STACK: u32 = 1 << 4;

    /// A policy word from an id and flags.
    #[must_use]
    pub const fn new(id: u32, flags: u32) -> Self {
        Self(((flags as u64) << 32) | id as u64)
    }

    /// The id under which its ranges and ports are found.
    #[inline(always)]
    #[must_use]
    pub const fn id(self) -> u32 {
        self.0 as u32
    }

    /// All flags.
    #[must_use]
    pub const fn flags(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether one of the flags is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, flag: u32) -> bool {
        self.0 & ((flag as u64) << 32) != 0
    }
}

/// The key of a range, behind the prefix length: matched from the first bit on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RangeKey {
    policy: u32,
    address: Address,
}

impl RangeKey {
    /// How many bits of a key the policy takes: the prefix length of a range that holds
    /// every address.
    pub const POLICY_LENGTH: u32 = 32;
    /// The prefix length of a key whose address is matched whole.
    pub const FULL_LENGTH: u32 = Self::POLICY_LENGTH + 128;

    /// The key of an address under a policy.
    #[inline(always)]
    #[must_use]
    pub const fn new(policy: u32, address: Address) -> Self {
        Self { policy, address }
    }

    /// The policy the range belongs to.
    #[must_use]
    pub const fn policy(&self) -> u32 {
        self.policy
    }

    /// The range's first address.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }
}

/// What the longest range that holds an address says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct RangeEntry(u32);

impl RangeEntry {
    /// Not intercepted.
    pub const EXCLUDED: Self = Self(1);
    /// Intercepted although there are inclusion ranges.
    pub const INCLUDED: Self = Self(2);
    /// As if no range held it: keeps an IPv6 range from reaching into IPv4.
    pub const NEUTRAL: Self = Self(3);

    /// The rule that a look-up's outcome stands for.
    #[inline(always)]
    #[must_use]
    pub const fn rule(found: Option<Self>, policy: PolicyWord) -> RangeRule {
        match found {
            Some(Self::EXCLUDED) => RangeRule::Excluded,
            Some(Self::INCLUDED) => RangeRule::Intercepted,
            _ if policy.has(PolicyWord::INCLUSION) => RangeRule::NotIncluded,
            _ => RangeRule::Intercepted,
        }
    }
}

/// The key of 512 neighbouring ports of one list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PortPageKey {
    policy: u32,
    direction: u16,
    page: u16,
}

impl PortPageKey {
    /// The page that holds `port`.
    #[inline(always)]
    #[must_use]
    pub const fn new(policy: u32, direction: Direction, port: u16) -> Self {
        Self {
            policy,
            direction: direction as u16,
            page: port / PortPage::PORTS,
        }
    }

    /// The policy the list belongs to.
    #[must_use]
    pub const fn policy(&self) -> u32 {
        self.policy
    }
}

/// One bit for each of 512 neighbouring ports: whether it is on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortPage {
    bits: [u64; 8],
}

impl PortPage {
    /// How many ports one page holds.
    pub const PORTS: u16 = 512;
    /// A page with no port.
    pub const EMPTY: Self = Self { bits: [0; 8] };

    /// Puts a port on the list.
    pub const fn insert(&mut self, port: u16) {
        self.bits[Self::word(port)] |= 1 << (port % 64);
    }

    /// Whether a port is on the list.
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, port: u16) -> bool {
        self.bits[Self::word(port)] & (1 << (port % 64)) != 0
    }

    #[inline(always)]
    const fn word(port: u16) -> usize {
        (port % Self::PORTS / 64) as usize
    }
}

/// What the app dialled, remembered on both sockets of a redirected connection and, while
/// the handshake lasts, under its [`HandshakeKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OriginalDestination {
    address: Address,
    port: u16,
    end: u8,
    flags: u8,
}

/// Which end of a redirected connection a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// The socket that dialled.
    App = 1,
    /// The socket that the sidecar accepted.
    Sidecar = 2,
}

impl OriginalDestination {
    const WATCHED: u8 = 1;

    /// For the socket that dialled.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, port: u16) -> Self {
        Self {
            address,
            port,
            end: End::App as u8,
            flags: 0,
        }
    }

    /// The same, for the other end.
    #[inline(always)]
    #[must_use]
    pub const fn at_sidecar(mut self) -> Self {
        self.end = End::Sidecar as u8;
        self.flags = 0;
        self
    }

    /// The same; the socket reports its state changes because we asked it to.
    #[inline(always)]
    #[must_use]
    pub const fn watched(mut self) -> Self {
        self.flags |= Self::WATCHED;
        self
    }

    /// Whether the socket reports its state changes because we asked it to.
    #[inline(always)]
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        self.flags & Self::WATCHED != 0
    }

    /// The address that was dialled.
    #[inline(always)]
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The port that was dialled, host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether the socket that remembers this is the one that dialled.
    #[inline(always)]
    #[must_use]
    pub const fn is_app_end(&self) -> bool {
        self.end == End::App as u8
    }
}

/// The key of a handshake between app and sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct HandshakeKey {
    netns_cookie: u64,
    app: Address,
    app_port: u16,
    listener_port: u16,
    listener: u32,
}

impl HandshakeKey {
    /// `app` is the end that connects, `listener` the loopback address it was sent to, of
    /// which the last word tells it from any other of its family.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        netns_cookie: u64,
        app: Address,
        app_port: u16,
        listener: Address,
        listener_port: u16,
    ) -> Self {
        Self {
            netns_cookie,
            app,
            app_port,
            listener_port,
            listener: listener.last_word(),
        }
    }

    /// The pod.
    #[must_use]
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }
}

/// The key of a sidecar's listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ListenerKey {
    netns_cookie: u64,
    direction: u16,
    family: u16,
    slot: u32,
}

/// The family of a listening socket.
///
/// Envoy opens 0.0.0.0 and `[::]` on the same port, and only one of them will do for a
/// given connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Family {
    /// `AF_INET`.
    V4 = 4,
    /// `AF_INET6`; takes IPv4 connections too unless it is `IPV6_V6ONLY`.
    V6 = 6,
}

impl ListenerKey {
    /// `slot` is below [`LISTENER_SLOTS`].
    #[inline(always)]
    #[must_use]
    pub const fn new(netns_cookie: u64, direction: Direction, family: Family, slot: u32) -> Self {
        Self {
            netns_cookie,
            direction: direction as u16,
            family: family as u16,
            slot,
        }
    }

    /// The pod.
    #[must_use]
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }
}

/// The counters of one pod, one for each [`crate::reason::Reason`], on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Counters(pub [u64; COUNTERS]);

impl Counters {
    /// Nothing counted yet.
    pub const ZERO: Self = Self([0; COUNTERS]);
}

/// What the agent has to know of a pod later. Key: its network namespace's cookie. No
/// program reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PodRecord {
    cgroup: u64,
    name_length: u64,
    name: [u8; Self::MAX_NAME],
}

impl PodRecord {
    /// The longest name in bytes: a namespace of 63, a slash, a pod of 253, and some room.
    pub const MAX_NAME: usize = 320;

    /// `cgroup` is the kernel's number of the pod's cgroup. `None` when the name is longer
    /// than [`Self::MAX_NAME`].
    #[must_use]
    pub fn new(name: &str, cgroup: u64) -> Option<Self> {
        let mut bytes = [0; Self::MAX_NAME];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self {
            cgroup,
            name_length: name.len() as u64,
            name: bytes,
        })
    }

    /// The name; empty if what the map holds is not text.
    #[must_use]
    pub fn name(&self) -> &str {
        usize::try_from(self.name_length)
            .ok()
            .and_then(|length| self.name.get(..length))
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    /// The kernel's number of the pod's cgroup.
    #[must_use]
    pub const fn cgroup(&self) -> u64 {
        self.cgroup
    }
}

/// What makes two policies equal: a digest of their lists. Key: the policy's id. No program
/// reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyRecord {
    /// SHA-256 of the policy in its normal form.
    pub digest: [u8; 32],
}

/// The one entry that says what the other maps are. No program reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Meta {
    /// [`crate::LAYOUT_VERSION`] of the agent that made the maps.
    pub layout: u32,
    /// The id that the next new policy gets. Ids are not used twice.
    pub next_policy: u32,
    /// The id of a policy that is being written or removed; 0 for none.
    pub staged_policy: u32,
    /// SHA-256 of the object that the pinned programs were loaded from.
    pub programs: [u8; 32],
}

const _: () = {
    assert!(size_of::<PodEntry>() == 56 && align_of::<PodEntry>() == 8);
    assert!(size_of::<LocalKey>() == 24);
    assert!(size_of::<PolicyWord>() == 8 && align_of::<PolicyWord>() == 8);
    assert!(size_of::<RangeKey>() == 20 && align_of::<RangeKey>() == 4);
    assert!(size_of::<RangeEntry>() == 4);
    assert!(size_of::<PortPageKey>() == 8);
    assert!(size_of::<PortPage>() == 64);
    assert!(size_of::<OriginalDestination>() == 20);
    assert!(size_of::<HandshakeKey>() == 32);
    assert!(size_of::<ListenerKey>() == 16);
    assert!(size_of::<Counters>() == 8 * COUNTERS);
    assert!(size_of::<PodRecord>() == 336);
    assert!(size_of::<PolicyRecord>() == 32);
    assert!(size_of::<Meta>() == 44);
};
