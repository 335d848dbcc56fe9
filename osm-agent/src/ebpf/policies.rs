//! Policies in the maps: written whole, shared by pods with equal lists, removed when the
//! last of them has gone on to another.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    thread,
    time::Duration,
};

use aya::maps::lpm_trie::Key;
use osm_ebpf_common::{
    address::Address,
    maps::{PolicyRecord, PolicyWord, PortPageKey, RangeKey},
};

use super::{Ebpf, found};
use crate::{
    error::{Result, Tried as _},
    policy::{Policy, Range},
    sys,
};

const NO_PROGRAM_RUNS_SO_LONG: Duration = Duration::from_millis(100);

impl Ebpf {
    /// The word that puts a policy in force. It is written first where it is not there yet, and
    /// written again where something of it was removed.
    pub(super) fn ensure_policy(&mut self, policy: &Policy) -> Result<PolicyWord> {
        self.prepare_shortcut(policy)?;
        if policy.is_empty() {
            return self.word(policy, 0);
        }
        let digest = policy.digest();
        if let Some(id) = self.policy_id(&digest)? {
            if !self.policy_faults(id, policy)?.is_empty() {
                self.write_lists(id, policy)?;
                self.remove_unwanted(id, policy)?;
            }
            return self.word(policy, id);
        }
        let id = self.stage(policy)?;
        let record = PolicyRecord { digest };
        self.maps
            .policies
            .insert(id, record, 0)
            .tried(|| "write the map POLICIES")?;
        self.set_staged(0)?;
        self.word(policy, id)
    }

