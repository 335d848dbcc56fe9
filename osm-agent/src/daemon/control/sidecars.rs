//! Sidecars that end and start anew, seen at once: the new one is in another cgroup, and is taken for an
//! application as long as the former one counts.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::mpsc::Sender,
    thread,
};

use inotify::{Inotify, WatchDescriptor, WatchMask, Watches};

use crate::{
    daemon::source::{Event, PodKey},
    pod::{Pod, SidecarCgroup},
    policy::Policy,
};

/// Room for some events: a name has at most 255 bytes.
const BUFFER: usize = 4096;

/// By which the kernel says that a cgroup has its first process, or its last one has ended.
const POPULATED: &str = "cgroup.events";

/// What is watched of the pods whose sidecars are known by their cgroups.
pub(super) struct Sidecars {
    /// None where the kernel has no room for it: changes are seen at the next resync.
    watches: Option<Watches>,
    watched: HashMap<WatchDescriptor, PodKey>,
}

impl Sidecars {
    /// `tell` is told of what happens.
    pub(super) fn new(tell: Sender<Event>) -> Self {
        let watches = begin(tell)
            .inspect_err(|error| {
                tracing::warn!(
                    "cannot watch sidecars' cgroups: {error}; one that starts anew is known at \
                     the next --resync"
                );
            })
            .ok();
        Self {
            watches,
            watched: HashMap::new(),
        }
    }

    /// Whose cgroup it is.
    pub(super) fn pod(&self, watched: &WatchDescriptor) -> Option<&PodKey> {
        self.watched.get(watched)
    }

    /// Watches these paths of pods, and no others.
    pub(super) fn watch<'a>(&mut self, wanted: impl Iterator<Item = (&'a PodKey, &'a [PathBuf])>) {
        let Some(watches) = &mut self.watches else {
            return;
        };
        let mut now = HashMap::new();
        for (key, paths) in wanted {
            // What is watched already stays so, with the same number. What has just gone was seen to go.
            let added = paths
                .iter()
                .filter_map(|path| watches.add(path, mask(path)).ok());
            now.extend(added.map(|it| (it, key.clone())));
        }
        for old in self.watched.keys().filter(|it| !now.contains_key(*it)) {
            // The kernel drops those of cgroups that are gone by itself.
            let _ = watches.remove(old.clone());
        }
        self.watched = now;
    }
}

/// What is to be watched of a pod.
pub(super) fn paths(pod: &Pod, policy: &Policy) -> Vec<PathBuf> {
    if !policy.asks_for_cgroup() {
        return Vec::new();
    }
    let mut paths = vec![pod.cgroup.path().to_owned()];
    if let SidecarCgroup::Known(cgroup) = &pod.sidecar_cgroup {
        paths.push(cgroup.path().join(POPULATED));
    }
    paths
}

fn mask(path: &Path) -> WatchMask {
    if path.ends_with(POPULATED) {
        WatchMask::MODIFY
    } else {
        WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR
    }
}

fn begin(tell: Sender<Event>) -> io::Result<Watches> {
    let mut inotify = Inotify::init()?;
    let watches = inotify.watches();
    let forward = move || {
        let mut buffer = [0; BUFFER];
        while let Ok(events) = inotify.read_events_blocking(&mut buffer) {
            for event in events {
                if tell.send(Event::Cgroup(event.wd)).is_err() {
                    return;
                }
            }
        }
    };
    thread::Builder::new()
        .name("osm-sidecars".into())
        .spawn(forward)?;
    Ok(watches)
}
