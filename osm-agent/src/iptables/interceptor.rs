//! The fallback as one of the ways to intercept a pod.

use super::{Applied, Iptables, RuleSet, Target};
use crate::{
    error::Result,
    interceptor::{Enrolled, Found, Interceptor},
    pod::{Netns, Pod},
    policy::Policy,
};

impl Interceptor for Iptables {
    fn enrol(&mut self, pod: &Pod, policy: Option<&Policy>) -> Result<Enrolled> {
        let Some(policy) = policy else { return Ok(Enrolled::Unchanged) };
        let rules = RuleSet::new(policy, &pod.addresses)?;
        let report = self.apply(&Target::of(&pod.netns), &rules)?;
        Ok(match report.applied {
            Applied::New => Enrolled::New { listeners: None },
            Applied::Changed => Enrolled::Changed,
            Applied::Repaired(what) => Enrolled::Repaired(what),
            Applied::Unchanged => Enrolled::Unchanged,
        })
    }

    fn compare(&self, pod: &Pod, _policy: Option<&Policy>) -> Result<Found> {
        Ok(match Interceptor::inspect(self, &pod.netns)? {
            true => Found::AsWanted,
            false => Found::Absent,
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
