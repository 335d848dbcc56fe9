//! Enrolling a pod: new, in place of what somebody changed, or from another version's programs.

use std::{collections::HashMap, ptr};

use osm_ebpf_common::{
    decision::Direction,
    maps::{MAX_PODS, PodRecord, PolicyWord},
};

use super::{Ebpf, links::Links, listeners, objects, pods::sidecar_cgroup, version};
use crate::{
    config::Lists,
    error::{Error, Result},
    interceptor::Enrolled,
    pod::Pod,
    policy::Policy,
};

const BOTH: [Direction; 2] = [Direction::Outbound, Direction::Inbound];

impl Ebpf {
    pub(super) fn enrol_pod(&mut self, pod: &Pod, policy: Option<&Policy>) -> Result<Enrolled> {
        let cookie = pod.netns.cookie()?;
        let lost = self.mend_pins()?;
        let record = self.maps.record(cookie)?;
        if record.is_none() && !self.state.pod(cookie).is_dir() {
            let policy = policy.cloned().unwrap_or_else(no_lists);
            return self.enrol_new(pod, &policy);
        }
        let mut examined = self.examine(pod, record.as_ref(), policy)?;
        examined.faults.splice(0..0, lost);
        let is_here = record
            .as_ref()
            .is_some_and(|it| version::shares_maps(&self.state, &self.maps, it.version()));
        if policy.is_none() && record.is_some() && !is_here {
            return stays_with_its_version(pod, &examined.faults);
        }
        let word = match (policy, &record) {
            (Some(policy), _) => self.ensure_policy(policy)?,
            (None, Some(record)) => self.maps.policy(record.slot().min(MAX_PODS - 1))?,
            (None, None) => no_lists().word(0),
        };
        let in_force = self.maps.in_force(cookie)?;
        let mended = self.mend(pod, record.as_ref(), policy, word);
        if let (Err(_), Some((entry, word))) = (&mended, in_force) {
            // The error that is reported is the first one. The lists stay those that the pod went by.
            let _ = self.maps.set_policy(entry.slot(), word);
        }
        let (is_changed, is_moved) = mended?;
        Ok(if !examined.faults.is_empty() {
            Enrolled::Repaired(examined.faults)
        } else if is_moved {
            Enrolled::Upgraded
        } else if is_changed {
            Enrolled::Changed
        } else {
            Enrolled::Unchanged
        })
    }

    /// Puts pods under other lists and does nothing else: those that are intercepted by the programs
    /// of this version, and whose lists depend on nothing of their own. Says which they were.
    pub(super) fn switch_pods(&mut self, wanted: &[(u64, &Policy)]) -> Result<Vec<u64>> {
        let mut switched = Vec::new();
        // Pods with equal lists share a policy, which is made ready once.
        let mut ready: HashMap<*const Policy, PolicyWord> = HashMap::new();
        for (cookie, policy) in wanted {
            if !policy.excluded_interfaces().is_empty() {
                continue;
            }
            let word = match ready.get(&ptr::from_ref(*policy)) {
                Some(word) => *word,
                None => self.ensure_policy(policy)?,
            };
            ready.insert(ptr::from_ref(*policy), word);
            if self.switch_pod(*cookie, word)? {
                switched.push(*cookie);
            }
        }
        Ok(switched)
    }

    fn switch_pod(&mut self, cookie: u64, word: PolicyWord) -> Result<bool> {
        let (Some(record), Some(entry)) = (self.maps.record(cookie)?, self.maps.pod(cookie)?)
        else {
            return Ok(false);
        };
        let slot = record.slot();
        let is_ours = record.version() == objects::version()
            && slot < MAX_PODS
            && (entry.slot(), entry.netns_cookie()) == (slot, cookie);
        if !is_ours || self.maps.policy(slot)? == word {
            return Ok(false);
        }
        self.maps.set_policy(slot, word)?;
        Ok(true)
    }

    /// Describes a pod and attaches the programs to it.
    fn enrol_new(&mut self, pod: &Pod, policy: &Policy) -> Result<Enrolled> {
        let cookie = pod.netns.cookie()?;
        let word = self.ensure_policy(policy)?;
        let slot = self.free_slot()?;
        let record = record_of(pod, slot)?.with_version(objects::version());
        // First: by it, `recover_pods` finds what an agent that is killed has written.
        let attached = self.maps.set_record(cookie, &record).and_then(|()| {
            self.maps.zero_counters(slot)?;
            self.stage_interfaces(pod, policy, word.id())?;
            self.attach(pod, slot, word)
        });
        match attached {
            Ok(listeners) => Ok(Enrolled::New {
                listeners: Some(listeners),
            }),
            Err(error) => {
                // The error that is reported is the first one; `recover_pods` tries again.
                let _ = self.undescribe(&[cookie].into());
                let _ = self.detach_unused_cgroups();
                Err(error)
            }
        }
    }

