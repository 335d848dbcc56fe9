//! eBPF: maps, programs, links and pins, one after the other; then a pod as a whole.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf as Loaded, EbpfLoader, features as aya_features,
    maps::{Array, MapData, MapType},
    programs::Program,
    sys::is_map_supported,
};
use aya_obj::generated::bpf_attach_type::{self, BPF_SK_LOOKUP};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::{
    features::{Features, For, words},
    place::{self, BPFFS, TemporaryCgroup},
};
use crate::{
    config::Lists,
    ebpf::{Ebpf, hooks::CGROUP_HOOKS, objects, shortcut},
    error::Result,
    interceptor::Interceptor as _,
    pod::{Netns, Pod},
    policy::Policy,
    sys,
};

/// The feature that is all of it.
pub const WHOLE: &str = "enrolment";

const BPFFS_MOUNT: &str = "bpffs";
/// All kinds at once.
const MAPS: &str = "maps";
const LINK_PIN: &str = "link_pin";
const LINK_DETACH: &str = "link_detach";
const SK_LOOKUP: &str = "hook_sk_lookup";
const SHORTCUT: &str = "loopback_shortcut";

/// Kinds of maps, by number and by the name of the feature.
const KINDS: [(MapType, &str); 7] = [
    (MapType::Hash, "map_hash"),
    (MapType::Array, "map_array"),
    (MapType::PerCpuArray, "map_per_cpu_array"),
    (MapType::LpmTrie, "map_lpm_trie"),
    (MapType::SockHash, "map_sock_hash"),
    (MapType::SkStorage, "map_sk_storage"),
    (MapType::RingBuf, "map_ring_buf"),
];

/// What is tried before maps.
const BASICS: [&str; 7] = [
    "bpf",
    "btf",
    "cgroup_v2",
    "netns_cookie",
    "membarrier",
    "pidfd_getfd",
    BPFFS_MOUNT,
];

/// Notes that nothing, or nothing more, can be tried.
pub(super) fn unknown(features: &mut Features, why: &str) {
    let names = BASICS
        .into_iter()
        .chain(KINDS.iter().map(|(_, name)| *name))
        .chain([MAPS])
        .map(String::from)
        .chain(hooks().map(|(name, ..)| name))
        .chain([SK_LOOKUP, LINK_PIN, LINK_DETACH, WHOLE].map(String::from));
    for name in names {
        if !features.has(&name) {
            features.unknown(&name, For::Ebpf, why);
        }
    }
    if !features.has(SHORTCUT) {
        features.unknown(SHORTCUT, For::Shortcut, why);
    }
}

/// Tries everything.
pub(super) fn probe(features: &mut Features, cgroup_root: Option<&Path>) {
    let cgroup = TemporaryCgroup::new(cgroup_root);
    let netns = place::netns();
    basics(features, &cgroup, &netns);
    let inside = |mounted: io::Result<()>| {
        let result = mounted.map(|()| "mounted").map_err(|error| words(&error));
        features.note(BPFFS_MOUNT, For::Ebpf, result);
        probe_inside(features, cgroup.as_ref().ok(), netns.as_ref().ok());
        note_whole(features, &cgroup, netns);
    };
    if let Err(error) = place::with_private_bpffs(inside) {
        unmountable(features, &error);
    }
}

fn unmountable(features: &mut Features, error: &io::Error) {
    let why = format!("no mounts of its own can be had: {error}");
    features.note(BPFFS_MOUNT, For::Ebpf, Err::<String, _>(why));
    unknown(features, "not tried: it takes a bpffs");
}

fn basics(features: &mut Features, cgroup: &Result<TemporaryCgroup>, netns: &Result<Netns>) {
    let bpf = Array::<MapData, u32>::create(1, 0);
    let result = bpf.map(|_| "").map_err(|error| words(&error));
    features.note("bpf", For::Ebpf, result);
    let btf = aya_features().btf().map(|_| "");
    features.note(
        "btf",
        For::Ebpf,
        btf.ok_or("the kernel takes no BTF".into()),
    );
    let path = cgroup.as_ref().map(|it| format!("below {}", root_of(it)));
    features.note("cgroup_v2", For::Ebpf, path.map_err(ToString::to_string));
    let cookie = netns
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|netns| {
            let cookie = netns.cookie().map_err(|error| error.to_string())?;
            Ok(format!("cookie {cookie}"))
        });
    features.note("netns_cookie", For::Ebpf, cookie);
    let waited = sys::netns::wait_for_running_programs();
    let result = waited.map(|()| "").map_err(|error| error.to_string());
    features.note("membarrier", For::Ebpf, result);
    let result = copy_descriptor().map(|()| "for listeners older than their enrolment");
    features.note(
        "pidfd_getfd",
        For::Ebpf,
        result.map_err(|error| error.to_string()),
    );
}

