//! From what is wanted and what is real to what is to be done. Pure.

use std::collections::BTreeMap;

use crate::{daemon::status::Means, interceptor::Found};

/// A pod's network namespace, by its cookie.
pub type Cookie = u64;

/// What each means of interception shows of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Real {
    /// As compared with what is wanted.
    pub ebpf: Found,
    /// As compared with what is wanted.
    pub iptables: Found,
}

impl Real {
    /// Nothing of the pod, anywhere.
    pub const ABSENT: Self = Self {
        ebpf: Found::Absent,
        iptables: Found::Absent,
    };

    /// What was found by one means.
    #[must_use]
    pub const fn by(&self, means: Means) -> &Found {
        match means {
            Means::Ebpf => &self.ebpf,
            Means::Iptables => &self.iptables,
        }
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// To whom.
    pub pod: Cookie,
    /// By which means.
    pub means: Means,
    /// What.
    pub step: Step,
}

/// What is done to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Let go of a pod that is not wanted in the mesh.
    LetGo,
    /// Mend what keeps a pod from being intercepted whole.
    Repair,
    /// Begin to intercept a pod.
    Begin,
    /// Put a pod under other lists, or under the programs of this version.
    Change,
    /// Remove the former means of a pod. To be left out where an earlier step of the same pod
    /// failed: the former means is what intercepts it then.
    RemoveFormer,
}

/// What to do, in this order. Whatever the order in which pods fail, no pod that was
/// intercepted and stays in the mesh is without interception at any moment.
///
/// First, what makes room; then the pods that are worst off.
#[must_use]
pub fn plan(wanted: &BTreeMap<Cookie, Means>, real: &BTreeMap<Cookie, Real>) -> Vec<Action> {
    let mut actions = Vec::new();
    for (pod, found) in real.iter().filter(|(pod, _)| !wanted.contains_key(pod)) {
        for means in Means::ALL {
            if *found.by(means) != Found::Absent {
                actions.push(Action {
                    pod: *pod,
                    means,
                    step: Step::LetGo,
                });
            }
        }
    }
    for (pod, means) in wanted {
        let found = real.get(pod).unwrap_or(&Real::ABSENT);
        let mut add = |means, step| {
            actions.push(Action {
                pod: *pod,
                means,
                step,
            });
        };
        match found.by(*means) {
            Found::AsWanted => {}
            Found::Absent => add(*means, Step::Begin),
            Found::Faulty(_) => add(*means, Step::Repair),
            Found::Otherwise | Found::Outdated => add(*means, Step::Change),
        }
        if *found.by(means.other()) != Found::Absent {
            add(means.other(), Step::RemoveFormer);
        }
    }
    // Stable: the steps of one pod keep their order, as they are in the order of `Step`.
    actions.sort_by_key(|action| action.step);
    actions
}
