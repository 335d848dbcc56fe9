//! The shared maps, opened by their pins. `osm-ebpf/src/maps.rs` defines them.

use std::path::Path;

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, SockHash};
use osm_ebpf_common::maps::{
    Counters, HandshakeKey, InterfaceKey, ListenerKey, LocalKey, Meta, OriginalDestination,
    PodEntry, PodRecord, PolicyRecord, PolicyWord, PortPage, PortPageKey, RangeEntry, RangeKey,
    RouteEntry, RouteKey,
};

use crate::error::{Result, Tried as _};

/// The maps' names, which are also those of their pins.
pub const NAMES: [&str; 15] = [
    "PODS",
    "POLICY_IN_FORCE",
    "LOCALS",
    "RANGES",
    "PORT_PAGES",
    "INTERFACES",
    "ROUTES",
    "REMEMBERED",
    "HANDSHAKES",
    "HANDSHAKES_OF_POD",
    "LISTENERS",
    "COUNTERS",
    "POD_RECORDS",
    "POLICIES",
    "META",
];

/// The maps that the agent reads or writes.
pub struct Maps {
    pub pods: HashMap<MapData, u64, PodEntry>,
    pub policy_in_force: Array<MapData, PolicyWord>,
    pub locals: HashMap<MapData, LocalKey, u32>,
    pub ranges: LpmTrie<MapData, RangeKey, RangeEntry>,
    pub port_pages: HashMap<MapData, PortPageKey, PortPage>,
    pub interfaces: HashMap<MapData, InterfaceKey, u32>,
    pub routes: LpmTrie<MapData, RouteKey, RouteEntry>,
    pub handshakes: HashMap<MapData, HandshakeKey, OriginalDestination>,
    pub handshakes_of_pod: Array<MapData, u64>,
    pub listeners: SockHash<MapData, ListenerKey>,
    pub counters: PerCpuArray<MapData, Counters>,
    pub pod_records: HashMap<MapData, u64, PodRecord>,
    pub policies: HashMap<MapData, u32, PolicyRecord>,
    pub meta: Array<MapData, Meta>,
}

impl Maps {
    /// Opens the pins in a directory.
    ///
    /// # Errors
    /// Where one is missing.
    pub fn open(directory: &Path) -> Result<Self> {
        Ok(Self {
            pods: open(directory, "PODS")?,
            policy_in_force: open(directory, "POLICY_IN_FORCE")?,
            locals: open(directory, "LOCALS")?,
            ranges: open(directory, "RANGES")?,
            port_pages: open(directory, "PORT_PAGES")?,
            interfaces: open(directory, "INTERFACES")?,
            routes: open(directory, "ROUTES")?,
            handshakes: open(directory, "HANDSHAKES")?,
            handshakes_of_pod: open(directory, "HANDSHAKES_OF_POD")?,
            listeners: open(directory, "LISTENERS")?,
            counters: open(directory, "COUNTERS")?,
            pod_records: open(directory, "POD_RECORDS")?,
            policies: open(directory, "POLICIES")?,
            meta: open(directory, "META")?,
        })
    }

    /// What the maps are.
    pub fn meta(&self) -> Result<Meta> {
        self.meta.get(&0, 0).tried(|| "read the map META")
    }

    /// Replaces what the maps are.
    pub fn set_meta(&mut self, meta: Meta) -> Result<()> {
        self.meta.set(0, meta, 0).tried(|| "write the map META")
    }
}

fn open<M: TryFrom<Map, Error = MapError>>(directory: &Path, name: &str) -> Result<M> {
    let path = directory.join(name);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .tried(|| format!("open the map {}", path.display()))
}
