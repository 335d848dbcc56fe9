//! The fallback as one of the ways to intercept a pod.

use super::{Applied, Iptables, RuleSet, Target};
use crate::{
    error::Result,
    interceptor::{Enrolled, Interceptor},
    pod::{Netns, Pod},
    policy::Policy,
};

impl Interceptor for Iptables {
    fn enrol(&mut self, pod: &Pod, policy: &Policy) -> Result<Enrolled> {
        let rules = RuleSet::new(policy, &pod.addresses)?;
        let report = self.apply(&Target::of(&pod.netns), &rules)?;
        Ok(match report.applied {
            Applied::New => Enrolled::New { listeners: None },
            Applied::Changed => Enrolled::Changed,
            Applied::Repaired(what) => Enrolled::Repaired(what),
            Applied::Unchanged => Enrolled::Unchanged,
        })
    }

    fn withdraw(&mut self, netns: &Netns) -> Result<bool> {
        self.cleanup(&Target::of(netns))
    }

    fn inspect(&self, netns: &Netns) -> Result<bool> {
        // The method of the same name that says with which tools.
        Ok(!Self::inspect(self, &Target::of(netns))?.is_empty())
    }
}
