//! Lists that change and nothing else: in force before anything else is looked at.

use std::sync::Arc;

use super::{Control, plan::Cookie};
use crate::{
    config::InterceptionMode,
    daemon::{
        metrics::Enrolment,
        source::Membership,
        status::{Means, State},
    },
    policy::Policy,
};

impl Control {
    /// Puts the pods that were seen intercepted by eBPF, and that the next pass looks at, under the
    /// lists that are wanted now. That pass says what became of it, and does what this leaves out:
    /// nothing is reported as in force that was not seen to be.
    pub(super) fn switch_lists(&mut self) {
        let is_by_ebpf = matches!(
            self.knowledge.mode(),
            InterceptionMode::Auto | InterceptionMode::Ebpf
        );
        if !is_by_ebpf || !self.knowledge.is_synced() {
            return;
        }
        let wanted = self.lists_to_switch();
        let lists: Vec<(Cookie, &Policy)> = wanted
            .iter()
            .map(|(pod, _, policy)| (*pod, &**policy))
            .collect();
        let switched = match self.datapath.switch(&lists) {
            Ok(switched) => switched,
            Err(error) => {
                tracing::warn!("{error}; it is tried again");
                return;
            }
        };
        for (pod, name, _) in &wanted {
            if switched.contains(pod) {
                self.outlets
                    .metrics
                    .enrolled(Means::Ebpf, Enrolment::Changed);
                tracing::info!(pod = name, "lists changed");
            }
        }
    }

    fn lists_to_switch(&mut self) -> Vec<(Cookie, String, Arc<Policy>)> {
        let mut wanted = Vec::new();
        for (key, entry) in self.settled.iter() {
            let is_in_force = entry.status.state == State::Intercepted(Means::Ebpf);
            let Some(pod) = entry
                .pod
                .filter(|_| is_in_force && self.knowledge.is_dirty(key))
            else {
                continue;
            };
            let spec = self.knowledge.pod(key).cloned();
            let Some(spec) = spec.filter(|spec| spec.membership == Membership::InMesh) else {
                continue;
            };
            if let Some(policy) = self.knowledge.lists_of(key, &spec).policy {
                wanted.push((pod, spec.name, policy));
            }
        }
        wanted
    }
}
