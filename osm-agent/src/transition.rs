//! From one means of interception to the other, under a running pod.

use std::{fs, io};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

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
    inside(netns.file(), || match fs::write(LOOSE, "0") {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            mount_proc()?;
            fs::write(LOOSE, "0")
        }
        written => written,
    })
    .tried(|| format!("write {LOOSE} in {}", netns.path().display()))
}

/// Container runtimes make settings read-only for every container that is not privileged. Only the
/// calling thread sees the /proc without that.
fn mount_proc() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)
}
