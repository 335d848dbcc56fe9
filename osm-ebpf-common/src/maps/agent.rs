//! What only the agent reads.

/// What the agent has to know of a pod later. Key: its network namespace's cookie. No
/// program reads it. Part of [`crate::SHARED_LAYOUT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PodRecord {
    cgroup: u64,
    version: u64,
    slot: u32,
    flags: u32,
    name_length: u32,
    _reserved: [u32; 9],
    name: [u8; Self::MAX_NAME],
}

impl PodRecord {
    /// The longest name in bytes: a namespace of 63, a slash, a pod of 253, and some room.
    pub const MAX_NAME: usize = 320;
    const SHARES_CGROUP: u32 = 1;

    /// `cgroup` is the kernel's number of the pod's cgroup. `None` when the name is longer
    /// than [`Self::MAX_NAME`].
    #[must_use]
    pub fn new(name: &str, cgroup: u64) -> Option<Self> {
        let mut bytes = [0; Self::MAX_NAME];
        bytes
            .get_mut(..name.len())?
            .copy_from_slice(name.as_bytes());
        Some(Self {
            cgroup,
            version: 0,
            slot: 0,
            flags: 0,
            name_length: u32::try_from(name.len()).ok()?,
            _reserved: [0; 9],
            name: bytes,
        })
    }

    /// Gives the pod its index in the arrays.
    #[must_use]
    pub const fn with_slot(mut self, slot: u32) -> Self {
        self.slot = slot;
        self
    }

    /// Says which version's programs run for the pod.
    #[must_use]
    pub const fn with_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// Says whether other pods are in the same cgroup.
    #[must_use]
    pub const fn with_shared_cgroup(mut self, shares: bool) -> Self {
        self.flags = if shares { Self::SHARES_CGROUP } else { 0 };
        self
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

    /// The first eight bytes of the digest of the programs that run for the pod.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The pod's index in the arrays.
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.slot
    }

    /// Whether other pods are in the same cgroup, which has one set of links for all of them.
    #[must_use]
    pub const fn shares_cgroup(&self) -> bool {
        self.flags & Self::SHARES_CGROUP != 0
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

/// The one entry that says what one version's own maps are. No program reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Meta {
    /// [`crate::LAYOUT_VERSION`] of the agent that made the maps.
    pub layout: u32,
    /// The id that the next new policy gets. Ids are not used twice.
    pub next_policy: u32,
    /// The id of a policy that is being written or removed; 0 for none.
    pub staged_policy: u32,
}

/// The one entry that says what the maps are that all versions share. No program reads it. It
/// never changes its own size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// [`crate::SHARED_LAYOUT`] of the agent that made the maps; 0 until they are complete.
    pub layout: u32,
    /// For later.
    pub reserved: [u32; 15],
}

const _: () = {
    assert!(size_of::<PodRecord>() == 384);
    assert!(size_of::<PolicyRecord>() == 32);
    assert!(size_of::<Meta>() == 12);
    assert!(size_of::<State>() == 64);
};