    fn attach(&mut self, pod: &Pod, slot: u32, word: PolicyWord) -> Result<usize> {
        let maps = &mut self.maps;
        let links = Links {
            state: &self.state,
            programs: &self.programs,
            pod,
        };
        // Where the programs run already, for other pods, the pod is described when they can do
        // all for it: it is refused for a moment, and never let around the sidecar.
        if !pod.shares_cgroup {
            maps.describe(pod, slot, word)?;
        }
        links.attach(|| {
            if pod.shares_cgroup {
                maps.describe(pod, slot, word)?;
            }
            let in_force = maps.in_force(pod.netns.cookie()?)?;
            let cgroup = in_force.and_then(sidecar_cgroup);
            listeners::find(pod, &mut maps.listeners, &BOTH, cgroup)
        })
    }

    /// Makes everything about a pod what it has to be, in place; says whether its description
    /// changed, and whether its links go on with other programs.
    fn mend(
        &mut self,
        pod: &Pod,
        before: Option<&PodRecord>,
        policy: Option<&Policy>,
        word: PolicyWord,
    ) -> Result<(bool, bool)> {
        let cookie = pod.netns.cookie()?;
        self.refuse_other_cgroup(pod, before)?;
        let slot = match before {
            Some(record) if record.slot() < MAX_PODS => record.slot(),
            _ => self.free_slot()?,
        };
        let version = before.map_or(0, PodRecord::version);
        let record = record_of(pod, slot)?.with_version(version);
        if before != Some(&record) {
            self.maps.set_record(cookie, &record)?;
        }
        if let Some(policy) = policy {
            self.stage_interfaces(pod, policy, word.id())?;
        }
        let mut unheard = self.directions_without_listener(cookie)?;
        let known_by = self.maps.in_force(cookie)?.map(sidecar_cgroup);
        let is_changed = self.maps.describe(pod, slot, word)?;
        let cgroup = self.maps.in_force(cookie)?.and_then(sidecar_cgroup);
        let maps = &mut self.maps;
        if cgroup.is_some() && known_by.is_some_and(|before| before != cgroup) {
            // Kept were listeners of whoever was the sidecar until now.
            listeners::forget(cookie, &mut maps.listeners)?;
            unheard = BOTH.to_vec();
        }
        let links = Links {
            state: &self.state,
            programs: &self.programs,
            pod,
        };
        let listeners = &mut maps.listeners;
        let find = || match unheard.as_slice() {
            [] => Ok(0),
            unheard => listeners::find(pod, listeners, unheard, cgroup),
        };
        let is_moved = if self.state.pod(cookie).is_dir() {
            links.ensure(find)?
        } else {
            links.attach(find).map(|_| false)?
        };
        let record = record.with_version(objects::version());
        if version != objects::version() {
            self.maps.set_record(cookie, &record)?;
        }
        self.pass.borrow_mut().forget_pods();
        Ok((is_changed, is_moved || version != objects::version()))
    }

    /// A pod's links stay on its cgroup as long as that is there.
    fn refuse_other_cgroup(&self, pod: &Pod, record: Option<&PodRecord>) -> Result<()> {
        let id = pod.cgroup.id()?;
        let links = Links {
            state: &self.state,
            programs: &self.programs,
            pod,
        };
        if record.is_none_or(|record| record.cgroup() == id || record.shares_cgroup())
            || !links.is_on_another_cgroup()?
        {
            return Ok(());
        }
        Err(Error::input(
            format!("--cgroup {}", pod.cgroup.path().display()),
            format!("{} is attached to another cgroup", pod.name),
            "give that one, or detach the pod first",
        ))
    }
}

fn record_of(pod: &Pod, slot: u32) -> Result<PodRecord> {
    let record = PodRecord::new(&pod.name, pod.cgroup.id()?)
        .ok_or_else(|| Error::input(&pod.name, "is too long for a pod's name", "shorten it"))?;
    Ok(record.with_slot(slot).with_shared_cgroup(pod.shares_cgroup))
}

/// For a pod of which nobody has said yet what its lists are: all of its TCP is intercepted.
fn no_lists() -> Policy {
    Policy::compile(&Lists::default(), false)
}

/// The lists of another version can't be read, and nobody has said what they are.
fn stays_with_its_version(pod: &Pod, faults: &[String]) -> Result<Enrolled> {
    if faults.is_empty() {
        return Ok(Enrolled::Unchanged);
    }
    Err(Error::State {
        path: (&pod.name).into(),
        problem: format!(
            "{}, and its lists are laid out as another version of this agent does it",
            faults.join(", ")
        ),
        advice: "say what its lists are, or run that version".into(),
    })
}
