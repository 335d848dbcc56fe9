//! What the kernel's state is, against what it has to be. Changes nothing.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    os::fd::AsFd as _,
};

use osm_ebpf_common::{decision::Direction, maps::PodRecord};

use super::{
    Ebpf,
    hooks::{INBOUND, INBOUND_CODE, is_known_to},
    links::{Condition, Links},
    listeners,
    maps::Held,
    objects, pins,
    pods::sidecar_cgroup,
    version,
};
use crate::{
    error::{Result, Tried as _},
    interceptor::Found,
    pod::Pod,
    policy::Policy,
    sys::bpf,
};

/// What is the same for all pods, and read once for all of them: until something is written, or
/// [`crate::interceptor::Interceptor::tidy`] ends the pass.
#[derive(Default)]
pub struct Pass {
    /// How many ranges and pages there are, by policy.
    pub entries: Option<HashMap<u32, (usize, usize)>>,
    /// What is wrong with policies.
    pub policies: HashMap<u32, Vec<String>>,
    /// The slots that pods have.
    pub slots: Option<BTreeSet<u32>>,
    listeners: Option<HashSet<(u64, Direction)>>,
    pins: Option<Vec<String>>,
}

impl Pass {
    /// Pods came, went or were mended.
    pub fn forget_pods(&mut self) {
        self.slots = None;
        self.listeners = None;
    }

    /// Lists were written or removed.
    pub fn forget_lists(&mut self) {
        self.entries = None;
        self.policies.clear();
    }
}

/// How one pod is.
#[derive(Default)]
pub struct Examined {
    /// What is not as any version leaves it.
    pub faults: Vec<String>,
    is_outdated: bool,
    is_otherwise: bool,
}

impl Ebpf {
    pub(super) fn compare_pod(&self, pod: &Pod, policy: Option<&Policy>) -> Result<Found> {
        let cookie = pod.netns.cookie()?;
        let record = self.maps.record(cookie)?;
        if record.is_none() && !self.state.pod(cookie).is_dir() {
            return Ok(Found::Absent);
        }
        let mut examined = self.examine(pod, record.as_ref(), policy)?;
        examined.faults.splice(0..0, self.lost_pins());
        Ok(if !examined.faults.is_empty() {
            Found::Faulty(examined.faults)
        } else if examined.is_outdated {
            Found::Outdated
        } else if examined.is_otherwise {
            Found::Otherwise
        } else {
            Found::AsWanted
        })
    }

    /// Looks at everything about one pod.
    pub(super) fn examine(
        &self,
        pod: &Pod,
        record: Option<&PodRecord>,
        policy: Option<&Policy>,
    ) -> Result<Examined> {
        let mut examined = Examined::default();
        let is_of_this_version = record.is_some_and(|it| it.version() == objects::version());
        self.examine_links(pod, record, &mut examined)?;
        let Some(record) = record else {
            examined.faults.push("its record was missing".into());
            return Ok(examined);
        };
        if !version::shares_maps(&self.state, &self.maps, record.version()) {
            // Without lists it goes on as it is.
            examined.is_outdated = policy.is_some();
            return Ok(examined);
        }
        examined.is_outdated |= !is_of_this_version;
        examined.is_otherwise |= record.name() != pod.name
            || record.cgroup() != pod.cgroup.id()?
            || record.shares_cgroup() != pod.shares_cgroup;
        self.examine_entries(pod, record, &mut examined)?;
        if let Some(policy) = policy {
            self.examine_policy(pod, record.slot(), policy, &mut examined)?;
        }
        Ok(examined)
    }

    /// The directions for which no listener of a pod's sidecar is known.
    pub(super) fn directions_without_listener(&self, cookie: u64) -> Result<Vec<Direction>> {
        let mut pass = self.pass.borrow_mut();
        let known = if let Some(known) = &pass.listeners {
            known
        } else {
            let mut known = HashSet::new();
            for key in self.maps.listeners.keys() {
                let key = key.tried(|| "read the map LISTENERS")?;
                for direction in [Direction::Outbound, Direction::Inbound] {
                    if key.is_for(direction) {
                        known.insert((key.netns_cookie(), direction));
                    }
                }
            }
            pass.listeners.insert(known)
        };
        Ok([Direction::Outbound, Direction::Inbound]
            .into_iter()
            .filter(|direction| !known.contains(&(cookie, *direction)))
            .collect())
    }

