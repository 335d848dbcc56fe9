//! A pod's links: which program goes where, in which order, and how they are pinned.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::programs::SkLookup;
use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_GETSOCKOPT, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME,
    BPF_CGROUP_INET4_GETSOCKNAME, BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_INET6_GETPEERNAME,
    BPF_CGROUP_INET6_GETSOCKNAME, BPF_CGROUP_SOCK_OPS, BPF_SK_LOOKUP,
};

use super::{
    instance,
    state::{StateDir, remove_pins},
};
use crate::{
    error::{Error, Result, Tried as _},
    pod::Pod,
    sys::bpf,
};

/// A program and the event of a cgroup that it is attached to.
pub struct Hook {
    /// The program's name in the object, which is also that of its pins.
    pub program: &'static str,
    /// The event.
    pub attach_type: bpf_attach_type,
}

/// In the order of attaching: what redirects comes last, when all that a redirected
/// connection needs is there. Detaching goes the other way.
pub const CGROUP_HOOKS: [Hook; 8] = [
    Hook {
        program: "getsockopt",
        attach_type: BPF_CGROUP_GETSOCKOPT,
    },
    Hook {
        program: "getpeername4",
        attach_type: BPF_CGROUP_INET4_GETPEERNAME,
    },
    Hook {
        program: "getpeername6",
        attach_type: BPF_CGROUP_INET6_GETPEERNAME,
    },
    Hook {
        program: "getsockname4",
        attach_type: BPF_CGROUP_INET4_GETSOCKNAME,
    },
    Hook {
        program: "getsockname6",
        attach_type: BPF_CGROUP_INET6_GETSOCKNAME,
    },
    Hook {
        program: "socket_events",
        attach_type: BPF_CGROUP_SOCK_OPS,
    },
    Hook {
        program: "connect4",
        attach_type: BPF_CGROUP_INET4_CONNECT,
    },
    Hook {
        program: "connect6",
        attach_type: BPF_CGROUP_INET6_CONNECT,
    },
];

/// How many hooks do not redirect.
const PASSIVE_HOOKS: usize = 6;
const INBOUND: &str = "inbound";

/// Attaches everything to a pod and publishes the links.
///
/// `find_listeners` is called when new listeners are noticed by the programs and nothing is
/// redirected yet: what it finds and what they notice is together all there is.
///
/// # Errors
/// Where a part can't be attached; then nothing is.
pub fn attach(
    state: &StateDir,
    pod: &Pod,
    find_listeners: impl FnOnce() -> Result<usize>,
) -> Result<usize> {
    refuse_second_interceptor(pod)?;
    let cookie = pod.netns.cookie()?;
    let staged = state.staged_pod(cookie);
    fs::create_dir_all(&staged).tried(|| format!("create {}", staged.display()))?;
    let attached = (|| {
        let (passive, redirecting) = CGROUP_HOOKS.split_at(PASSIVE_HOOKS);
        for hook in passive {
            attach_to_cgroup(state, pod, hook, &staged)?;
        }
        let listeners = find_listeners()?;
        attach_to_netns(state, pod, &staged)?;
        for hook in redirecting {
            attach_to_cgroup(state, pod, hook, &staged)?;
        }
        let published = state.pod(cookie);
        fs::rename(&staged, &published).tried(|| format!("create {}", published.display()))?;
        Ok(listeners)
    })();
    if attached.is_err() {
        // The error that is reported is the first one.
        let _ = detach(&staged);
    }
    attached
}

/// Detaches the links in a directory, in the order that never leaves a connection
/// redirected without what it needs, and removes the directory.
///
/// # Errors
/// Where a pin can't be opened or removed.
pub fn detach(directory: &Path) -> Result<()> {
    let redirecting_first = [INBOUND]
        .into_iter()
        .chain(CGROUP_HOOKS.iter().rev().map(|hook| hook.program));
    for name in redirecting_first {
        let path = directory.join(name);
        let link = match bpf::open_pinned(&path) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).tried(|| format!("open {}", path.display())),
        };
        // It fails where the cgroup or the namespace is gone, and with it the attachment.
        let _ = bpf::link_detach(link.as_fd());
    }
    remove_pins(directory, names())
}

/// Whether every link of a pod is pinned.
pub fn is_complete(directory: &Path) -> bool {
    names().all(|name| directory.join(name).exists())
}

