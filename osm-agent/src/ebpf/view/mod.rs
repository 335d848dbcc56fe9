//! What is pinned in a state directory, read as it is: without its lock, so that it can be read beside a
//! running agent, and without changing anything.

mod ask;
mod pod;
mod policy;
mod tally;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap as Index},
    fs, io,
    os::{fd::AsRawFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, MapData, PerCpuArray, SkStorage};
use osm_ebpf_common::maps::{Counters, OriginalDestination, PodRecord};

use super::{found, layout::Layout, maps, objects};
use crate::{
    error::{Result, Tried as _},
    pod::cgroup_root,
};
use maps::Maps;

pub use ask::{Asked, RangeItem};
pub use pod::{Listeners, PodView, PolicyView};
pub use tally::{Lists, ProgramRuns, Tally};

/// The pods behind eBPF on this node, whichever version of the agent they are from.
pub struct View {
    layout: Layout,
    records: HashMap<MapData, u64, PodRecord>,
    counters: PerCpuArray<MapData, Counters>,
    remembered: SkStorage<MapData, OriginalDestination>,
    /// Of every version that runs for a pod; an error in words where they can't be read.
    versions: BTreeMap<u64, Result<Maps, String>>,
    cgroups: OnceCell<Index<u64, PathBuf>>,
    sizes: OnceCell<pod::Sizes>,
    listeners: OnceCell<Index<u64, Listeners>>,
}

/// A pod by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its network namespace.
    pub netns_cookie: u64,
    /// What people call it.
    pub name: String,
    /// Whether this version of the agent can read the maps of the programs that run for it.
    pub is_readable: bool,
}

impl View {
    /// Opens what is there; none where there is nothing of ours.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn open(state_dir: &Path) -> Result<Option<Self>> {
        let layout = Layout::new(state_dir);
        let shared = layout.maps();
        match fs::metadata(shared.join("POD_RECORDS")) {
            Err(error) if maps::is_no_such_pin(&error) => return Ok(None),
            metadata => metadata.tried(|| format!("read {}", shared.display()))?,
        };
        let records: HashMap<_, u64, PodRecord> = maps::open_shared(&shared, "POD_RECORDS")?;
        let mut versions = BTreeMap::new();
        for record in &records {
            let (_, record) = record.tried(|| "read the map POD_RECORDS")?;
            versions.entry(record.version()).or_insert_with(|| {
                Maps::open_at(&shared, &layout.version(record.version()))
                    .map_err(|error| error.to_string())
            });
        }
        Ok(Some(Self {
            counters: maps::open_shared(&shared, "COUNTERS")?,
            remembered: maps::open_shared(&shared, "REMEMBERED")?,
            layout,
            records,
            versions,
            cgroups: OnceCell::new(),
            sizes: OnceCell::new(),
            listeners: OnceCell::new(),
        }))
    }

    /// Every pod, by name.
    ///
    /// # Errors
    /// Where one can't be read.
    pub fn pods(&self) -> Result<Vec<PodView>> {
        let mut pods = Vec::new();
        for (cookie, record) in self.records()? {
            pods.push(self.look_at(cookie, &record)?);
        }
        pods.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(pods)
    }

    /// The pod of a name.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn pod(&self, name: &str) -> Result<Option<PodView>> {
        let mut records = self.records()?.into_iter();
        let found = records.find(|(_, record)| record.name() == name);
        found
            .map(|(cookie, record)| self.look_at(cookie, &record))
            .transpose()
    }

    /// The pods that have links and no record, by their cookies: what is left of them where somebody has
    /// removed pins. Of all pods where there is no view.
    ///
    /// # Errors
    /// Where they can't be listed.
    pub fn unrecorded(view: Option<&Self>, state_dir: &Path) -> Result<Vec<u64>> {
        let mut linked = Layout::new(state_dir).linked_pods()?;
        if let Some(view) = view {
            let recorded = view.records()?;
            linked.retain(|cookie| recorded.iter().all(|(recorded, _)| recorded != cookie));
        }
        Ok(linked)
    }

    /// Every pod, and no more of it than its name.
    ///
    /// # Errors
    /// Where they can't be read.
    pub fn known(&self) -> Result<Vec<Known>> {
        let records = self.records()?.into_iter();
        Ok(records
            .map(|(netns_cookie, record)| Known {
                netns_cookie,
                name: record.name().into(),
                is_readable: self.maps_of(&record).is_ok(),
            })
            .collect())
    }

    /// The maps of the versions that run for a pod, as far as this one can read them.
    pub(super) fn maps(&self) -> impl Iterator<Item = &Maps> {
        self.versions.values().flatten()
    }

    /// A pod as the programs see it; none where they don't know it.
    ///
    /// # Errors
    /// Where its maps can't be read by this version of the agent.
    pub fn asked(&self, pod: &PodView) -> Result<Option<Asked<'_>>> {
        let (maps, _) = self.maps_of_pod(pod)?;
        Asked::new(maps, pod.netns_cookie)
    }

    /// What a socket remembers of what was dialled.
    ///
    /// # Errors
    /// Where the kernel can't tell.
    pub fn remembered(&self, socket: &impl AsRawFd) -> Result<Option<OriginalDestination>> {
        found(self.remembered.get(socket, 0)).tried(|| "read the map REMEMBERED")
    }

    /// The maps in which a pod is described, and its slot there.
    fn maps_of_pod(&self, pod: &PodView) -> Result<(&Maps, u32)> {
        let record = self.records.get(&pod.netns_cookie, 0);
        let record = record.tried(|| "read the map POD_RECORDS")?;
        let tried = || format!("read the lists of {}", pod.name);
        let maps = self.maps_of(&record).map_err(io::Error::other);
        Ok((maps.tried(tried)?, record.slot()))
    }

    fn records(&self) -> Result<Vec<(u64, PodRecord)>> {
        let records = self.records.iter().collect::<Result<_, _>>();
        records.tried(|| "read the map POD_RECORDS")
    }

    /// Whether a record is what it was when it was read.
    fn is_still(&self, cookie: u64, record: &PodRecord) -> Result<bool> {
        let now = found(self.records.get(&cookie, 0)).tried(|| "read the map POD_RECORDS")?;
        Ok(now.is_some_and(|now| now.slot() == record.slot()))
    }

    fn maps_of(&self, record: &PodRecord) -> Result<&Maps, String> {
        match self.versions.get(&record.version()) {
            Some(Ok(maps)) => Ok(maps),
            Some(Err(why)) if record.version() == objects::version() => Err(format!(
                "a map of its programs is pinned no longer, which the node agent and `osm-agent attach` mend: {why}"
            )),
            Some(Err(why)) => Err(format!(
                "it is intercepted by another version of the agent, whose maps this one can't read: {why}"
            )),
            None => Err("it has only just been attached".into()),
        }
    }

    /// Where a cgroup is, by the kernel's number of it.
    fn cgroup_path(&self, id: u64) -> Option<PathBuf> {
        let found = self.cgroups.get_or_init(|| {
            let mut found = Index::new();
            if let Ok(root) = cgroup_root() {
                number(&root, &mut found);
            }
            found
        });
        found.get(&id).cloned()
    }
}

/// Notes the numbers of the cgroups below one. One that is removed meanwhile is left out.
fn number(directory: &Path, found: &mut Index<u64, PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            let path = entry.path();
            if let Ok(metadata) = entry.metadata() {
                found.insert(metadata.ino(), path.clone());
            }
            number(&path, found);
        }
    }
}
