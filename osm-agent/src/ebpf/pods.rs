//! Pods in the maps: described before their programs are attached, removed after.

use std::collections::BTreeSet;

use aya::{maps::PerCpuValues, util::nr_cpus};
use osm_ebpf_common::{
    address::Address,
    maps::{Counters, LocalKey, MAX_PODS, PodEntry, PodRecord, PolicyWord},
};

use super::{Ebpf, Intercepted, found, links, maps::Maps, pins};
use crate::{
    error::{Error, Result, Tried as _},
    pod::Pod,
    sys,
};

impl Ebpf {
    /// The netns cookie of the pod with that name.
    ///
    /// # Errors
    /// Where the map can't be read.
    pub fn cookie_of(&self, name: &str) -> Result<Option<u64>> {
        let records = self.records()?.into_iter();
        Ok(records
            .filter(|(_, record)| record.name() == name)
            .map(|(cookie, _)| cookie)
            .next())
    }

    /// The pods that have records or links here, whether or not they are intercepted whole.
    ///
    /// # Errors
    /// Where they can't be read.
    pub fn pods(&self) -> Result<Vec<Intercepted>> {
        let mut pods = Vec::new();
        let mut linked: BTreeSet<u64> = self.state.linked_pods()?.into_iter().collect();
        for (netns_cookie, record) in self.records()? {
            linked.remove(&netns_cookie);
            pods.push(Intercepted {
                name: record.name().into(),
                netns_cookie,
                cgroup: record.cgroup(),
                is_gone: links::is_netns_gone(&self.state.pod(netns_cookie))?,
            });
        }
        for netns_cookie in linked {
            pods.push(Intercepted {
                name: String::new(),
                netns_cookie,
                cgroup: 0,
                is_gone: links::is_netns_gone(&self.state.pod(netns_cookie))?,
            });
        }
        Ok(pods)
    }

    /// Refuses a pod whose name another one has, or whose namespace has another name. One that
    /// is gone is let go of.
    ///
    /// # Errors
    /// Says which.
    pub fn check_name(&mut self, pod: &Pod) -> Result<()> {
        let cookie = pod.netns.cookie()?;
        if let Some(record) = self.maps.record(cookie)? {
            if record.name() == pod.name {
                return Ok(());
            }
            // Without cookies, a namespace may have the number of one that is gone.
            if !sys::netns::has_cookies() && links::is_netns_gone(&self.state.pod(cookie))? {
                return self.withdraw_pod(cookie);
            }
            return Err(Error::input(
                format!("--pod {}", pod.name),
                format!("this network namespace is attached as {}", record.name()),
                format!("give --pod {}, or detach it first", record.name()),
            ));
        }
        let Some(namesake) = self.cookie_of(&pod.name)? else {
            return Ok(());
        };
        if links::is_netns_gone(&self.state.pod(namesake))? {
            return self.withdraw_pod(namesake);
        }
        Err(Error::input(
            format!("--pod {}", pod.name),
            "a pod of that name, with another network namespace, is attached",
            "detach that one first, or choose another name",
        ))
    }

    /// What is known of every pod.
    pub(super) fn records(&self) -> Result<Vec<(u64, PodRecord)>> {
        self.maps
            .pod_records
            .iter()
            .collect::<Result<_, _>>()
            .tried(|| "read the map POD_RECORDS")
    }

    pub(super) fn withdraw_pod(&mut self, netns_cookie: u64) -> Result<()> {
        self.withdraw_pods(&BTreeSet::from([netns_cookie]))
    }

    /// Lets go of many pods: what programs have written of them is looked for once.
    pub(super) fn withdraw_pods(&mut self, netns_cookies: &BTreeSet<u64>) -> Result<()> {
        let mut have_shared = false;
        for cookie in netns_cookies {
            let record = self.maps.record(*cookie)?;
            have_shared |= record.is_some_and(|record| record.shares_cgroup());
            pins::detach(&self.state.pod(*cookie))?;
        }
        self.undescribe(netns_cookies)?;
        if have_shared {
            self.detach_unused_cgroups()?;
        }
        Ok(())
    }

    /// Detaches from the shared cgroups that no pod is in any more.
    pub(super) fn detach_unused_cgroups(&self) -> Result<()> {
        let present = self.state.numbered(&self.state.cgroups())?;
        if present.is_empty() {
            return Ok(());
        }
        let used: BTreeSet<u64> = self
            .records()?
            .into_iter()
            .filter(|(_, record)| record.shares_cgroup())
            .map(|(_, record)| record.cgroup())
            .collect();
        for id in present {
            if !used.contains(&id) {
                pins::detach(&self.state.cgroup(id))?;
            }
        }
        Ok(())
    }