/// The names of a pod's links.
pub fn names() -> impl Iterator<Item = &'static str> {
    CGROUP_HOOKS
        .iter()
        .map(|hook| hook.program)
        .chain([INBOUND])
}

/// What keeps a pod's links from intercepting it, in words; nothing where they do.
///
/// # Errors
/// Where a link can't be opened or asked.
pub fn faults(directory: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for name in names() {
        match is_attached(directory, name)? {
            Some(true) => {}
            Some(false) => faults.push(format!("{name} was detached")),
            None => faults.push(format!("{name} was missing")),
        }
    }
    Ok(faults)
}

/// Whether a pod's network namespace is gone, as far as its link tells.
///
/// # Errors
/// As for [`faults`].
pub fn is_netns_gone(directory: &Path) -> Result<bool> {
    Ok(is_attached(directory, INBOUND)? != Some(true))
}

/// None where there is no such pin.
fn is_attached(directory: &Path, name: &str) -> Result<Option<bool>> {
    let path = directory.join(name);
    match bpf::open_pinned(&path) {
        Ok(link) => bpf::is_attached(link.as_fd())
            .tried(|| format!("ask for the link {}", path.display()))
            .map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).tried(|| format!("open {}", path.display())),
    }
}

fn attach_to_cgroup(state: &StateDir, pod: &Pod, hook: &Hook, staged: &Path) -> Result<()> {
    let path = state.programs().join(hook.program);
    let program =
        bpf::open_pinned(&path).tried(|| format!("open the program {}", path.display()))?;
    let link = bpf::link_create(
        program.as_fd(),
        pod.cgroup.directory().as_fd(),
        hook.attach_type,
    )
    .tried(|| format!("attach {} to {}", hook.program, pod.cgroup.path().display()))?;
    pin(&link, staged, hook.program)
}

fn attach_to_netns(state: &StateDir, pod: &Pod, staged: &Path) -> Result<()> {
    let mut object = instance::load_for_netns(state, pod.netns.cookie()?)?;
    let tried = || "load the BPF program inbound_lookup";
    let program: &mut SkLookup = object
        .program_mut("inbound_lookup")
        .ok_or_else(|| io::Error::other("it is not in the object this agent was built with"))
        .tried(tried)?
        .try_into()
        .tried(tried)?;
    program.load().tried(tried)?;
    let link = bpf::link_create(
        program.fd().tried(tried)?.as_fd(),
        pod.netns.file().as_fd(),
        BPF_SK_LOOKUP,
    )
    .tried(|| format!("attach inbound_lookup to {}", pod.netns.path().display()))?;
    pin(&link, staged, INBOUND)
}

fn pin(link: &OwnedFd, directory: &Path, name: &str) -> Result<()> {
    let path = directory.join(name);
    bpf::pin(link.as_fd(), &path).tried(|| format!("pin {}", path.display()))
}

/// Two interceptors on one pod would redirect each other's connections. One that is attached
/// to a cgroup above or below this one is known by the network namespace.
fn refuse_second_interceptor(pod: &Pod) -> Result<()> {
    let cgroup = pod.cgroup.path().display();
    let netns = pod.netns.path().display();
    let on_cgroup = bpf::attached_programs(pod.cgroup.directory(), BPF_CGROUP_SOCK_OPS)
        .tried(|| format!("ask for the programs on {cgroup}"))?;
    let on_netns = bpf::attached_programs(pod.netns.file(), BPF_SK_LOOKUP)
        .tried(|| format!("ask for the programs on {netns}"))?;
    if on_cgroup.is_empty() && on_netns.is_empty() {
        return Ok(());
    }
    let loaded: Vec<_> = aya::programs::loaded_programs().flatten().collect();
    for (what, ids, name) in [
        (format!("--cgroup {cgroup}"), on_cgroup, "socket_events"),
        (format!("--netns {netns}"), on_netns, "inbound_lookup"),
    ] {
        let mut ours = loaded.iter().filter(|it| it.name_as_str() == Some(name));
        if ours.any(|program| ids.contains(&program.id())) {
            return Err(Error::input(
                what,
                "is intercepted already, by an agent with another state directory or in the foreground",
                "detach it there first",
            ));
        }
    }
    Ok(())
}
