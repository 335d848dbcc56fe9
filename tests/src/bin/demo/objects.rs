//! What eBPF interception holds in the kernel.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{MapInfo, loaded_maps};
use aya::programs::{loaded_links, loaded_programs};
use osm_tests::StateDir;

/// The kernel frees what nothing refers to after a grace period.
const GRACE: Duration = Duration::from_secs(3);

/// BPF objects by their IDs, which the kernel does not give away a second time.
#[derive(Debug, Default)]
pub struct Objects {
    pins: usize,
    maps: BTreeSet<u32>,
    programs: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

impl Objects {
    /// Everything that belongs to the pinned maps: the programs that use them, and the links that
    /// attach those.
    pub fn of(state: &StateDir) -> Self {
        let pins = state.pins();
        let maps: BTreeSet<_> = pins
            .iter()
            .filter(|pin| !pin.starts_with("pods"))
            .filter_map(|pin| MapInfo::from_pin(state.path().join(pin)).ok())
            .map(|map| map.id())
            .collect();
        let uses_them = |used: Option<Vec<u32>>| used.iter().flatten().any(|id| maps.contains(id));
        let programs: BTreeSet<_> = loaded_programs()
            .flatten()
            .filter(|program| program.map_ids().is_ok_and(uses_them))
            .map(|program| program.id())
            .collect();
        let links = loaded_links()
            .flatten()
            .filter(|link| programs.contains(&link.program_id()))
            .map(|link| link.id())
            .collect();
        Self {
            pins: pins.len(),
            maps,
            programs,
            links,
        }
    }

    /// What is wrong with `left` being left of these.
    pub fn problems(&self, left: &Self) -> Vec<String> {
        // Where nothing was found, finding nothing later means nothing.
        let found_nothing = self.counts().contains(&0);
        let something_left = left.counts() != [0; 4];
        [
            found_nothing.then_some("not everything was found while the pod was attached"),
            something_left.then_some("the agent left something behind"),
        ]
        .into_iter()
        .flatten()
        .map(str::to_owned)
        .collect()
    }

    /// How many of which there are, in words: pins, and the rest.
    pub fn out_of(&self, all: &Self) -> [String; 2] {
        let [pins, links, programs, maps] = self.counts();
        let [all_pins, all_links, all_programs, all_maps] = all.counts();
        [
            format!("pins {pins}/{all_pins}"),
            format!(
                "links {links}/{all_links}, programs {programs}/{all_programs}, maps {maps}/{all_maps}"
            ),
        ]
    }

    /// Those that are still there, once the kernel had time to free them.
    pub fn left(&self, state: &StateDir) -> Self {
        let deadline = Instant::now() + GRACE;
        loop {
            let left = self.left_now(state);
            if left.counts() == [0; 4] || Instant::now() > deadline {
                return left;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn counts(&self) -> [usize; 4] {
        let Self {
            pins,
            maps,
            programs,
            links,
        } = self;
        [*pins, links.len(), programs.len(), maps.len()]
    }

    fn left_now(&self, state: &StateDir) -> Self {
        let among = |ids: &BTreeSet<u32>, id: &u32| ids.contains(id);
        Self {
            pins: state.pins().len(),
            maps: loaded_maps()
                .flatten()
                .map(|map| map.id())
                .filter(|id| among(&self.maps, id))
                .collect(),
            programs: loaded_programs()
                .flatten()
                .map(|program| program.id())
                .filter(|id| among(&self.programs, id))
                .collect(),
            links: loaded_links()
                .flatten()
                .map(|link| link.id())
                .filter(|id| among(&self.links, id))
                .collect(),
        }
    }
}
