//! `osm-agent attach --foreground`: interception that ends with the process, however it ends.

use std::{io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{SigSet, Signal},
};

use super::attach::report;
use crate::{
    ebpf::Ebpf,
    error::{Result, Tried as _},
    interceptor::Interceptor as _,
    pod::Pod,
    policy::Policy,
};

/// Where the kernel lets a bpffs be mounted.
const BPFFS: &str = "/sys/fs/bpf";

/// Intercepts a pod until the process is told to end.
///
/// The pins are made as always, but in a bpffs of this process's own mount namespace: when
/// it dies, the kernel unmounts it, and with the pins go the links.
pub fn hold(pod: &Pod, policy: &Policy) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals
        .thread_block()
        .map_err(io::Error::from)
        .tried(|| "block signals")?;
    private_bpffs()
        .map_err(io::Error::from)
        .tried(|| "mount a private bpffs")?;
    let mut ebpf = Ebpf::open(&Path::new(BPFFS).join("osm"))?;
    report(pod, ebpf.enrol(pod, policy)?);
    signals
        .wait()
        .map_err(io::Error::from)
        .tried(|| "wait for a signal")?;
    ebpf.withdraw(pod.netns.cookie())?;
    ebpf.remove_if_unused()?;
    println!("{}: no longer intercepted", pod.name);
    Ok(())
}

fn private_bpffs() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        none,
    )
}