    /// Pins maps and programs again that somebody has unpinned; says which. Once in a pass: it
    /// takes a hundred system calls.
    pub(super) fn mend_pins(&mut self) -> Result<Vec<String>> {
        if self.pass.borrow().pins.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let lost = self.look_for_pins();
        for held in &lost {
            if let Some(directory) = held.path.parent() {
                fs::create_dir_all(directory)
                    .tried(|| format!("create {}", directory.display()))?;
            }
            pins::replace(held.object.as_fd(), &held.path)?;
        }
        let lost = self.words(&lost);
        // What was mended is looked at again.
        self.pass.borrow_mut().pins = lost.is_empty().then(Vec::new);
        Ok(lost)
    }

    fn lost_pins(&self) -> Vec<String> {
        if let Some(lost) = &self.pass.borrow().pins {
            return lost.clone();
        }
        let lost = self.words(&self.look_for_pins());
        self.pass.borrow_mut().pins = Some(lost.clone());
        lost
    }

    fn look_for_pins(&self) -> Vec<&Held> {
        let mut lost = Vec::new();
        for held in self
            .maps
            .held()
            .iter()
            .chain(self.programs.inbound().held())
        {
            let pinned = bpf::open_pinned(&held.path);
            let info = pinned.and_then(|map| bpf::map_info(map.as_fd()));
            if !info.is_ok_and(|info| info.id == held.id) {
                lost.push(held);
            }
        }
        for held in self.programs.held() {
            let pinned = bpf::open_pinned(&held.path);
            let info = pinned.and_then(|program| bpf::program_info(program.as_fd()));
            if !info.is_ok_and(|info| info.id == held.id) {
                lost.push(held);
            }
        }
        lost
    }

    fn words(&self, lost: &[&Held]) -> Vec<String> {
        let relative = |held: &&Held| {
            let path = held.path.strip_prefix(self.state.path());
            path.unwrap_or(&held.path).display().to_string()
        };
        lost.iter()
            .map(|held| format!("the pin {} was missing", relative(held)))
            .collect()
    }

    fn examine_links(
        &self,
        pod: &Pod,
        record: Option<&PodRecord>,
        examined: &mut Examined,
    ) -> Result<()> {
        let is_of_this_version = record.is_some_and(|it| it.version() == objects::version());
        let other = record.filter(|_| !is_of_this_version);
        let other = other.map(|it| self.state.version(it.version()));
        let links = Links {
            state: &self.state,
            programs: &self.programs,
            pod,
        };
        for (name, condition) in links.conditions()? {
            // A version from before a hook was added leaves pods without it.
            let is_new = other.as_ref().is_some_and(|version| {
                name != INBOUND && name != INBOUND_CODE && !is_known_to(version, name)
            });
            if condition == Condition::OtherProgram && !is_of_this_version
                || condition == Condition::Missing && is_new
            {
                examined.is_outdated = true;
            } else if let Some(problem) = condition.problem() {
                examined.faults.push(format!("{name} was {problem}"));
            }
        }
        Ok(())
    }

    fn examine_entries(
        &self,
        pod: &Pod,
        record: &PodRecord,
        examined: &mut Examined,
    ) -> Result<()> {
        let cookie = pod.netns.cookie()?;
        match self.maps.pod(cookie)? {
            None => examined
                .faults
                .push("its entry in the map PODS was missing".into()),
            Some(entry) if entry.slot() != record.slot() || entry.netns_cookie() != cookie => {
                examined
                    .faults
                    .push("its entry in the map PODS was not as it was written".into());
            }
            Some(entry) => examined.is_otherwise |= !self.maps.is_described(pod, &entry)?,
        }
        let unheard = self.directions_without_listener(cookie)?;
        if unheard.is_empty() {
            return Ok(());
        }
        let cgroup = self.maps.in_force(cookie)?.and_then(sidecar_cgroup);
        let present = listeners::directions(pod, cgroup)?;
        for direction in unheard {
            if present.contains(&direction) {
                let which = match direction {
                    Direction::Outbound => "outbound",
                    Direction::Inbound => "inbound",
                };
                examined.faults.push(format!(
                    "the sidecar's listener for {which} connections was not known"
                ));
            }
        }
        Ok(())
    }

    fn examine_policy(
        &self,
        pod: &Pod,
        slot: u32,
        policy: &Policy,
        examined: &mut Examined,
    ) -> Result<()> {
        let id = if policy.is_empty() {
            Some(0)
        } else {
            self.policy_id(&policy.digest())?
        };
        let Some(id) = id else {
            examined.is_otherwise = true;
            return Ok(());
        };
        examined.is_otherwise |= self.maps.policy(slot)? != self.word(policy, id)?;
        if id != 0 {
            examined.faults.extend(self.policy_faults(id, policy)?);
            examined.is_otherwise |= !self.are_interfaces_known(pod, policy, id)?;
        }
        Ok(())
    }
}
