//! The compiled BPF programs, inside this binary.

use aya::include_bytes_aligned;
use sha2::{Digest as _, Sha256};

/// The programs for a pod's cgroup, loaded once.
pub static CGROUP: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/osm-cgroup"));
/// The program for a pod's network namespace, loaded once per pod.
pub static NETNS: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/osm-netns"));

/// What tells these programs from those of another build.
pub fn digest() -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(CGROUP);
    hash.update(NETNS);
    hash.finalize().into()
}
