//! What is wanted: pods and the mesh's configuration, by whoever is trusted to say so.
//!
//! A source sends [`Event`]s and knows nothing of the kernel. What the loop has to tell
//! people about a pod goes back to its source as a [`Notice`].

pub mod files;
pub mod kubernetes;

use std::{collections::BTreeMap, path::PathBuf};

use super::request::Request;
use crate::config::MeshConfig;

/// What a source calls a pod, for as long as the pod lives: the UID in Kubernetes, the file's
/// name among files.
pub type PodKey = String;

/// What a source says of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// What people call it: `namespace/name`.
    pub name: String,
    /// The UID by which the kubelet names the pod's cgroup; none where only paths are given.
    pub uid: Option<String>,
    /// Whether it is to be intercepted.
    pub membership: Membership,
    /// Its annotations, those that concern interception.
    pub annotations: BTreeMap<String, String>,
    /// Its network namespace, where the source knows it.
    pub netns: Option<PathBuf>,
    /// Its cgroup, where the source knows it; relative to the root of the hierarchy or absolute.
    pub cgroup: Option<PathBuf>,
    /// Where its sidecar runs, where the source knows it.
    pub sidecar: Option<SidecarPlace>,
}

/// Where a pod's sidecar runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SidecarPlace {
    /// In the container that the runtime calls so.
    Container(String),
    /// In this cgroup, below the pod's; relative to the root of the hierarchy or absolute.
    Cgroup(PathBuf),
}

impl PodSpec {
    /// A pod in the mesh of which nothing else is said.
    #[must_use]
    pub const fn in_mesh(name: String, uid: Option<String>) -> Self {
        Self {
            name,
            uid,
            membership: Membership::InMesh,
            annotations: BTreeMap::new(),
            netns: None,
            cgroup: None,
            sidecar: None,
        }
    }
}

/// Whether a pod is to be intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It is.
    InMesh,
    /// It is not.
    Outside,
    /// Somebody wants it to be, and it must not: why, and what to do.
    Refused(String),
    /// The source can't read what is said of it: why, and what to do. It may be any pod, so that
    /// none that the source does not know is let go of.
    Unreadable(String),
}

/// What the loop is told.
#[derive(Debug)]
pub enum Event {
    /// All pods of the node that the source knows now. The first one ends the waiting at
    /// start: until then, no pod is let go of.
    Pods(BTreeMap<PodKey, PodSpec>),
    /// The mesh's configuration, or what is wrong with it: the last good one stands then.
    Mesh(Result<Box<MeshConfig>, String>),
    /// Something happened to a pod's cgroups that are watched.
    Cgroup(inotify::WatchDescriptor),
    /// Somebody waits for an answer.
    Request(Request),
    /// The process is to end.
    Stop,
}

/// What people are to be told about a pod or about the mesh's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whom it is about; none for the mesh's configuration.
    pub pod: Option<PodKey>,
    /// Whether something is wrong.
    pub is_warning: bool,
    /// In one word, `CamelCase`, as Kubernetes has it.
    pub reason: &'static str,
    /// In a sentence.
    pub text: String,
}
