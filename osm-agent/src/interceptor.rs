//! What every datapath can do for a pod.

use crate::{
    error::Result,
    pod::{Netns, Pod},
    policy::Policy,
};

/// A way to intercept pods. Kernel state is the only truth: an implementation keeps nothing
/// that it could not read back.
pub trait Interceptor {
    /// Puts a pod under a policy. A pod that is intercepted already only changes its
    /// policy, at once for new connections; established ones are left alone.
    ///
    /// # Errors
    /// Where the pod is not intercepted, or still goes by its former policy. Nothing is
    /// left half-done.
    fn enrol(&mut self, pod: &Pod, policy: &Policy) -> Result<Enrolled>;

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
    /// The pod was intercepted and went by that policy already.
    Unchanged,
}
