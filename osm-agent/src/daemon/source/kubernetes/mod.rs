//! What the API server says: pods of this node, namespaces, the `MeshConfig` resource.
//!
//! ```text
//! watch: pods ───────┐
//! watch: namespaces ─┴▶ Known ─▶ publish ──▶ Event::Pods, complaints
//! watch: MeshConfig ───────────────────────▶ Event::Mesh       │
//!                        Notices of the loop ─────────────────▶ report ─▶ Kubernetes Events
//! ```
//!
//! * [`Pod`]: what is kept of a pod, and [`judge`], whether it is in the mesh,
//! * `watch`: one collection, listed and watched for ever.
//!
//! While the API server can't be reached the last known state stands. A pod goes when the
//! server says that it is gone, or does not list it any more; no error removes one.

mod client;
mod known;
mod membership;
mod mesh;
mod outage;
mod pod;
mod publish;
mod report;
mod watch;
mod wire;

use std::{path::PathBuf, sync::mpsc::Sender, time::Duration};

use kube::Client;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::{Event, Notice};
use crate::error::Result;
use known::Known;

pub use membership::{Complaint, INJECTION, judge};
pub use pod::Pod;

/// Which API server, which node, which `MeshConfig`.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// The node's name, as in `spec.nodeName` of its pods.
    pub node_name: String,
    /// How to reach the API server; none for the service account of the agent's own pod.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the `MeshConfig`.
    pub mesh_namespace: String,
    /// The name of the `MeshConfig`.
    pub mesh_config_name: String,
    /// Time limits.
    pub pace: Pace,
}

/// Time limits towards the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// For an answer as a whole. API servers give up after a minute themselves.
    pub answer: Duration,
    /// For a watch on which nothing is said, bookmarks included: it is asked for again.
    pub idle: Duration,
    /// For what the server is asked to end a watch after.
    pub watch: Duration,
    /// The longest wait between two tries.
    pub retry: Duration,
    /// How often a `MeshConfig` resource is looked for that the server does not have.
    pub discovery: Duration,
    /// How long a resource `MeshConfig` that was there has to be missing before that is
    /// believed: an API server that starts does not know it yet.
    pub missing: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(65),
            idle: Duration::from_secs(75),
            watch: Duration::from_secs(290),
            retry: Duration::from_secs(10),
            discovery: Duration::from_secs(5),
            missing: Duration::from_secs(30),
        }
    }
}

/// The source. Nothing is asked of the API server before [`Self::run`].
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    options: KubernetesOptions,
}

impl Kubernetes {
    /// Reads how to reach the API server, which need not be up. To be called on the runtime
    /// that the source will run on.
    ///
    /// # Errors
    /// Where there is no usable kubeconfig or service account.
    pub async fn connect(options: KubernetesOptions) -> Result<Self> {
        Ok(Self {
            client: client::connect(&options).await?,
            options,
        })
    }

    /// Sends events, and makes Kubernetes Events of notices, until nobody listens to the
    /// events any more. `on_error` is called for every request that failed.
    pub async fn run(
        &self,
        events: Sender<Event>,
        notices: UnboundedReceiver<Notice>,
        on_error: impl Fn(),
    ) {
        let Self { client, options } = self;
        let (known, mesh) = (Known::default(), mesh::Mesh::default());
        let (complaints, own_notices) = mpsc::unbounded_channel();
        tokio::select! {
            () = publish::publish(&known, &events, &complaints) => {}
            () = watch::pods(client, options, &known, &on_error) => {}
            () = watch::namespaces(client, options, &known, &on_error) => {}
            () = mesh.follow(client, options, &events, &on_error) => {}
            () = report::report(client, options, (&known, &mesh), [notices, own_notices], &on_error) => {}
        }
    }
}
