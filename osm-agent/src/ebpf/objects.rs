//! The compiled BPF programs, inside this binary.

use std::sync::LazyLock;

use aya::include_bytes_aligned;
use sha2::{Digest as _, Sha256};

/// The programs for a pod's cgroup, loaded once.
pub static CGROUP: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/osm-cgroup"));
/// The program for a pod's network namespace, loaded once per pod.
pub static NETNS: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/osm-netns"));

/// What tells these programs from those of another build, and what a version is called by: the
/// first eight bytes of a digest of both objects.
pub fn version() -> u64 {
    static VERSION: LazyLock<u64> = LazyLock::new(|| {
        let mut hash = Sha256::new();
        hash.update(CGROUP);
        hash.update(NETNS);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        u64::from_be_bytes(first)
    });
    *VERSION
}
