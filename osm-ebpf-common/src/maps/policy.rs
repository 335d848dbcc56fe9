//! Policies: the word in force, and what is looked up under it.

use crate::{address::Address, decision::RangeRule};

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
    /// There are IPv4 inclusion ranges: IPv4 that they do not hold is not intercepted.
    pub const INCLUSION_V4: u32 = 1 << 1;
    /// There are excluded outbound ports.
    pub const OUTBOUND_PORTS: u32 = 1 << 2;
    /// There are excluded inbound ports.
    pub const INBOUND_PORTS: u32 = 1 << 3;
    /// Native IPv6 is intercepted as well.
    pub const DUAL_STACK: u32 = 1 << 4;
    /// The sidecar's calls to the local host go to the pod's address.
    pub const POD_IP: u32 = 1 << 5;
    /// There are excluded interfaces.
    pub const INTERFACES: u32 = 1 << 6;
    /// There are IPv6 inclusion ranges: IPv6 that they do not hold is not intercepted.
    pub const INCLUSION_V6: u32 = 1 << 7;
    /// Bytes between app and sidecar are handed over from socket to socket.
    pub const SHORTCUT: u32 = 1 << 8;
    /// Anybody may be bound to the sidecar's ports.
    pub const OPEN_PORTS: u32 = 1 << 9;
    /// Who runs as the sidecar's user is the sidecar in the sidecar's cgroup only.
    pub const SIDECAR_CGROUP: u32 = 1 << 10;

    /// A policy word from an id and flags.
    #[must_use]
    pub const fn new(id: u32, flags: u32) -> Self {
        Self(((flags as u64) << 32) | id as u64)
    }

    /// The id under which its ranges and ports are found.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is the id")]
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

    /// [`Self::has`] as 0 or 1, for where a program must not go one way or the other for it. `flag` is one flag.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self, flag: u32) -> u64 {
        (self.0 >> (32 + flag.trailing_zeros())) & 1
    }
}

/// A policy and an IPv4 address that its ranges say nothing against. One aligned 64-bit word, so
/// that readers see a whole pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct InterceptedPair(u64);

impl InterceptedPair {
    /// How many pairs are kept: a power of two.
    pub const PLACES: u32 = 1 << Self::PLACE_BITS;
    const PLACE_BITS: u32 = 12;
    /// No pair.
    pub const NONE: Self = Self(0);

    /// None for IPv6. No policy has the id 0, which an empty place holds.
    #[inline(always)]
    #[must_use]
    pub const fn new(policy: u32, address: &Address) -> Option<Self> {
        if !address.is_v4() || policy == 0 {
            return None;
        }
        Some(Self((policy as u64) << 32 | address.last_word() as u64))
    }

    /// Where it is kept.
    #[inline(always)]
    #[must_use]
    pub const fn place(self) -> u32 {
        // Multiplicative hashing, as for loopback addresses.
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::PLACE_BITS)) as u32
    }
}

/// The key of a range, behind the prefix length: matched from the first bit on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RangeKey {
    #[cfg(feature = "next-layout")]
    _reserved: u32,
    policy: u32,
    address: Address,
}

impl RangeKey {
    /// How many bits of a key the policy takes: the prefix length of a range that holds
    /// every address.
    pub const POLICY_LENGTH: u32 = if cfg!(feature = "next-layout") {
        64
    } else {
        32
    };
    /// The prefix length of a key whose address is matched whole.
    pub const FULL_LENGTH: u32 = Self::POLICY_LENGTH + 128;

