//! The lists in force for a pod, read back.

use std::collections::BTreeSet;

use nix::net::if_::if_nameindex;
use osm_ebpf_common::{
    decision::Direction,
    maps::{InterfaceKey, PortPage, RangeKey},
};

use super::{PodView, View};
use crate::{
    ebpf::{found, maps::Maps},
    error::{Result, Tried as _},
    pod::{Netns, inside},
    policy::Policy,
};

impl View {
    /// What a pod goes by, as its maps say; interfaces by the names that they have in the pod.
    ///
    /// # Errors
    /// Where it can't be read by this version of the agent.
    pub fn policy_of(&self, pod: &PodView, netns: &Netns) -> Result<Policy> {
        let (maps, slot) = self.maps_of_pod(pod)?;
        let word = maps.policy(slot)?;
        let mut ranges = Vec::new();
        for entry in &maps.ranges {
            let (key, entry) = entry.tried(|| "read the map RANGES")?;
            let length = key.prefix_len().saturating_sub(RangeKey::POLICY_LENGTH);
            if key.data().policy() == word.id()
                && let Ok(length) = u8::try_from(length)
            {
                ranges.push((key.data().address(), length, entry));
            }
        }
        let mut pages: Vec<(Direction, u16, PortPage)> = Vec::new();
        for entry in &maps.port_pages {
            let (key, page) = entry.tried(|| "read the map PORT_PAGES")?;
            let directions = [Direction::Outbound, Direction::Inbound];
            let of = directions.into_iter().filter(|it| key.is_for(*it));
            if key.policy() == word.id() {
                pages.extend(of.map(|direction| (direction, key.first_port(), page)));
            }
        }
        let interfaces = interfaces(maps, pod.netns_cookie, word.id(), netns)?;
        Ok(Policy::of_stored(ranges, pages, interfaces, word.flags()))
    }
}

fn interfaces(maps: &Maps, cookie: u64, policy: u32, netns: &Netns) -> Result<BTreeSet<String>> {
    let present = inside(netns.file(), || {
        let all = if_nameindex()?;
        let named = all.into_iter().map(|it| {
            let name = it.name().to_string_lossy().into_owned();
            (it.index(), name)
        });
        Ok(named.collect::<Vec<_>>())
    });
    let mut excluded = BTreeSet::new();
    for (index, name) in present.tried(|| "list the pod's interfaces")? {
        let key = InterfaceKey::new(cookie, policy, index);
        if found(maps.interfaces.get(&key, 0))
            .tried(|| "read the map INTERFACES")?
            .is_some()
        {
            excluded.insert(name);
        }
    }
    Ok(excluded)
}