    /// The id of the policy with that digest.
    pub(super) fn policy_id(&self, digest: &[u8; 32]) -> Result<Option<u32>> {
        for entry in &self.maps.policies {
            let (id, record) = entry.tried(|| "read the map POLICIES")?;
            if record.digest == *digest {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// How the maps differ from what [`Self::write_lists`] makes of them, in words.
    pub(super) fn policy_faults(&self, id: u32, policy: &Policy) -> Result<Vec<String>> {
        if let Some(faults) = self.pass.borrow().policies.get(&id) {
            return Ok(faults.clone());
        }
        let mut faults = Vec::new();
        let (mut ranges, mut pages) = (0, 0);
        for range in policy.ranges() {
            let key = range_key(id, range);
            // A look-up finds the longest range that holds this one.
            let there = found(self.maps.ranges.get(&key, 0)).tried(|| "read the map RANGES")?;
            if there != Some(range.stored()) {
                faults.push(format!(
                    "the range {}/{} was missing",
                    range.address(),
                    range.length()
                ));
            }
            ranges += 1;
        }
        for (direction, first_port, page) in policy.port_pages() {
            let key = PortPageKey::new(id, direction, first_port);
            let there =
                found(self.maps.port_pages.get(&key, 0)).tried(|| "read the map PORT_PAGES")?;
            if there != Some(*page) {
                faults.push(format!(
                    "ports from {first_port} on were not as they were written"
                ));
            }
            pages += 1;
        }
        let counted = self.counted_entries(id)?;
        if faults.is_empty() && counted != (ranges, pages) {
            faults.push(format!(
                "{} ranges and {} pages of ports were in the maps, not {ranges} and {pages}",
                counted.0, counted.1
            ));
        }
        let mut pass = self.pass.borrow_mut();
        pass.policies.insert(id, faults.clone());
        Ok(faults)
    }

    /// How many ranges and pages there are under an id.
    fn counted_entries(&self, id: u32) -> Result<(usize, usize)> {
        if let Some(counted) = &self.pass.borrow().entries {
            return Ok(counted.get(&id).copied().unwrap_or_default());
        }
        let mut counted: HashMap<u32, (usize, usize)> = HashMap::new();
        for key in self.maps.ranges.keys() {
            let key = key.tried(|| "read the map RANGES")?;
            counted.entry(key.data().policy()).or_default().0 += 1;
        }
        for key in self.maps.port_pages.keys() {
            let key = key.tried(|| "read the map PORT_PAGES")?;
            counted.entry(key.policy()).or_default().1 += 1;
        }
        let of_id = counted.get(&id).copied().unwrap_or_default();
        self.pass.borrow_mut().entries = Some(counted);
        Ok(of_id)
    }

    fn remove_unwanted(&mut self, id: u32, policy: &Policy) -> Result<()> {
        let ranges: HashSet<(u32, Address)> = policy
            .ranges()
            .iter()
            .map(|range| (range_key(id, range).prefix_len(), range.address()))
            .collect();
        let pages: HashSet<PortPageKey> = policy
            .port_pages()
            .map(|(direction, first_port, _)| PortPageKey::new(id, direction, first_port))
            .collect();
        self.remove_lists(
            id,
            |key| !ranges.contains(&(key.prefix_len(), key.data().address())),
            |key| !pages.contains(key),
        )
    }

    /// Removes the policies that no pod goes by any more.
    pub(super) fn collect_policies(&mut self) -> Result<()> {
        let used = self.policies_in_use()?;
        let unused: Vec<u32> = self
            .maps
            .policies
            .keys()
            .filter(|id| id.as_ref().map_or(true, |id| !used.contains(id)))
            .collect::<Result<_, _>>()
            .tried(|| "read the map POLICIES")?;
        if unused.is_empty() {
            return self.collect_interfaces();
        }
        // A program may have read the old id just before the change.
        if sys::netns::wait_for_running_programs().is_err() {
            // It is refused where CPUs run without ticks (nohz_full). A program runs for
            // microseconds and can be neither preempted nor put to sleep for long.
            thread::sleep(NO_PROGRAM_RUNS_SO_LONG);
        }
        for id in unused {
            self.set_staged(id)?;
            self.maps
                .policies
                .remove(&id)
                .tried(|| "write the map POLICIES")?;
            self.remove_all_lists(id)?;
            self.set_staged(0)?;
        }
        self.collect_interfaces()
    }

    /// Removes what a killed agent had written of a policy, or left of one.
    pub(super) fn recover_policies(&mut self) -> Result<()> {
        let staged = self.maps.meta()?.staged_policy;
        if staged == 0 {
            return Ok(());
        }
        let complete = found(self.maps.policies.get(&staged, 0))
            .tried(|| "read the map POLICIES")?
            .is_some();
        if !complete {
            self.remove_all_lists(staged)?;
        }
        self.set_staged(0)
    }

    /// Writes a policy's lists under a new id, which no pod goes by yet.
    fn stage(&mut self, policy: &Policy) -> Result<u32> {
        let mut meta = self.maps.meta()?;
        let id = meta.next_policy;
        meta.next_policy += 1;
        meta.staged_policy = id;
        self.maps.set_meta(meta)?;
        let written = self.write_lists(id, policy);
        if written.is_err() {
            // The error that is reported is the first one; `recover_policies` tries again.
            if self.remove_all_lists(id).is_ok() {
                let _ = self.set_staged(0);
            }
        }
        written.map(|()| id)
    }

    fn write_lists(&mut self, id: u32, policy: &Policy) -> Result<()> {
        self.pass.borrow_mut().forget_lists();
        for range in policy.ranges() {
            let key = range_key(id, range);
            self.maps
                .ranges
                .insert(&key, range.stored(), 0)
                .tried(|| format!("add the range {range:?} to the map RANGES"))?;
        }
        for (direction, first_port, page) in policy.port_pages() {
            let key = PortPageKey::new(id, direction, first_port);
            self.maps
                .port_pages
                .insert(key, *page, 0)
                .tried(|| "add ports to the map PORT_PAGES")?;
        }
        Ok(())
    }

    fn remove_all_lists(&mut self, id: u32) -> Result<()> {
        self.remove_lists(id, |_| true, |_| true)
    }

    fn remove_lists(
        &mut self,
        id: u32,
        is_range_unwanted: impl Fn(&Key<RangeKey>) -> bool,
        is_page_unwanted: impl Fn(&PortPageKey) -> bool,
    ) -> Result<()> {
        self.pass.borrow_mut().forget_lists();
        let ranges: Vec<_> = self
            .maps
            .ranges
            .keys()
            .filter(|key| {
                key.as_ref().map_or(true, |key| {
                    key.data().policy() == id && is_range_unwanted(key)
                })
            })
            .collect::<Result<_, _>>()
            .tried(|| "read the map RANGES")?;
        for key in ranges {
            found(self.maps.ranges.remove(&key)).tried(|| "remove from the map RANGES")?;
        }
        let pages: Vec<_> = self
            .maps
            .port_pages
            .keys()
            .filter(|key| {
                key.as_ref()
                    .map_or(true, |key| key.policy() == id && is_page_unwanted(key))
            })
            .collect::<Result<_, _>>()
            .tried(|| "read the map PORT_PAGES")?;
        for key in pages {
            found(self.maps.port_pages.remove(&key)).tried(|| "remove from the map PORT_PAGES")?;
        }
        Ok(())
    }

    fn policies_in_use(&self) -> Result<BTreeSet<u32>> {
        Ok(self.policies_by_pod()?.into_values().collect())
    }

    /// Which policy each pod goes by, by netns cookie.
    pub(super) fn policies_by_pod(&self) -> Result<BTreeMap<u64, u32>> {
        let mut used = BTreeMap::new();
        for entry in &self.maps.pods {
            let (cookie, pod) = entry.tried(|| "read the map PODS")?;
            let word = self
                .maps
                .policy_in_force
                .get(&pod.slot(), 0)
                .tried(|| "read the map POLICY_IN_FORCE")?;
            used.insert(cookie, word.id());
        }
        Ok(used)
    }

    fn set_staged(&mut self, id: u32) -> Result<()> {
        let mut meta = self.maps.meta()?;
        meta.staged_policy = id;
        self.maps.set_meta(meta)
    }
}

fn range_key(id: u32, range: &Range) -> Key<RangeKey> {
    let length = RangeKey::POLICY_LENGTH + u32::from(range.length());
    Key::new(length, RangeKey::new(id, range.address()))
}