fn root_of(cgroup: &TemporaryCgroup) -> String {
    let parent = cgroup.cgroup.path().parent();
    parent.map_or_else(String::new, |path| path.display().to_string())
}

fn copy_descriptor() -> io::Result<()> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(&own, 0, PidfdGetfdFlags::empty()).or_else(|error| {
        // Without standard input there is nothing to copy, but the call is there.
        if error == rustix::io::Errno::BADF {
            own.try_clone().map_err(|_| error)
        } else {
            Err(error)
        }
    })?;
    Ok(())
}

/// Maps, programs, links, pins.
fn probe_inside(features: &mut Features, cgroup: Option<&TemporaryCgroup>, netns: Option<&Netns>) {
    let object = objects::loader().load(objects::cgroup());
    let names: Vec<(String, &str, bpf_attach_type)> = hooks().collect();
    if object.is_err()
        && let Some(why) = objects::refused()
    {
        for (name, ..) in &names {
            features.note(name, For::Ebpf, Err::<&str, _>(words(&why)));
        }
        let not_tried = "not tried: it takes programs";
        for name in [MAPS, SK_LOOKUP, LINK_PIN, LINK_DETACH] {
            features.unknown(name, For::Ebpf, not_tried);
        }
        features.unknown(SHORTCUT, For::Shortcut, not_tried);
        return;
    }
    maps(features, object.as_ref().err().map(|error| words(error)));
    let (mut object, cgroup) = match (object, cgroup) {
        (Ok(object), Some(cgroup)) => (object, cgroup),
        (object, _) => {
            let what = object.map_or("the maps", |_| "a cgroup");
            let names = names.iter().map(|(name, ..)| name.as_str());
            for name in names.chain([SK_LOOKUP, LINK_PIN, LINK_DETACH]) {
                features.unknown(name, For::Ebpf, &format!("not tried: it takes {what}"));
            }
            features.unknown(
                SHORTCUT,
                For::Shortcut,
                &format!("not tried: it takes {what}"),
            );
            return;
        }
    };
    let mut links = Vec::new();
    for (name, program, attach_type) in names {
        let directory = cgroup.cgroup.directory().as_fd();
        let result = link(&mut object, program, directory, attach_type);
        let result = result.map(|link| links.push(link)).map(|()| "");
        features.note(&name, For::Ebpf, result);
    }
    let result = match netns {
        Some(netns) => link_to_netns(netns).map(|link| links.push(link)),
        None => Err("no network namespace can be made".into()),
    };
    features.note(SK_LOOKUP, For::Ebpf, result.map(|()| ""));
    pins(features, links.first());
    let result = shortcut::probe(&mut object).map(|()| "for spec.sidecar.shortcut");
    features.note(SHORTCUT, For::Shortcut, result);
}

/// Each kind, made together if possible; `failed` says why that was not possible.
fn maps(features: &mut Features, failed: Option<String>) {
    let Some(why) = failed else {
        for (_, name) in KINDS {
            features.note(name, For::Ebpf, Ok(""));
        }
        features.note(MAPS, For::Ebpf, Ok("all of this agent's"));
        return;
    };
    let by_kind = single_maps();
    for (kind, name) in KINDS {
        let result = match by_kind.get(&(kind as u32)) {
            Some(result) => result.clone(),
            // It takes BTF, and is made with the others only.
            None => match is_map_supported(kind) {
                Ok(true) => Ok(()),
                Ok(false) => Err("the kernel does not know it".into()),
                Err(error) => Err(words(&error)),
            },
        };
        features.note(name, For::Ebpf, result.map(|()| ""));
    }
    features.note(MAPS, For::Ebpf, Err::<String, _>(why));
}

