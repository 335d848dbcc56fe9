//! A pod's maps, asked as the programs ask them.

use std::cell::RefCell;

use aya::maps::{MapError, lpm_trie::Key};
use osm_ebpf_common::{
    address::Address,
    decision::{self, Direction, RangeRule},
    maps::{
        InterfaceKey, LocalKey, Origin, PodEntry, PolicyWord, PortPageKey, RangeEntry, RangeKey,
        RouteEntry, RouteKey,
    },
};

use crate::{
    ebpf::{found, maps::Maps},
    error::{Result, Tried as _},
};

/// A pod under the policy that was in force when it was opened.
pub struct Asked<'a> {
    maps: &'a Maps,
    entry: PodEntry,
    policy: PolicyWord,
    failed: RefCell<Option<MapError>>,
}

/// The range that decided on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeItem {
    /// Its first address.
    pub address: Address,
    /// How many bits of the 128-bit form count: 96 more than IPv4 people write.
    pub length: u8,
    /// What it says, and whose list.
    pub entry: RangeEntry,
}

impl<'a> Asked<'a> {
    pub(super) fn new(maps: &'a Maps, cookie: u64) -> Result<Option<Self>> {
        let Some(entry) = maps.pod(cookie)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            maps,
            entry,
            policy: maps.policy(entry.slot())?,
            failed: RefCell::new(None),
        }))
    }

    /// Whether a process of that user, as the initial user namespace numbers it, is the sidecar's; without a
    /// cgroup, it is taken to be in the sidecar's.
    #[must_use]
    pub fn is_sidecar(&self, user: u32, cgroup: Option<u64>) -> bool {
        let cgroup = cgroup.or(self.entry.sidecar_cgroup());
        self.entry
            .is_sidecar(self.policy, user, || cgroup.unwrap_or_default())
    }

    /// The address that the pod speaks from; none where it has none of that family.
    #[must_use]
    pub fn source(&self, v4: bool) -> Option<Address> {
        let own = if v4 {
            self.entry.address_v4()
        } else {
            self.entry.address_v6()
        };
        (!own.is_unspecified()).then_some(own)
    }

    /// What was decided with what was read, unless something could not be read.
    ///
    /// # Errors
    /// Where a map could not be read.
    pub fn checked<T>(&self, decided: T) -> Result<T> {
        match self.failed.take() {
            None => Ok(decided),
            Some(error) => Err(error).tried(|| "read the pod's lists"),
        }
    }

    /// The longest range that holds an address: the one that decides. None where there is none.
    ///
    /// # Errors
    /// Where the ranges can't be read.
    pub fn range_item(&self, destination: &Address) -> Result<Option<RangeItem>> {
        let bits = u128::from_be_bytes(destination.octets());
        let mut longest: Option<RangeItem> = None;
        for entry in &self.maps.ranges {
            let (key, entry) = entry.tried(|| "read the map RANGES")?;
            let length = key.prefix_len().saturating_sub(RangeKey::POLICY_LENGTH);
            let length = u8::try_from(length).unwrap_or(128);
            let (range, address) = (key.data(), key.data().address());
            let differing = bits ^ u128::from_be_bytes(address.octets());
            let holds = differing.leading_zeros() >= u32::from(length);
            let is_longer = longest.is_none_or(|it| it.length < length);
            if range.policy() == self.policy.id() && holds && is_longer {
                longest = Some(RangeItem {
                    address,
                    length,
                    entry,
                });
            }
        }
        Ok(longest)
    }

    /// Whose list of excluded ports a port is on.
    ///
    /// # Errors
    /// Where the ports can't be read.
    pub fn port_origin(&self, direction: Direction, port: u16) -> Result<Origin> {
        let key = PortPageKey::new(self.policy.id(), direction, port);
        let page = found(self.maps.port_pages.get(&key, 0)).tried(|| "read the map PORT_PAGES")?;
        Ok(page.map_or(Origin::NONE, |page| page.origin(port)))
    }

    /// What a look-up found; an error is kept for [`Self::checked`].
    fn ask<T>(&self, looked_up: Result<T, MapError>) -> Option<T> {
        found(looked_up).unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            None
        })
    }
}

impl decision::Pod for Asked<'_> {
    fn is_dual_stack(&self) -> bool {
        self.policy.has(PolicyWord::DUAL_STACK)
    }

    fn owns(&self, address: &Address) -> bool {
        let key = LocalKey::new(self.entry.netns_cookie(), *address);
        *address == self.entry.address_v4()
            || *address == self.entry.address_v6()
            || self.ask(self.maps.locals.get(&key, 0)).is_some()
    }

    fn range(&self, destination: &Address) -> RangeRule {
        let key = RangeKey::new(self.policy.id(), *destination);
        let has_ranges = self.policy.has(PolicyWord::RANGES);
        let key = has_ranges.then(|| Key::new(RangeKey::FULL_LENGTH, key));
        let entry = key.and_then(|key| self.ask(self.maps.ranges.get(&key, 0)));
        RangeEntry::rule(entry, self.policy, destination)
    }

    fn excludes_port(&self, direction: Direction, port: u16) -> bool {
        let flag = match direction {
            Direction::Outbound => PolicyWord::OUTBOUND_PORTS,
            Direction::Inbound => PolicyWord::INBOUND_PORTS,
        };
        let key = PortPageKey::new(self.policy.id(), direction, port);
        self.policy.has(flag)
            && self
                .ask(self.maps.port_pages.get(&key, 0))
                .is_some_and(|page| page.contains(port))
    }

    fn leaves_by_excluded_interface(&self, destination: &Address) -> bool {
        let key = RouteKey::new(self.entry.netns_cookie(), self.policy.id(), *destination);
        let key = Key::new(RouteKey::FULL_LENGTH, key);
        self.policy.has(PolicyWord::INTERFACES)
            && self.ask(self.maps.routes.get(&key, 0)) == Some(RouteEntry::EXCLUDED)
    }

    fn excludes_interface(&self, index: u32) -> bool {
        let key = InterfaceKey::new(self.entry.netns_cookie(), self.policy.id(), index);
        self.policy.has(PolicyWord::INTERFACES)
            && self.ask(self.maps.interfaces.get(&key, 0)).is_some()
    }

    fn local_host_is_pod_address(&self) -> bool {
        self.policy.has(PolicyWord::POD_IP)
    }

    fn guards_ports(&self) -> bool {
        !self.policy.has(PolicyWord::OPEN_PORTS)
    }
}
