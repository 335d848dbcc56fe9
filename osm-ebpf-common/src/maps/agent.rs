//! What only the agent reads.

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
        bytes
            .get_mut(..name.len())?
            .copy_from_slice(name.as_bytes());
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
    assert!(size_of::<PodRecord>() == 336);
    assert!(size_of::<PolicyRecord>() == 32);
    assert!(size_of::<Meta>() == 44);
};
