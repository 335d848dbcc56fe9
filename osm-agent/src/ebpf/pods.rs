//! Pods in the maps: described before their programs are attached, removed after.

use std::collections::BTreeSet;

use aya::{maps::PerCpuValues, util::nr_cpus};
use osm_ebpf_common::{
    address::Address,
    maps::{Counters, LocalKey, MAX_PODS, PodEntry, PodRecord, PolicyWord},
};

use super::{Ebpf, Intercepted, found, links, listeners};
use crate::{
    error::{Error, Result, Tried as _},
    interceptor::Enrolled,
    pod::Pod,
};

impl Ebpf {
    /// The netns cookie of the pod with that name.
    ///
    /// # Errors
    /// Where the map can't be read.
    pub fn cookie_of(&self, name: &str) -> Result<Option<u64>> {
        let pods = self.pods()?;
        Ok(pods
            .iter()
            .find(|pod| pod.name == name)
            .map(|pod| pod.netns_cookie))
    }

    pub(super) fn pod_by_cookie(&self, netns_cookie: u64) -> Result<Option<PodEntry>> {
        found(self.maps.pods.get(&netns_cookie, 0)).tried(|| "read the map PODS")
    }

    /// The pods that are intercepted.
    ///
    /// # Errors
    /// Where the map can't be read.
    pub fn pods(&self) -> Result<Vec<Intercepted>> {
        self.maps
            .pod_records
            .iter()
            .map(|entry| {
                let (netns_cookie, record) = entry.tried(|| "read the map POD_RECORDS")?;
                Ok(Intercepted {
                    name: record.name().into(),
                    netns_cookie,
                    cgroup: record.cgroup(),
                    is_gone: links::is_netns_gone(&self.state.pod(netns_cookie))?,
                })
            })
            .collect()
    }

    /// Lets go of a pod that is not intercepted as it should be; says what was wrong with it.
    pub(super) fn withdraw_broken(&mut self, pod: &Pod) -> Result<Vec<String>> {
        let cookie = pod.netns.cookie()?;
        if self.pod_by_cookie(cookie)?.is_none() {
            return Ok(Vec::new());
        }
        let faults = links::faults(&self.state.pod(cookie))?;
        if !faults.is_empty() {
            self.check_same_name(pod)?;
            self.withdraw_pod(cookie)?;
        }
        Ok(faults)
    }

    /// Changes the policy of a pod that is intercepted, with one store, and its addresses.
    pub(super) fn change(
        &mut self,
        pod: &Pod,
        entry: &PodEntry,
        word: PolicyWord,
    ) -> Result<Enrolled> {
        self.check_same_pod(pod)?;
        let slot = entry.slot();
        let before = self
            .maps
            .policy_in_force
            .get(&slot, 0)
            .tried(|| "read the map POLICY_IN_FORCE")?;
        let is_readdressed = self.readdress(pod, entry)?;
        if before != word {
            self.set_policy(slot, word)?;
        } else if !is_readdressed {
            return Ok(Enrolled::Unchanged);
        }
        Ok(Enrolled::Changed)
    }

    /// Writes a pod's addresses where they are others now; says whether they were.
    fn readdress(&mut self, pod: &Pod, before: &PodEntry) -> Result<bool> {
        let cookie = pod.netns.cookie()?;
        let (entry, wanted) = addressed(
            pod,
            PodEntry::new(cookie, before.slot(), before.sidecar_uid()),
        );
        let present: Vec<LocalKey> = self
            .maps
            .locals
            .keys()
            .filter(|key| {
                key.as_ref()
                    .map_or(true, |key| key.netns_cookie() == cookie)
            })
            .collect::<Result<_, _>>()
            .tried(|| "read the map LOCALS")?;
        let is_same_set =
            wanted.len() == present.len() && wanted.iter().all(|key| present.contains(key));
        if entry == *before && is_same_set {
            return Ok(false);
        }
        // At every moment, what is the pod's own both before and after is known to be.
        self.add_locals(&wanted)?;
        self.set_pod(cookie, entry)?;
        for key in present.iter().filter(|key| !wanted.contains(key)) {
            found(self.maps.locals.remove(key)).tried(|| "remove from the map LOCALS")?;
        }
        Ok(true)
    }

    /// Describes a pod and attaches the programs to it.
    pub(super) fn enrol_new(&mut self, pod: &Pod, word: PolicyWord) -> Result<Enrolled> {
        if let Some(namesake) = self.cookie_of(&pod.name)?
            && !self.withdraw_dead(namesake)?
        {
            return Err(Error::input(
                format!("--pod {}", pod.name),
                "a pod of that name, with another network namespace, is attached",
                "detach that one first, or choose another name",
            ));
        }
        let attached = self.describe(pod, word).and_then(|()| {
            let listeners = &mut self.maps.listeners;
            links::attach(&self.state, pod, || listeners::find(pod, listeners))
        });
        match attached {
            Ok(listeners) => Ok(Enrolled::New {
                listeners: Some(listeners),
            }),
            Err(error) => {
                // The error that is reported is the first one; `recover_pods` tries again.
                let _ = self.undescribe(pod.netns.cookie()?);
                Err(error)
            }
        }
    }

    /// Lets go of a pod whose network namespace is gone; says whether it was.
    fn withdraw_dead(&mut self, netns_cookie: u64) -> Result<bool> {
        let is_dead = links::is_netns_gone(&self.state.pod(netns_cookie))?;
        if is_dead {
            self.withdraw_pod(netns_cookie)?;
        }
        Ok(is_dead)
    }

