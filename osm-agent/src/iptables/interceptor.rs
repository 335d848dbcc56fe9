//! The fallback as one of the ways to intercept a pod.

use std::net::IpAddr;

use super::{Applied, Iptables, RuleSet, Target};
use crate::{
    config::Lists,
    error::Result,
    interceptor::{Enrolled, Found, Interceptor},
    pod::{Netns, Pod},
    policy::Policy,
};

/// Without a policy, rules that somebody else changed are repaired as [`Iptables::keep`] says.
impl Interceptor for Iptables {
    fn enrol(&mut self, pod: &Pod, policy: Option<&Policy>) -> Result<Enrolled> {
        let target = Target::of(&pod.netns);
        let report = match policy {
            Some(policy) => self.apply(&target, &RuleSet::new(policy, &pod.addresses)?)?,
            None => self.keep(&target, &without_lists(pod)?)?,
        };
        Ok(match report.applied {
            Applied::New => Enrolled::New { listeners: None },
            Applied::Changed => Enrolled::Changed,
            Applied::Repaired(what) => Enrolled::Repaired(what),
            Applied::Unchanged => Enrolled::Unchanged,
        })
    }

    /// Without a policy, whether the rules are those that some agent wrote: by their own
    /// digests.
    fn compare(&self, pod: &Pod, policy: Option<&Policy>) -> Result<Found> {
        let rules = policy.map(|policy| RuleSet::new(policy, &pod.addresses));
        let target = Target::of(&pod.netns);
        Ok(match self.dry_run(&target, rules.transpose()?.as_ref())? {
            Applied::New => Found::Absent,
            Applied::Changed => Found::Otherwise,
            Applied::Repaired(what) => Found::Faulty(what),
            Applied::Unchanged => Found::AsWanted,
        })
    }

    fn withdraw(&mut self, netns: &Netns) -> Result<bool> {
        self.cleanup(&Target::of(netns))
    }

    /// Whether there is anything of ours, in whatever state it is.
    fn inspect(&self, netns: &Netns) -> Result<bool> {
        // The method of the same name that says with which tools.
        Ok(!Self::inspect(self, &Target::of(netns))?.is_empty())
    }
}

/// Rules for a pod whose lists nobody has told: everything is intercepted. That goes for IPv6
/// too where the pod has an address of it. Whether the mesh is dual-stack is not known here, and
/// if it is not, IPv6 connections are refused rather than left to go around the sidecar.
fn without_lists(pod: &Pod) -> Result<RuleSet> {
    let is_dual = pod.addresses.iter().any(IpAddr::is_ipv6);
    RuleSet::new(&Policy::compile(&Lists::default(), is_dual), &pod.addresses)
}
