//! Excluded interfaces of pods: by name in the policy, by number and by route in the maps.

use std::collections::{HashMap, HashSet};

use aya::maps::lpm_trie::Key;
use osm_ebpf_common::maps::{InterfaceKey, RouteEntry, RouteKey};

use super::{Ebpf, found};
use crate::{
    error::{Result, Tried as _},
    netlink::{self, Network},
    pod::Pod,
    policy::Policy,
};

impl Ebpf {
    /// Makes the interfaces and routes of a pod, as they are now, known under a policy.
    /// Called before the policy comes into force, and whenever they may have changed.
    ///
    /// # Errors
    /// Where they can't be read or written.
    pub fn stage_interfaces(&mut self, pod: &Pod, policy: &Policy, id: u32) -> Result<()> {
        if policy.excluded_interfaces().is_empty() {
            return Ok(());
        }
        let (network, excluded) = read(pod, policy)?;
        self.write_interfaces(pod.netns.cookie()?, id, &excluded)?;
        self.write_routes(pod.netns.cookie()?, id, &network, &excluded)
    }

    /// Whether the interfaces and routes of a pod, as they are now, are known under a policy.
    pub(super) fn are_interfaces_known(&self, pod: &Pod, policy: &Policy, id: u32) -> Result<bool> {
        if policy.excluded_interfaces().is_empty() {
            return Ok(true);
        }
        let cookie = pod.netns.cookie()?;
        let (network, excluded) = read(pod, policy)?;
        for index in &excluded {
            let key = InterfaceKey::new(cookie, id, *index);
            let known = found(self.maps.interfaces.get(&key, 0));
            if known.tried(|| "read the map INTERFACES")?.is_none() {
                return Ok(false);
            }
        }
        for ((length, key), entry) in routes(cookie, id, &network, &excluded) {
            let known = found(self.maps.routes.get(&Key::new(length, key), 0));
            if known.tried(|| "read the map ROUTES")? != Some(entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the interfaces and routes of a pod anew, under the policy it goes by.
    ///
    /// # Errors
    /// As for [`Self::stage_interfaces`].
    pub fn refresh_interfaces(&mut self, pod: &Pod, policy: &Policy) -> Result<()> {
        match self.maps.pod(pod.netns.cookie()?)? {
            Some(entry) => {
                let id = self.maps.policy(entry.slot())?.id();
                self.stage_interfaces(pod, policy, id)
            }
            None => Ok(()),
        }
    }

    /// Removes what belongs to policies that a pod does not go by any more.
    pub(super) fn collect_interfaces(&mut self) -> Result<()> {
        let in_force = self.policies_by_pod()?;
        self.remove_interfaces(|cookie, policy| in_force.get(&cookie) != Some(&policy))
    }

    fn write_interfaces(&mut self, cookie: u64, id: u32, excluded: &HashSet<u32>) -> Result<()> {
        let wanted: HashSet<_> = excluded
            .iter()
            .map(|index| InterfaceKey::new(cookie, id, *index))
            .collect();
        for key in &wanted {
            self.maps
                .interfaces
                .insert(key, 1, 0)
                .tried(|| "write the map INTERFACES")?;
        }
        let present: Vec<InterfaceKey> = self
            .maps
            .interfaces
            .keys()
            .collect::<Result<_, _>>()
            .tried(|| "read the map INTERFACES")?;
        for key in present {
            let ours = key.netns_cookie() == cookie && key.policy() == id;
            if ours && !wanted.contains(&key) {
                found(self.maps.interfaces.remove(&key)).tried(|| "write the map INTERFACES")?;
            }
        }
        Ok(())
    }

    fn write_routes(
        &mut self,
        cookie: u64,
        id: u32,
        network: &Network,
        excluded: &HashSet<u32>,
    ) -> Result<()> {
        let wanted = routes(cookie, id, network, excluded);
        for ((length, key), entry) in &wanted {
            self.maps
                .routes
                .insert(&Key::new(*length, *key), entry, 0)
                .tried(|| "write the map ROUTES")?;
        }
        self.remove_routes(|length, key| {
            let ours = key.netns_cookie() == cookie && key.policy() == id;
            ours && !wanted.contains_key(&(length, key))
        })
    }

    pub(super) fn remove_interfaces(&mut self, unwanted: impl Fn(u64, u32) -> bool) -> Result<()> {
        let keys: Vec<InterfaceKey> = self
            .maps
            .interfaces
            .keys()
            .collect::<Result<_, _>>()
            .tried(|| "read the map INTERFACES")?;
        for key in keys {
            if unwanted(key.netns_cookie(), key.policy()) {
                found(self.maps.interfaces.remove(&key)).tried(|| "write the map INTERFACES")?;
            }
        }
        self.remove_routes(|_, key| unwanted(key.netns_cookie(), key.policy()))
    }

    fn remove_routes(&mut self, unwanted: impl Fn(u32, RouteKey) -> bool) -> Result<()> {
        let keys: Vec<Key<RouteKey>> = self
            .maps
            .routes
            .keys()
            .collect::<Result<_, _>>()
            .tried(|| "read the map ROUTES")?;
        for key in keys {
            if unwanted(key.prefix_len(), key.data()) {
                found(self.maps.routes.remove(&key)).tried(|| "write the map ROUTES")?;
            }
        }
        Ok(())
    }
}

fn read(pod: &Pod, policy: &Policy) -> Result<(Network, HashSet<u32>)> {
    let network = netlink::read(pod.netns.file())
        .tried(|| format!("read the routes of {}", pod.netns.path().display()))?;
    let excluded = policy
        .excluded_interfaces()
        .iter()
        .filter_map(|name| network.interfaces.get(name).copied())
        .collect();
    Ok((network, excluded))
}

fn routes(
    cookie: u64,
    id: u32,
    network: &Network,
    excluded: &HashSet<u32>,
) -> HashMap<(u32, RouteKey), RouteEntry> {
    network
        .routes
        .iter()
        .map(|((address, length), interface)| {
            let length = RouteKey::POD_LENGTH + u32::from(*length);
            let entry = if excluded.contains(interface) {
                RouteEntry::EXCLUDED
            } else {
                RouteEntry::OTHER
            };
            ((length, RouteKey::new(cookie, id, *address)), entry)
        })
        .collect()
}
