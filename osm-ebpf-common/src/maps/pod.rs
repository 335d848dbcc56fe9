//! What the programs must know of a pod.

use super::PolicyWord;
use crate::address::Address;

/// What the programs must know of a pod. Key: its network namespace's cookie.
///
/// Written once, at enrolment. What changes while the pod lives is its [`super::PolicyWord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PodEntry {
    #[cfg(feature = "next-layout")]
    _reserved: [u64; 2],
    netns_cookie: u64,
    slot: u32,
    sidecar_uid: u32,
    sidecar_cgroup: u64,
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
            #[cfg(feature = "next-layout")]
            _reserved: [0; 2],
            netns_cookie,
            slot,
            sidecar_uid,
            sidecar_cgroup: 0,
            address_v4: Address::UNSPECIFIED_V4,
            address_v6: Address::UNSPECIFIED_V6,
            flags: 0,
            _padding: 0,
        }
    }

    /// Says in which cgroup the sidecar's processes are, where that is known.
    #[must_use]
    pub const fn with_sidecar_cgroup(mut self, id: Option<u64>) -> Self {
        self.sidecar_cgroup = match id {
            Some(id) => id,
            None => 0,
        };
        self
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

    /// Says that the caller writes [`LocalKey`]s, for addresses that connections never come from.
    #[must_use]
    pub const fn with_more_addresses(mut self) -> Self {
        self.flags |= Self::MORE_ADDRESSES;
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

    /// The kernel's number of the cgroup that the sidecar's processes are in; none where that is not known.
    #[must_use]
    pub const fn sidecar_cgroup(&self) -> Option<u64> {
        if self.sidecar_cgroup == 0 {
            None
        } else {
            Some(self.sidecar_cgroup)
        }
    }

    /// Whether a process is the sidecar's: by its user and, where the policy wants that and it is known, by
    /// the cgroup that it is in itself. That is asked of processes of the sidecar's user only.
    #[inline(always)]
    #[must_use]
    pub fn is_sidecar(&self, policy: PolicyWord, user: u32, cgroup: impl FnOnce() -> u64) -> bool {
        user == self.sidecar_uid
            && (!self.goes_by_cgroup(policy) || cgroup() == self.sidecar_cgroup)
    }

    /// Whether the sidecar is told from others of its user.
    #[inline(always)]
    #[must_use]
    pub const fn goes_by_cgroup(&self, policy: PolicyWord) -> bool {
        policy.has(PolicyWord::SIDECAR_CGROUP) && self.sidecar_cgroup != 0
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

const _: () = {
    let reserved = if cfg!(feature = "next-layout") { 16 } else { 0 };
    assert!(size_of::<PodEntry>() == 64 + reserved && align_of::<PodEntry>() == 8);
    assert!(size_of::<LocalKey>() == 24);
};