    /// The key of an address under a policy.
    #[inline(always)]
    #[must_use]
    pub const fn new(policy: u32, address: Address) -> Self {
        Self {
            #[cfg(feature = "next-layout")]
            _reserved: 0,
            policy,
            address,
        }
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

/// Whose list an item is on. No program asks; people do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(u8);

impl Origin {
    /// On nobody's.
    pub const NONE: Self = Self(0);
    /// The mesh's.
    pub const MESH: Self = Self(1);
    /// The pod's own.
    pub const POD: Self = Self(1 << 1);

    /// Whether it is on that one's too.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// On the lists of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// As a number, for digests.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }
}

/// What the longest range that holds an address says of it, and whose list says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct RangeEntry(u32);

impl RangeEntry {
    const KIND: u32 = 0xff;
    const ORIGIN_SHIFT: u32 = 8;

    /// Not intercepted.
    pub const EXCLUDED: Self = Self(1);
    /// Intercepted although there are inclusion ranges of its family.
    pub const INCLUDED: Self = Self(2);
    /// As if no range held it: keeps an IPv6 range from reaching into IPv4.
    pub const NEUTRAL: Self = Self(3);

    /// The rule that the outcome of a look-up of `destination` stands for. Inclusion ranges
    /// concern their own family: without any of it, all of it is intercepted.
    #[inline(always)]
    #[must_use]
    pub const fn rule(found: Option<Self>, policy: PolicyWord, destination: &Address) -> RangeRule {
        let inclusion = if destination.is_v4() {
            PolicyWord::INCLUSION_V4
        } else {
            PolicyWord::INCLUSION_V6
        };
        let kind = match found {
            Some(entry) => entry.kind(),
            None => Self::NEUTRAL,
        };
        match kind {
            Self::EXCLUDED => RangeRule::Excluded,
            Self::INCLUDED => RangeRule::Intercepted,
            _ if policy.has(inclusion) => RangeRule::NotIncluded,
            _ => RangeRule::Intercepted,
        }
    }

    /// The same from these lists.
    #[must_use]
    pub const fn of(self, origin: Origin) -> Self {
        Self(self.0 | (origin.0 as u32) << Self::ORIGIN_SHIFT)
    }

    /// What it says, and not whose list.
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> Self {
        Self(self.0 & Self::KIND)
    }

    /// Whose list it is on.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the next byte is the origin"
    )]
    pub const fn origin(self) -> Origin {
        Origin((self.0 >> Self::ORIGIN_SHIFT) as u8)
    }
}

/// The key of an excluded interface of one pod, under the policy that excludes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct InterfaceKey {
    netns_cookie: u64,
    policy: u32,
    index: u32,
}

impl InterfaceKey {
    /// `index` is the interface's number in the pod.
    #[inline(always)]
    #[must_use]
    pub const fn new(netns_cookie: u64, policy: u32, index: u32) -> Self {
        Self {
            netns_cookie,
            policy,
            index,
        }
    }

    /// The pod.
    #[must_use]
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> u32 {
        self.policy
    }
}

/// The key of a route of one pod, behind the prefix length: matched from the first bit on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RouteKey {
    netns_cookie: u64,
    policy: u32,
    address: Address,
    _padding: u32,
}

impl RouteKey {
    /// How many bits of a key come before the address.
    pub const POD_LENGTH: u32 = 64 + 32;
    /// The prefix length of a key whose address is matched whole.
    pub const FULL_LENGTH: u32 = Self::POD_LENGTH + 128;

    /// The key of a destination.
    #[inline(always)]
    #[must_use]
    pub const fn new(netns_cookie: u64, policy: u32, address: Address) -> Self {
        Self {
            netns_cookie,
            policy,
            address,
            _padding: 0,
        }
    }

    /// The pod.
    #[must_use]
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> u32 {
        self.policy
    }
}

/// Where the longest route that holds an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct RouteEntry(u32);

impl RouteEntry {
    /// By an excluded interface.
    pub const EXCLUDED: Self = Self(1);
    /// Anywhere else.
    pub const OTHER: Self = Self(2);
}

const _: () = {
    assert!(size_of::<PolicyWord>() == 8 && align_of::<PolicyWord>() == 8);
    let reserved = if cfg!(feature = "next-layout") { 4 } else { 0 };
    assert!(size_of::<InterceptedPair>() == 8);
    assert!(size_of::<RangeKey>() == 20 + reserved && align_of::<RangeKey>() == 4);
    assert!(size_of::<RangeEntry>() == 4);
    assert!(size_of::<InterfaceKey>() == 16);
    assert!(size_of::<RouteKey>() == 32 && size_of::<RouteEntry>() == 4);
};
