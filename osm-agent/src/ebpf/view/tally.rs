//! Numbers of all pods, for who asks every few seconds.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use osm_ebpf_common::reason::Reason;

use super::{Listeners, View};
use crate::{
    ebpf::{
        hooks::{CGROUP_HOOKS, INBOUND},
        inbound, shortcut,
        state::entries,
    },
    error::{Result, Tried as _},
    sys::bpf,
};

/// What is counted of a pod.
#[derive(Clone, Debug)]
pub struct Tally {
    /// What people call it.
    pub name: String,
    /// How many connections there were of each reason, in the order of [`Reason::ALL`].
    pub counters: Vec<(Reason, u64)>,
    /// The sidecar's listening sockets that are known.
    pub listeners: Listeners,
}

/// How long the lists of one policy are.
#[derive(Clone, Debug)]
pub struct Lists {
    /// The beginning of the digest, in hexadecimal.
    pub policy: String,
    /// How many ranges.
    pub ranges: usize,
    /// How many excluded ports, outbound and inbound.
    pub ports: usize,
}

/// How much a program has run, in all versions of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramRuns {
    /// For how long, in nanoseconds.
    pub nanoseconds: u64,
    /// How often.
    pub runs: u64,
}

impl View {
    /// What is counted of every pod, by name.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn tallies(&self) -> Result<Vec<Tally>> {
        let listeners = self.listeners()?;
        let mut tallies = Vec::new();
        for (cookie, record) in self.records()? {
            let counters = self.counted(record.slot())?;
            // The slot may be another pod's since.
            if !self.is_still(cookie, &record)? {
                continue;
            }
            tallies.push(Tally {
                name: record.name().into(),
                counters,
                listeners: listeners.get(&cookie).copied().unwrap_or_default(),
            });
        }
        tallies.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(tallies)
    }

    /// How long the lists are that pods may go by. They are walked through only if there is one that is not
    /// among the `known` ones.
    ///
    /// # Errors
    /// Where they can't be read.
    pub fn lists(&self, known: &[Lists]) -> Result<Vec<Lists>> {
        let mut lists = BTreeMap::new();
        for (version, maps) in &self.versions {
            let Ok(maps) = maps else {
                continue;
            };
            for entry in &maps.policies {
                let (id, record) = entry.tried(|| "read the map POLICIES")?;
                let policy = record.digest[..6].iter().map(|byte| format!("{byte:02x}"));
                let policy = policy.collect::<String>();
                let known = known.iter().find(|known| known.policy == policy);
                let counted = match known {
                    Some(known) => known.clone(),
                    None => self.count((*version, id), policy)?,
                };
                lists.insert(counted.policy.clone(), counted);
            }
        }
        Ok(lists.into_values().collect())
    }

    fn count(&self, id: (u64, u32), policy: String) -> Result<Lists> {
        let sizes = self.sizes()?.get(&id).copied();
        let [ranges, outbound, inbound] = sizes.unwrap_or_default();
        Ok(Lists {
            policy,
            ranges,
            ports: outbound + inbound,
        })
    }

    /// How much each program has run; nothing of those that the kernel did not count.
    ///
    /// # Errors
    /// Where the pins can't be read.
    pub fn program_runs(&self) -> Result<BTreeMap<&'static str, ProgramRuns>> {
        let mut runs: BTreeMap<&'static str, ProgramRuns> = BTreeMap::new();
        let mut add = |name, info: bpf::ProgramInfo| {
            if info.runs == 0 {
                return;
            }
            let sum = runs.entry(name).or_default();
            sum.nanoseconds += info.run_time;
            sum.runs += info.runs;
        };
        let shared = CGROUP_HOOKS.iter().map(|hook| hook.program);
        let shared = shared.chain([inbound::DECISION, shortcut::NAME]);
        for version in entries(&self.layout.versions())? {
            for name in shared.clone() {
                let program = bpf::open_pinned(&version.join(name));
                if let Ok(info) = program.and_then(|it| bpf::program_info(it.as_fd())) {
                    add(name, info);
                }
            }
        }
        // Each pod has one of its own, which only its link holds.
        for pod in entries(&self.layout.pods())? {
            let link = bpf::open_pinned(&pod.join(INBOUND));
            let link = link.and_then(|it| bpf::link_info(it.as_fd()));
            let program = link.and_then(|link| bpf::program_by_id(link.program));
            if let Ok(info) = program.and_then(|it| bpf::program_info(it.as_fd())) {
                add(inbound::NAME, info);
            }
        }
        Ok(runs)
    }
}