/// The maps of the object one by one, by kind, without those that take BTF.
fn single_maps() -> BTreeMap<u32, Result<(), String>> {
    let mut by_kind = BTreeMap::new();
    let Ok(object) = aya_obj::Object::parse(objects::CGROUP) else {
        return by_kind;
    };
    for (name, map) in object.maps {
        let kind = map.map_type();
        if kind == MapType::SkStorage as u32 {
            continue;
        }
        let made = MapData::create(map, &name, None);
        let result = made.map(drop).map_err(|error| words(&error));
        let so_far = by_kind.entry(kind).or_insert(Ok(()));
        if so_far.is_ok() {
            *so_far = result;
        }
    }
    by_kind
}

/// The hooks of cgroups: the feature's name, the program's, and the event.
fn hooks() -> impl Iterator<Item = (String, &'static str, bpf_attach_type)> {
    CGROUP_HOOKS.iter().map(|hook| {
        let name = match hook.program {
            "socket_events" => "sockops",
            name => name,
        };
        (format!("hook_{name}"), hook.program, hook.attach_type)
    })
}

fn link(
    object: &mut Loaded,
    name: &str,
    to: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> Result<OwnedFd, String> {
    load(object, name)?;
    let program = object
        .program_mut(name)
        .ok_or("it is not in this agent's object")?;
    let program = program.fd().map_err(|error| words(&error))?;
    sys::bpf::link_create(program.as_fd(), to, attach_type)
        .map_err(|error| format!("attach: {error}"))
}

fn load(object: &mut Loaded, name: &str) -> Result<(), String> {
    let program = object
        .program_mut(name)
        .ok_or("it is not in this agent's object")?;
    let loaded = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => return Err("it is of another kind than this agent knows".into()),
    };
    loaded.map_err(|error| format!("load: {}", words(&error)))
}

fn link_to_netns(netns: &Netns) -> Result<OwnedFd, String> {
    let cookie = netns.cookie().map_err(|error| error.to_string())?;
    let tells = u32::from(sys::program::tells_interfaces());
    let mut loader = EbpfLoader::new();
    let loader = loader
        .btf(None)
        .override_global("NETNS_COOKIE", &cookie, true)
        .override_global(objects::TELLS_INTERFACES, &tells, true);
    let mut object = loader.load(objects::NETNS).map_err(|error| words(&error))?;
    load(&mut object, "inbound_decision")?;
    link(
        &mut object,
        "inbound_lookup",
        netns.file().as_fd(),
        BPF_SK_LOOKUP,
    )
}

fn pins(features: &mut Features, link: Option<&OwnedFd>) {
    let Some(link) = link else {
        for name in [LINK_PIN, LINK_DETACH] {
            features.unknown(name, For::Ebpf, "not tried: it takes a link");
        }
        return;
    };
    // The bpffs is this thread's own, and goes with it.
    let pinned = sys::bpf::pin(link.as_fd(), &Path::new(BPFFS).join("osm_check_link"));
    let result = pinned.map(|()| "").map_err(|error| error.to_string());
    features.note(LINK_PIN, For::Ebpf, result);
    let detached = sys::bpf::link_detach(link.as_fd());
    let result = detached.map(|()| "").map_err(|error| error.to_string());
    features.note(LINK_DETACH, For::Ebpf, result);
}

fn note_whole(features: &mut Features, cgroup: &Result<TemporaryCgroup>, netns: Result<Netns>) {
    let result = match (cgroup, netns) {
        (Ok(cgroup), Ok(netns)) => enrol(cgroup, netns).map_err(|error| error.to_string()),
        (Err(error), _) => Err(error.to_string()),
        (_, Err(error)) => Err(error.to_string()),
    };
    let result = result.map(|()| "a pod intercepted and let go");
    features.note(WHOLE, For::Ebpf, result);
}

/// What `attach` and `detach` do, with a pod that has no processes.
fn enrol(cgroup: &TemporaryCgroup, netns: Netns) -> Result<()> {
    let mut ebpf = Ebpf::open(&Path::new(BPFFS).join("osm-check"))?;
    let address = [192, 0, 2, 1].into();
    let name = Some("osm-check".into());
    let pod = Pod::new(name, netns, cgroup.open_again()?, vec![address])?;
    ebpf.enrol(&pod, Some(&Policy::compile(&Lists::default(), true)))?;
    ebpf.withdraw(&pod.netns)?;
    ebpf.remove_if_unused()
}
