//! The maps, opened by their pins. `osm-ebpf/src/maps.rs` defines them.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, SockHash};
use osm_ebpf_common::maps::{
    AppCalls, Counters, HandshakeKey, InterceptedPair, InterfaceKey, ListenerKey, LocalKey, Meta,
    OriginalDestination, PodEntry, PodRecord, PolicyRecord, PolicyWord, PortPage, PortPageKey,
    RangeEntry, RangeKey, RouteEntry, RouteKey, ShortcutKey, ShortcutPair, ShortcutSocket,
    SocketLayout, State,
};

use super::state::StateDir;
use crate::{
    error::{Result, Tried as _},
    sys::bpf::{self, MapInfo},
};

/// A map as this agent knows it.
pub struct Definition {
    /// The map's name, which is also that of its pins.
    pub name: &'static str,
    key_size: usize,
    value_size: usize,
}

impl Definition {
    const fn of<K, V>(name: &'static str) -> Self {
        Self {
            name,
            key_size: size_of::<K>(),
            value_size: size_of::<V>(),
        }
    }

    /// Whether a map has the sizes of this one.
    pub fn fits(&self, info: &MapInfo) -> bool {
        info.key_size as usize == self.key_size && info.value_size as usize == self.value_size
    }

    /// Whether a map has the name of this one, as far as the kernel keeps it.
    pub fn is_named(&self, info: &MapInfo) -> bool {
        let kept = self.name.len().min(info.name.len() - 1);
        info.name[..kept] == self.name.as_bytes()[..kept] && info.name[kept] == 0
    }
}

/// The maps that all versions of the agent share. [`osm_ebpf_common::SHARED_LAYOUT`] is about
/// them.
pub const SHARED: [Definition; 7] = [
    Definition::of::<u32, OriginalDestination>("REMEMBERED"),
    Definition::of::<HandshakeKey, OriginalDestination>("HANDSHAKES"),
    Definition::of::<u32, u64>("HANDSHAKES_OF_POD"),
    Definition::of::<ListenerKey, u32>("LISTENERS"),
    Definition::of::<u32, Counters>("COUNTERS"),
    Definition::of::<u64, PodRecord>("POD_RECORDS"),
    Definition::of::<u32, State>("STATE"),
];

/// The maps that versions of one layout share, and that those of another one have for themselves.
/// [`osm_ebpf_common::LAYOUT_VERSION`] is about them.
pub const OWN: [Definition; 18] = [
    Definition::of::<u64, PodEntry>("PODS"),
    Definition::of::<u32, PolicyWord>("POLICY_IN_FORCE"),
    Definition::of::<LocalKey, u32>("LOCALS"),
    Definition::of::<[u8; 4 + size_of::<RangeKey>()], RangeEntry>("RANGES"),
    Definition::of::<u32, InterceptedPair>("INTERCEPTED"),
    Definition::of::<PortPageKey, PortPage>("PORT_PAGES"),
    Definition::of::<InterfaceKey, u32>("INTERFACES"),
    Definition::of::<[u8; 4 + size_of::<RouteKey>()], RouteEntry>("ROUTES"),
    Definition::of::<u32, u64>("BOUND_BY_SIDECAR"),
    Definition::of::<(), ()>("EVENTS"),
    Definition::of::<u32, u64>("MONITOR"),
    Definition::of::<ShortcutKey, u32>("SHORTCUTS"),
    Definition::of::<u32, ShortcutSocket>("SHORTCUT_SOCKETS"),
    Definition::of::<HandshakeKey, ShortcutPair>("SHORTCUT_PAIRS"),
    Definition::of::<HandshakeKey, AppCalls>("SHORTCUT_APPS"),
    Definition::of::<u32, SocketLayout>("SOCKET_LAYOUT"),
    Definition::of::<u32, PolicyRecord>("POLICIES"),
    Definition::of::<u32, Meta>("META"),
];

/// Whether a map is called like one of ours, of whichever version.
pub fn is_map_of_ours(info: &MapInfo) -> bool {
    SHARED.iter().chain(&OWN).any(|map| map.is_named(info))
}

/// The maps that the agent reads or writes.
pub struct Maps {
    pub pods: HashMap<MapData, u64, PodEntry>,
    pub policy_in_force: Array<MapData, PolicyWord>,
    pub locals: HashMap<MapData, LocalKey, u32>,
    pub ranges: LpmTrie<MapData, RangeKey, RangeEntry>,
    pub intercepted: Array<MapData, InterceptedPair>,
    pub port_pages: HashMap<MapData, PortPageKey, PortPage>,
    pub interfaces: HashMap<MapData, InterfaceKey, u32>,
    pub routes: LpmTrie<MapData, RouteKey, RouteEntry>,
    pub handshakes: HashMap<MapData, HandshakeKey, OriginalDestination>,
    pub handshakes_of_pod: Array<MapData, u64>,
    pub listeners: SockHash<MapData, ListenerKey>,
    pub counters: PerCpuArray<MapData, Counters>,
    pub pod_records: HashMap<MapData, u64, PodRecord>,
    pub shortcut_pairs: HashMap<MapData, HandshakeKey, ShortcutPair>,
    pub shortcut_apps: HashMap<MapData, HandshakeKey, AppCalls>,
    pub socket_layout: Array<MapData, SocketLayout>,
    pub policies: HashMap<MapData, u32, PolicyRecord>,
    pub meta: Array<MapData, Meta>,
    pub state: Array<MapData, State>,
    /// All of them, to be pinned again where a pin is lost.
    held: Vec<Held>,
}

