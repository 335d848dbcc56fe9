//! The eBPF datapath: maps and programs, and a set of links for each pod, all pinned in one state
//! directory, which outlives the agent and its versions.

mod cleanup;
mod compare;
mod enrol;
pub mod events;
pub(crate) mod hooks;
mod inbound;
mod interfaces;
mod layout;
mod links;
mod listeners;
mod lock;
mod log;
mod maps;
pub(crate) mod objects;
mod pins;
mod place;
mod pods;
mod policies;
mod salvage;
pub(crate) mod shortcut;
mod state;
mod types;
mod version;
pub mod view;

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use aya::maps::MapError;

use crate::{
    error::Result,
    interceptor::{Enrolled, Found, Interceptor},
    pod::{Netns, Pod},
    policy::Policy,
};
use compare::Pass;
use lock::Patience;
use maps::Maps;
use state::StateDir;
use version::Programs;

pub(crate) use cleanup::foreign_in;
pub use cleanup::{Cleaned, cleanup};
pub(crate) use layout::{Layout, file_name};
pub(crate) use maps::is_map_of_ours;
pub use objects::{LogLevel, set_log_level};
pub(crate) use pins::detach_rank;
pub use state::DEFAULT_STATE_DIR;
pub(crate) use state::number_of;

/// The datapath that lives in one state directory. While this exists, no other process
/// changes that directory.
pub struct Ebpf {
    state: StateDir,
    maps: Maps,
    programs: Programs,
    pass: RefCell<Pass>,
}

impl Ebpf {
    /// Opens a state directory, and loads the programs into it where those of this version are
    /// not there. For a command: it waits for another one to end.
    ///
    /// # Errors
    /// Where the kernel can't do it, what is there can't be used, or an agent keeps it.
    pub fn open(state_dir: &Path) -> Result<Self> {
        Self::open_with(state_dir, Patience::Command)
    }

    /// The same for a process that stays.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_exclusive(state_dir: &Path) -> Result<Self> {
        Self::open_with(state_dir, Patience::Agent)
    }

    /// Opens a state directory, if anything is there.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_existing(state_dir: &Path) -> Result<Option<Self>> {
        let Some(state) = StateDir::open(state_dir, Patience::Command)? else {
            return Ok(None);
        };
        let opened = version::open(&state)?;
        opened
            .map(|opened| Self::recovered(state, opened))
            .transpose()
    }

    fn open_with(state_dir: &Path, patience: Patience) -> Result<Self> {
        let state = StateDir::create(state_dir, patience)?;
        let opened = if let Some(opened) = version::open(&state)? {
            opened
        } else {
            state.refuse_foreign()?;
            match version::load_anew(&state) {
                Ok(opened) => opened,
                Err(error) => {
                    // The error that is reported is the first one.
                    let _ = state.remove();
                    return Err(error);
                }
            }
        };
        Self::recovered(state, opened)
    }

    /// Undoes what an agent that was killed left half-done.
    fn recovered(state: StateDir, (maps, programs): version::Opened) -> Result<Self> {
        let mut ebpf = Self {
            state,
            maps,
            programs,
            pass: RefCell::default(),
        };
        ebpf.recover_pods()?;
        ebpf.recover_policies()?;
        Ok(ebpf)
    }

    /// Lets go of a pod whose network namespace may be gone.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn withdraw_by_cookie(&mut self, netns_cookie: u64) -> Result<()> {
        self.withdraw_pod(netns_cookie)
    }

    /// The same for many, which is faster than one by one.
    ///
    /// # Errors
    /// Where the kernel refuses; some of them may be let go by then.
    pub fn withdraw_many(&mut self, netns_cookies: &[u64]) -> Result<()> {
        self.withdraw_pods(&netns_cookies.iter().copied().collect())
    }

    /// Puts pods that are intercepted already under other lists, and does nothing else: by one
    /// store for each pod, once the lists are written. Says for which there was something to
    /// change. Pods that this can't be done for stay as they are: [`Interceptor::enrol`] does
    /// everything, and [`Interceptor::compare`] says what is in force.
    ///
    /// # Errors
    /// Where the kernel refuses; some of them may go by their new lists by then.
    pub fn switch(&mut self, wanted: &[(u64, &Policy)]) -> Result<Vec<u64>> {
        self.switch_pods(wanted)
    }

    /// Removes maps and programs, once no pod needs them.
    ///
    /// # Errors
    /// Where the directory can't be removed.
    pub fn remove_if_unused(self) -> Result<()> {
        if self.records()?.is_empty() && self.state.linked_pods()?.is_empty() {
            drop(self.maps);
            self.state.remove()?;
        }
        Ok(())
    }

    fn is_known(&self, netns_cookie: u64) -> Result<bool> {
        Ok(self.maps.record(netns_cookie)?.is_some() || self.state.pod(netns_cookie).is_dir())
    }
}

impl Interceptor for Ebpf {
    fn enrol(&mut self, pod: &Pod, policy: Option<&Policy>) -> Result<Enrolled> {
        self.enrol_pod(pod, policy)
    }

    fn compare(&self, pod: &Pod, policy: Option<&Policy>) -> Result<Found> {
        self.compare_pod(pod, policy)
    }

    fn withdraw(&mut self, netns: &Netns) -> Result<bool> {
        let cookie = netns.cookie()?;
        let is_there = self.is_known(cookie)?;
        if is_there {
            self.withdraw_pod(cookie)?;
        }
        Ok(is_there)
    }

    fn inspect(&self, netns: &Netns) -> Result<bool> {
        let cookie = netns.cookie()?;
        Ok(self.is_known(cookie)? && links::are_attached(&self.state, cookie, &self.maps)?)
    }

    fn tidy(&mut self) -> Result<()> {
        self.pass.borrow_mut().forget_pods();
        self.collect_policies()?;
        self.detach_unused_cgroups()?;
        let records = self.records()?;
        let used: BTreeSet<u64> = records.iter().map(|(_, record)| record.version()).collect();
        version::remove_unused(&self.state, |version| used.contains(&version))?;
        *self.pass.borrow_mut() = Pass::default();
        Ok(())
    }
}

/// A pod that has a record or links in a state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intercepted {
    /// What people call it; empty where that is not known.
    pub name: String,
    /// Its network namespace.
    pub netns_cookie: u64,
    /// The kernel's number of its cgroup; 0 where that is not known.
    pub cgroup: u64,
    /// Whether its network namespace is gone, as far as can be told: no program of ours is
    /// attached to one any more.
    pub is_gone: bool,
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