    pub(super) fn withdraw_pod(&mut self, netns_cookie: u64) -> Result<()> {
        links::detach(&self.state.pod(netns_cookie))?;
        self.undescribe(netns_cookie)
    }

    /// Removes pods whose enrolment or withdrawal was cut short.
    pub(super) fn recover_pods(&mut self) -> Result<()> {
        for staged in self.state.staged_pods()? {
            links::detach(&staged)?;
        }
        let cookies: Vec<u64> = self
            .maps
            .pods
            .keys()
            .chain(self.maps.pod_records.keys())
            .collect::<Result<_, _>>()
            .tried(|| "read the map PODS")?;
        for cookie in cookies {
            let directory = self.state.pod(cookie);
            if !links::is_complete(&directory) {
                links::detach(&directory)?;
                self.undescribe(cookie)?;
            }
        }
        Ok(())
    }

    fn describe(&mut self, pod: &Pod, word: PolicyWord) -> Result<()> {
        let cookie = pod.netns.cookie()?;
        let slot = self.free_slot()?;
        self.zero_counters(slot)?;
        self.set_policy(slot, word)?;
        let record = PodRecord::new(&pod.name, pod.cgroup.id()?)
            .ok_or_else(|| Error::input(&pod.name, "is too long for a pod's name", "shorten it"))?;
        // First: by it, `recover_pods` finds what an agent that is killed has written.
        self.maps
            .pod_records
            .insert(cookie, record, 0)
            .tried(|| "write the map POD_RECORDS")?;
        let (entry, locals) = addressed(pod, PodEntry::new(cookie, slot, pod.sidecar_uid));
        self.add_locals(&locals)?;
        self.set_pod(cookie, entry)
    }

    fn add_locals(&mut self, keys: &[LocalKey]) -> Result<()> {
        for key in keys {
            self.maps
                .locals
                .insert(key, 1, 0)
                .tried(|| "write the map LOCALS")?;
        }
        Ok(())
    }

    fn set_pod(&mut self, cookie: u64, entry: PodEntry) -> Result<()> {
        self.maps
            .pods
            .insert(cookie, entry, 0)
            .tried(|| "write the map PODS")
    }

    /// Removes every entry that is about a pod.
    fn undescribe(&mut self, cookie: u64) -> Result<()> {
        let entry = self.pod_by_cookie(cookie)?;
        found(self.maps.pods.remove(&cookie)).tried(|| "remove from the map PODS")?;
        if let Some(entry) = entry {
            self.set_policy(entry.slot(), PolicyWord::default())?;
            self.zero_counters(entry.slot())?;
        }
        macro_rules! remove_keys_of_pod {
            ($map:ident) => {
                let keys: Vec<_> = self
                    .maps
                    .$map
                    .keys()
                    .filter(|key| {
                        key.as_ref()
                            .map_or(true, |key| key.netns_cookie() == cookie)
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
        self.remove_interfaces(|of, _| of == cookie)?;
        remove_keys_of_pod!(handshakes);
        remove_keys_of_pod!(listeners);
        found(self.maps.pod_records.remove(&cookie)).tried(|| "remove from the map POD_RECORDS")?;
        Ok(())
    }

    fn record(&self, pod: &Pod) -> Result<PodRecord> {
        self.maps
            .pod_records
            .get(&pod.netns.cookie()?, 0)
            .tried(|| "read the map POD_RECORDS")
    }

    fn check_same_name(&self, pod: &Pod) -> Result<()> {
        let record = self.record(pod)?;
        if record.name() != pod.name {
            return Err(Error::input(
                format!("--pod {}", pod.name),
                format!("this network namespace is attached as {}", record.name()),
                format!("give --pod {}, or detach it first", record.name()),
            ));
        }
        Ok(())
    }

    fn check_same_pod(&self, pod: &Pod) -> Result<()> {
        self.check_same_name(pod)?;
        if self.record(pod)?.cgroup() != pod.cgroup.id()? {
            return Err(Error::input(
                format!("--cgroup {}", pod.cgroup.path().display()),
                format!("{} is attached to another cgroup", pod.name),
                "give that one, or detach the pod first",
            ));
        }
        Ok(())
    }

    fn free_slot(&self) -> Result<u32> {
        let used: BTreeSet<u32> = self
            .maps
            .pods
            .iter()
            .map(|entry| entry.map(|(_, pod)| pod.slot()))
            .collect::<Result<_, _>>()
            .tried(|| "read the map PODS")?;
        (0..MAX_PODS)
            .find(|slot| !used.contains(slot))
            .ok_or_else(|| Error::State {
                path: self.state.path().into(),
                problem: format!(
                    "{MAX_PODS} pods are attached, which is as many as there is room for"
                ),
                advice: "detach some".into(),
            })
    }

    fn set_policy(&mut self, slot: u32, word: PolicyWord) -> Result<()> {
        self.maps
            .policy_in_force
            .set(slot, word, 0)
            .tried(|| "write the map POLICY_IN_FORCE")
    }

    fn zero_counters(&mut self, slot: u32) -> Result<()> {
        self.maps
            .handshakes_of_pod
            .set(slot, 0, 0)
            .tried(|| "write the map HANDSHAKES_OF_POD")?;
        let cpus = nr_cpus()
            .map_err(|(_, error)| error)
            .tried(|| "count the CPUs")?;
        let zero = PerCpuValues::try_from(vec![Counters::ZERO; cpus]).tried(|| "count the CPUs")?;
        self.maps
            .counters
            .set(slot, zero, 0)
            .tried(|| "write the map COUNTERS")
    }
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
