//! From one means of interception to the other, under a running pod.

use crate::{
    error::{Result, Tried as _},
    pod::{Netns, inside},
};

/// Prepares a pod that is intercepted by eBPF for iptables: connection tracking is not to
/// adopt connections that it meets in their midst. It would take the sidecar's answer for a
/// connection of the sidecar's, and let later ones with the same ports pass.
///
/// # Errors
/// Where the setting can't be written.
pub fn ignore_older_connections(netns: &Netns) -> Result<()> {
    const LOOSE: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
    inside(netns.file(), || std::fs::write(LOOSE, "0"))
        .tried(|| format!("write {LOOSE} in {}", netns.path().display()))
}