    /// Removes what is known of pods that have no links: their enrolment or withdrawal was cut
    /// short. Pods with links are left to [`crate::interceptor::Interceptor::enrol`].
    pub(super) fn recover_pods(&mut self) -> Result<()> {
        self.state.empty_staging()?;
        let linked: BTreeSet<u64> = self.state.linked_pods()?.into_iter().collect();
        let cookies: BTreeSet<u64> = self
            .maps
            .pods
            .keys()
            .chain(self.maps.pod_records.keys())
            // All that is left of one whose record another version, with maps of its own, has removed.
            .chain(self.maps.locals.keys().map(|key| Ok(key?.netns_cookie())))
            .collect::<Result<_, _>>()
            .tried(|| "read the map PODS")?;
        self.undescribe(&cookies.difference(&linked).copied().collect())?;
        self.detach_unused_cgroups()
    }

    /// Removes every entry that is about these pods.
    pub(super) fn undescribe(&mut self, cookies: &BTreeSet<u64>) -> Result<()> {
        if cookies.is_empty() {
            return Ok(());
        }
        for cookie in cookies {
            let entry = self.maps.pod(*cookie)?;
            let record = self.maps.record(*cookie)?;
            found(self.maps.pods.remove(cookie)).tried(|| "remove from the map PODS")?;
            let slot = record
                .map(|record| record.slot())
                .or(entry.map(|entry| entry.slot()));
            if let Some(slot) = slot.filter(|slot| *slot < MAX_PODS) {
                self.maps.set_policy(slot, PolicyWord::default())?;
                self.maps.zero_counters(slot)?;
            }
        }
        macro_rules! remove_keys_of_pod {
            ($map:ident) => {
                let keys: Vec<_> = self
                    .maps
                    .$map
                    .keys()
                    .filter(|key| {
                        key.as_ref()
                            .map_or(true, |key| cookies.contains(&key.netns_cookie()))
                    })
                    .collect::<Result<_, _>>()
                    .tried(|| concat!("read the map ", stringify!($map)))?;
                for key in keys {
                    found(self.maps.$map.remove(&key))
                        .tried(|| concat!("remove from the map ", stringify!($map)))?;
                }
            };
        }
        remove_keys_of_pod!(locals);
        self.remove_interfaces(|of, _| cookies.contains(&of))?;
        remove_keys_of_pod!(handshakes);
        remove_keys_of_pod!(listeners);
        remove_keys_of_pod!(shortcut_pairs);
        remove_keys_of_pod!(shortcut_apps);
        // Last: by it, what is left is found after a crash.
        for cookie in cookies {
            found(self.maps.pod_records.remove(cookie))
                .tried(|| "remove from the map POD_RECORDS")?;
        }
        self.pass.borrow_mut().forget_pods();
        Ok(())
    }

    /// A slot that no pod has.
    pub(super) fn free_slot(&self) -> Result<u32> {
        let mut pass = self.pass.borrow_mut();
        let used = if let Some(used) = &mut pass.slots {
            used
        } else {
            let records = self.records()?;
            let used = records.iter().map(|(_, record)| record.slot());
            pass.slots.insert(used.collect())
        };
        let free = (0..MAX_PODS).find(|slot| !used.contains(slot));
        let free = free.ok_or_else(|| Error::State {
            path: self.state.path().into(),
            problem: format!("{MAX_PODS} pods are attached, which is as many as there is room for"),
            advice: "detach some".into(),
        })?;
        used.insert(free);
        Ok(free)
    }
}

impl Maps {
    /// What programs know of a pod.
    pub fn pod(&self, netns_cookie: u64) -> Result<Option<PodEntry>> {
        found(self.pods.get(&netns_cookie, 0)).tried(|| "read the map PODS")
    }

    /// What the agent knows of a pod.
    pub fn record(&self, netns_cookie: u64) -> Result<Option<PodRecord>> {
        found(self.pod_records.get(&netns_cookie, 0)).tried(|| "read the map POD_RECORDS")
    }

    pub fn set_record(&mut self, netns_cookie: u64, record: &PodRecord) -> Result<()> {
        self.pod_records
            .insert(netns_cookie, record, 0)
            .tried(|| "write the map POD_RECORDS")
    }

    /// The policy that a pod goes by.
    pub fn policy(&self, slot: u32) -> Result<PolicyWord> {
        self.policy_in_force
            .get(&slot, 0)
            .tried(|| "read the map POLICY_IN_FORCE")
    }

    /// A pod and the policy that it goes by, as these maps describe them.
    pub fn in_force(&self, netns_cookie: u64) -> Result<Option<(PodEntry, PolicyWord)>> {
        let entry = self.pod(netns_cookie)?;
        let entry = entry.filter(|entry| entry.slot() < MAX_PODS);
        entry
            .map(|entry| Ok((entry, self.policy(entry.slot())?)))
            .transpose()
    }