/// An open map, or program, and where it has to be pinned.
pub struct Held {
    pub path: PathBuf,
    pub object: OwnedFd,
    pub id: u32,
}

impl Maps {
    /// Opens the shared maps and those of one version.
    ///
    /// # Errors
    /// Where one is missing or is of another layout.
    pub fn open(state: &StateDir, version: u64) -> Result<Self> {
        Self::open_at(&state.maps(), &state.version(version))
    }

    /// The same, from directories.
    pub fn open_at(shared: &Path, own: &Path) -> Result<Self> {
        let mut held = Vec::new();
        for (directory, definitions) in [(shared, &SHARED[..]), (own, &OWN[..])] {
            for definition in definitions {
                held.push(hold(directory, definition)?);
            }
        }
        Ok(Self {
            pods: typed(&held, "PODS")?,
            policy_in_force: typed(&held, "POLICY_IN_FORCE")?,
            locals: typed(&held, "LOCALS")?,
            ranges: typed(&held, "RANGES")?,
            intercepted: typed(&held, "INTERCEPTED")?,
            port_pages: typed(&held, "PORT_PAGES")?,
            interfaces: typed(&held, "INTERFACES")?,
            routes: typed(&held, "ROUTES")?,
            handshakes: typed(&held, "HANDSHAKES")?,
            handshakes_of_pod: typed(&held, "HANDSHAKES_OF_POD")?,
            listeners: typed(&held, "LISTENERS")?,
            counters: typed(&held, "COUNTERS")?,
            pod_records: typed(&held, "POD_RECORDS")?,
            shortcut_pairs: typed(&held, "SHORTCUT_PAIRS")?,
            shortcut_apps: typed(&held, "SHORTCUT_APPS")?,
            socket_layout: typed(&held, "SOCKET_LAYOUT")?,
            policies: typed(&held, "POLICIES")?,
            meta: typed(&held, "META")?,
            state: typed(&held, "STATE")?,
            held,
        })
    }

    /// Every map, by the path where it has to be pinned.
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// The number of the map by which the programs know pods: that tells a version's maps from
    /// another one's.
    pub fn pods_id(&self) -> u32 {
        self.id_of("PODS")
    }

    /// The same of the map in which events are told.
    pub fn events_id(&self) -> u32 {
        self.id_of("EVENTS")
    }

    /// The maps EVENTS and MONITOR, for who listens.
    pub fn events(&self) -> Result<(RingBuf<MapData>, Array<MapData, u64>)> {
        Ok((typed(&self.held, "EVENTS")?, typed(&self.held, "MONITOR")?))
    }

    fn id_of(&self, name: &str) -> u32 {
        let found = self.held.iter().find(|held| held.path.ends_with(name));
        found.map_or(0, |held| held.id)
    }

    /// What the version's own maps are.
    pub fn meta(&self) -> Result<Meta> {
        self.meta.get(&0, 0).tried(|| "read the map META")
    }

    /// Replaces what the version's own maps are.
    pub fn set_meta(&mut self, meta: Meta) -> Result<()> {
        self.meta.set(0, meta, 0).tried(|| "write the map META")
    }

    /// Replaces what the shared maps are.
    pub fn set_state(&mut self, state: State) -> Result<()> {
        self.state.set(0, state, 0).tried(|| "write the map STATE")
    }
}

/// Opens one of the shared maps for itself.
///
/// # Errors
/// Where it is missing or is of another layout.
pub fn open_shared<M: TryFrom<Map, Error = MapError>>(directory: &Path, name: &str) -> Result<M> {
    let definition = SHARED.iter().find(|map| map.name == name);
    let definition = definition
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .tried(|| format!("open the map {name}"))?;
    typed(&[hold(directory, definition)?], name)
}

/// Opens one pin, whatever map it is; none where it is not there.
///
/// # Errors
/// Where it can't be opened, or is no map.
pub fn open_pin(path: &Path) -> Result<Option<(OwnedFd, MapInfo)>> {
    let opened = match bpf::open_pinned(path) {
        Err(error) if is_no_such_pin(&error) => return Ok(None),
        opened => opened.and_then(|map| Ok((bpf::map_info(map.as_fd())?, map))),
    };
    let (info, map) = opened.tried(|| format!("open the map {}", path.display()))?;
    Ok(Some((map, info)))
}

/// Whether there is nothing at a path.
pub fn is_no_such_pin(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn hold(directory: &Path, definition: &Definition) -> Result<Held> {
    let path = directory.join(definition.name);
    let tried = || format!("open the map {}", path.display());
    let Some((object, info)) = open_pin(&path)? else {
        return Err(io::Error::from(io::ErrorKind::NotFound)).tried(tried);
    };
    if !definition.fits(&info) {
        return Err(io::Error::other("its keys or values are of another size")).tried(tried);
    }
    Ok(Held {
        path,
        object,
        id: info.id,
    })
}

fn typed<M: TryFrom<Map, Error = MapError>>(held: &[Held], name: &str) -> Result<M> {
    let tried = || format!("open the map {name}");
    let held = held
        .iter()
        .find(|held| held.path.ends_with(name))
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .tried(tried)?;
    let object = held.object.try_clone().tried(tried)?;
    MapData::from_fd(object)
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .tried(tried)
}
