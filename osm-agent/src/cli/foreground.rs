//! `osm-agent attach --foreground`: interception that ends with the process, however it ends.

use std::{
    io,
    path::Path,
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{SigSet, Signal},
};

use super::{
    attach::report,
    out::{say, warn},
};
use crate::{
    ebpf::Ebpf,
    error::{Result, Tried as _},
    interceptor::Interceptor as _,
    netlink,
    pod::Pod,
    policy::Policy,
};

/// Where the kernel lets a bpffs be mounted.
const BPFFS: &str = "/sys/fs/bpf";

/// How long to wait for more changes of routes after the first.
const SETTLE: Duration = Duration::from_millis(20);

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
    ebpf.follow_log()?;
    let (send, receive) = mpsc::channel();
    if !policy.excluded_interfaces().is_empty() {
        let netns = pod
            .netns
            .file()
            .try_clone()
            .tried(|| "follow the pod's routes")?;
        let send = send.clone();
        thread::spawn(move || {
            if let Err(error) = netlink::follow(&netns, &Event::Changed, &send) {
                // Without news of routes, what is known of them may be wrong.
                let _ = send.send(Event::Failed(error.kind()));
            }
        });
    }
    report(pod, "eBPF", ebpf.enrol(pod, Some(policy))?);
    if let Some(why) = ebpf.shortcut_not_taken(policy) {
        warn(format_args!("{why}"));
    }
    pod.netns.unlock()?;
    thread::spawn(move || {
        let _ = signals.wait();
        let _ = send.send(Event::End);
    });
    let ended = until_the_end(&mut ebpf, pod, policy, &receive);
    ebpf.withdraw(&pod.netns)?;
    ebpf.tidy()?;
    ebpf.remove_if_unused()?;
    say(format_args!("{}: no longer intercepted", pod.name));
    ended
}

#[derive(Clone, Copy)]
enum Event {
    /// Interfaces or routes of the pod may have changed.
    Changed,
    /// They can't be followed any more.
    Failed(io::ErrorKind),
    /// The process was told to end.
    End,
}

fn until_the_end(
    ebpf: &mut Ebpf,
    pod: &Pod,
    policy: &Policy,
    events: &Receiver<Event>,
) -> Result<()> {
    loop {
        match events.recv() {
            Ok(Event::Changed) => {
                // One change comes as many messages.
                thread::sleep(SETTLE);
                if events.try_iter().any(|event| matches!(event, Event::End)) {
                    return Ok(());
                }
                if let Err(error) = ebpf.refresh_interfaces(pod, policy) {
                    warn(format_args!("{error}; what was known of them stays"));
                }
            }
            Ok(Event::Failed(kind)) => {
                warn(format_args!(
                    "cannot follow the pod's routes: {kind}; changes of routes and excluded \
                     interfaces from now on are not noticed: start it anew after them"
                ));
            }
            Ok(Event::End) | Err(_) => return Ok(()),
        }
    }
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