    pub fn set_policy(&mut self, slot: u32, word: PolicyWord) -> Result<()> {
        self.policy_in_force
            .set(slot, word, 0)
            .tried(|| "write the map POLICY_IN_FORCE")
    }

    /// Describes a pod to the programs; says whether anything was otherwise before.
    pub fn describe(&mut self, pod: &Pod, slot: u32, word: PolicyWord) -> Result<bool> {
        let cookie = pod.netns.cookie()?;
        let before = self.pod(cookie)?;
        let known = before.and_then(|entry| entry.sidecar_cgroup());
        let (entry, wanted) = addressed(pod, bare(pod, cookie, slot, known)?);
        let mut is_changed = false;
        if self.policy(slot)? != word {
            self.set_policy(slot, word)?;
            is_changed = true;
        }
        // At every moment, what is the pod's own both before and after is known to be.
        for key in &wanted {
            if found(self.locals.get(key, 0))
                .tried(|| "read the map LOCALS")?
                .is_none()
            {
                is_changed = true;
                self.locals
                    .insert(key, 1, 0)
                    .tried(|| "write the map LOCALS")?;
            }
        }
        if before != Some(entry) {
            is_changed = true;
            self.pods
                .insert(cookie, entry, 0)
                .tried(|| "write the map PODS")?;
        }
        if before.is_some() {
            is_changed |= self.forget_addresses(cookie, &wanted)?;
        }
        Ok(is_changed)
    }

    /// Whether the programs know a pod by the addresses and the sidecar's user that it has.
    pub fn is_described(&self, pod: &Pod, entry: &PodEntry) -> Result<bool> {
        let known = entry.sidecar_cgroup();
        let before = bare(pod, entry.netns_cookie(), entry.slot(), known)?;
        let (wanted, locals) = addressed(pod, before);
        if wanted != *entry {
            return Ok(false);
        }
        for key in &locals {
            let there = found(self.locals.get(key, 0)).tried(|| "read the map LOCALS")?;
            if there.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Zeroes what was counted for the pod that had a slot before.
    pub fn zero_counters(&mut self, slot: u32) -> Result<()> {
        self.handshakes_of_pod
            .set(slot, 0, 0)
            .tried(|| "write the map HANDSHAKES_OF_POD")?;
        let cpus = nr_cpus()
            .map_err(|(_, error)| error)
            .tried(|| "count the CPUs")?;
        let zero = PerCpuValues::try_from(vec![Counters::ZERO; cpus]).tried(|| "count the CPUs")?;
        self.counters
            .set(slot, zero, 0)
            .tried(|| "write the map COUNTERS")
    }

    fn forget_addresses(&mut self, cookie: u64, wanted: &[LocalKey]) -> Result<bool> {
        let unwanted: Vec<LocalKey> = self
            .locals
            .keys()
            .filter(|key| {
                key.as_ref().map_or(true, |key| {
                    key.netns_cookie() == cookie && !wanted.contains(key)
                })
            })
            .collect::<Result<_, _>>()
            .tried(|| "read the map LOCALS")?;
        for key in &unwanted {
            found(self.locals.remove(key)).tried(|| "remove from the map LOCALS")?;
        }
        Ok(!unwanted.is_empty())
    }
}

/// Its entry, without addresses; `known` is the sidecar's cgroup by the entry that there is.
fn bare(pod: &Pod, cookie: u64, slot: u32, known: Option<u64>) -> Result<PodEntry> {
    let entry = PodEntry::new(cookie, slot, pod.sidecar_uid);
    Ok(entry.with_sidecar_cgroup(pod.sidecar_cgroup.id(known)?))
}

/// A pod's entry with its addresses, and the keys of those that the entry has no room for.
fn addressed(pod: &Pod, mut entry: PodEntry) -> (PodEntry, Vec<LocalKey>) {
    let cookie = entry.netns_cookie();
    let mut locals = Vec::new();
    let mut add = |address| {
        let key = LocalKey::new(cookie, address);
        if !locals.contains(&key) {
            locals.push(key);
        }
    };
    for address in &pod.addresses {
        let address = Address::from(*address);
        entry = entry.with_address(address);
        if address != entry.address_v4() && address != entry.address_v6() {
            add(address);
        }
    }
    for address in &pod.link_local {
        entry = entry.with_more_addresses();
        add(Address::from(*address));
    }
    (entry, locals)
}

/// By which the sidecar is told from others of the same user, where it is.
pub fn sidecar_cgroup((entry, word): (PodEntry, PolicyWord)) -> Option<u64> {
    let cgroup = entry.sidecar_cgroup();
    cgroup.filter(|_| entry.goes_by_cgroup(word))
}
