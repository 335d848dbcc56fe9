//! The eBPF datapath: shared maps and programs, and a set of links for each pod, all pinned
//! in one state directory.

mod instance;
mod interfaces;
pub(crate) mod links;
mod listeners;
mod maps;
pub(crate) mod objects;
mod place;
mod pods;
mod policies;
mod state;

use std::path::Path;

use aya::maps::MapError;
use osm_ebpf_common::maps::PolicyWord;

use crate::{
    error::Result,
    interceptor::{Enrolled, Found, Interceptor},
    pod::{Netns, Pod},
    policy::Policy,
};
use maps::Maps;
use state::StateDir;

pub use state::DEFAULT_STATE_DIR;

/// The datapath that lives in one state directory. While this exists, no other process
/// changes that directory.
pub struct Ebpf {
    state: StateDir,
    maps: Maps,
}

impl Ebpf {
    /// Opens a state directory, and loads the programs into it where there are none.
    ///
    /// # Errors
    /// Where the kernel can't do it, or another version's state is there.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let state = StateDir::create(state_dir)?;
        let maps = if let Some(maps) = instance::open(&state)? {
            maps
        } else {
            state.refuse_foreign()?;
            match instance::load_anew(&state) {
                Ok(maps) => maps,
                Err(error) => {
                    // The error that is reported is the first one.
                    let _ = state.remove();
                    return Err(error);
                }
            }
        };
        let mut ebpf = Self { state, maps };
        ebpf.recover()?;
        Ok(ebpf)
    }

    /// Opens a state directory, if anything is there.
    ///
    /// # Errors
    /// Where another version's state is there.
    pub fn open_existing(state_dir: &Path) -> Result<Option<Self>> {
        let Some(state) = StateDir::open(state_dir)? else {
            return Ok(None);
        };
        let Some(maps) = instance::open(&state)? else {
            return Ok(None);
        };
        let mut ebpf = Self { state, maps };
        ebpf.recover()?;
        Ok(Some(ebpf))
    }

    /// Lets go of a pod whose network namespace may be gone.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn withdraw_by_cookie(&mut self, netns_cookie: u64) -> Result<()> {
        self.withdraw_pod(netns_cookie)?;
        self.collect_policies()
    }

    /// Removes maps and programs, once no pod needs them.
    ///
    /// # Errors
    /// Where the directory can't be removed.
    pub fn remove_if_unused(self) -> Result<()> {
        if self.pods()?.is_empty() {
            drop(self.maps);
            self.state.remove()?;
        }
        Ok(())
    }

    fn enrol_under(&mut self, pod: &Pod, policy: &Policy, word: PolicyWord) -> Result<Enrolled> {
        // Before anything about the pod is written: it goes with what is broken.
        let faults = self.withdraw_broken(pod)?;
        self.stage_interfaces(pod, policy, word.id())?;
        let enrolled = match self.pod_by_cookie(pod.netns.cookie()?)? {
            Some(entry) => self.change(pod, &entry, word)?,
            None => self.enrol_new(pod, word)?,
        };
        Ok(if faults.is_empty() {
            enrolled
        } else {
            Enrolled::Repaired(faults)
        })
    }

    fn is_known(&self, netns_cookie: u64) -> Result<bool> {
        let pods = self.pods()?;
        Ok(pods.iter().any(|pod| pod.netns_cookie == netns_cookie))
    }

    /// Undoes what an agent that was killed left half-done.
    fn recover(&mut self) -> Result<()> {
        self.recover_pods()?;
        self.recover_policies()
    }
}

impl Interceptor for Ebpf {
    fn enrol(&mut self, pod: &Pod, policy: Option<&Policy>) -> Result<Enrolled> {
        let Some(policy) = policy else { return Ok(Enrolled::Unchanged) };
        let word = self.ensure_policy(policy)?;
        let enrolled = self.enrol_under(pod, policy, word);
        // Also after a failure: what nobody uses is not left behind.
        let collected = self.collect_policies();
        let enrolled = enrolled?;
        collected?;
        Ok(enrolled)
    }

    fn compare(&self, pod: &Pod, _policy: Option<&Policy>) -> Result<Found> {
        Ok(match Interceptor::inspect(self, &pod.netns)? {
            true => Found::AsWanted,
            false => Found::Absent,
        })
    }

    fn withdraw(&mut self, netns: &Netns) -> Result<bool> {
        let cookie = netns.cookie()?;
        let is_there = self.is_known(cookie)?;
        if is_there {
            self.withdraw_by_cookie(cookie)?;
        }
        Ok(is_there)
    }

    fn inspect(&self, netns: &Netns) -> Result<bool> {
        let cookie = netns.cookie()?;
        Ok(self.is_known(cookie)? && links::faults(&self.state.pod(cookie))?.is_empty())
    }
}

/// A pod that is intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intercepted {
    /// What people call it.
    pub name: String,
    /// Its network namespace.
    pub netns_cookie: u64,
}

/// A missing entry is an answer, not an error.
fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
