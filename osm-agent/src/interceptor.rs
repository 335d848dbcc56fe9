//! What every datapath can do for a pod.

use crate::{
    error::Result,
    pod::{Netns, Pod},
    policy::Policy,
};

/// A way to intercept pods. Kernel state is the only truth: an implementation keeps nothing
/// that it could not read back.
pub trait Interceptor {
    /// Puts a pod under a policy, and mends what keeps it from being intercepted. A pod that
    /// is intercepted already stays so throughout, and changes its policy at once for new
    /// connections; established ones are left alone.
    ///
    /// Without a policy, the one in force stays; a pod that is not intercepted yet gets empty
    /// lists.
    ///
    /// # Errors
    /// Where the pod is not intercepted, or still goes by its former policy. Nothing is
    /// left half-done.
    fn enrol(&mut self, pod: &Pod, policy: Option<&Policy>) -> Result<Enrolled>;

    /// How the kernel's state differs from what [`Self::enrol`] would make of it. Changes
    /// nothing.
    ///
    /// # Errors
    /// Where the state can't be read.
    fn compare(&self, pod: &Pod, policy: Option<&Policy>) -> Result<Found>;

    /// Lets go of a pod; says whether it was intercepted. Established connections live on.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn withdraw(&mut self, netns: &Netns) -> Result<bool>;

    /// Whether a pod is intercepted this way.
    ///
    /// # Errors
    /// Where the state can't be read.
    fn inspect(&self, netns: &Netns) -> Result<bool>;

    /// Removes what no pod needs any more: lists, programs of former versions. To be called
    /// when one or many pods were enrolled, changed or withdrawn.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn tidy(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What [`Interceptor::compare`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing of the pod.
    Absent,
    /// Intercepted, as wanted.
    AsWanted,
    /// Intercepted whole, by other lists, addresses or users than wanted.
    Otherwise,
    /// Intercepted whole, by the programs of another version of this agent.
    Outdated,
    /// Known, and not intercepted as it should be: what is wrong, in words.
    Faulty(Vec<String>),
}

/// What [`Interceptor::enrol`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolled {
    /// The pod is intercepted from now on.
    New {
        /// How many listening sockets of its sidecar were there already, where that matters.
        listeners: Option<usize>,
    },
    /// The pod was intercepted and goes by another policy from now on.
    Changed,
    /// The pod was intercepted, but not as it should have been: what was wrong, in words.
    Repaired(Vec<String>),
    /// The pod was intercepted by the programs of another version of this agent, and is by
    /// those of this one from now on.
    Upgraded,
    /// The pod was intercepted and went by that policy already.
    Unchanged,
}
