//! What init containers and the CNI plugin ask for, over the agent's two Unix sockets.
//!
//! ```text
//! accept ─▶ who is it? ─▶ gate ─▶ line ─▶ Event::Request ─▶ loop
//!           (kernel)      (limits)                            │
//!    close ◀────────────────────────── line ◀─── oneshot ─────┘
//! ```
//!
//! * [`Socket`]: the file, its mode and owner,
//! * [`Server`]: takes connections, as many as [`Limits`] say, and turns them into [`Request`]s,
//! * [`Outcome`]: what became of each, to be counted.
//!
//! Who a peer is says the kernel alone. A pod that floods, drips or keeps quiet uses up its own
//! share and nobody else's: it is refused before it is given any memory or task.

mod cni;
mod enrol;
mod gate;
mod outcome;
mod server;
mod socket;
mod who;

use std::path::PathBuf;

use tokio::sync::oneshot;

use crate::{
    pod::Netns,
    protocol::{self, cni::PodIdentity},
};

pub use gate::{Limits, Rate};
pub use outcome::Outcome;
use server::Service as _;
pub use server::{Report, Server};
pub use socket::{Place, Socket};
pub(crate) use who::pod_s;

/// What the services for init containers and for the CNI plugin answer to a line that is none of
/// their requests; none where it is one.
pub(crate) fn refusals(line: &[u8]) -> [Option<Vec<u8>>; 2] {
    let (events, _) = std::sync::mpsc::channel();
    let (enrol, cni) = (enrol::Enrol::new(events.clone()), cni::Cni::new(events));
    let to_enrol = protocol::parse::<protocol::Request>(line).err();
    let to_cni = protocol::parse::<protocol::cni::Request>(line).err();
    [
        to_enrol.map(|error| enrol.refusal(&server::wrong(&error))),
        to_cni.map(|error| cni.refusal(&server::wrong(&error))),
    ]
}

/// What somebody waits for. Whoever has waited too long is gone: the answer is then dropped.
#[derive(Debug)]
pub enum Request {
    /// An init container wants its pod intercepted.
    Enrol {
        /// Which pod.
        peer: Peer,
        /// To be answered when it is true.
        answer: oneshot::Sender<protocol::Answer>,
    },
    /// The container runtime says what becomes of a pod.
    Cni {
        /// What, and of which pod.
        command: Box<CniCommand>,
        /// To be answered when it is true.
        answer: oneshot::Sender<protocol::cni::Answer>,
    },
}

/// An asking process, as the kernel knows it.
#[derive(Debug)]
pub struct Peer {
    /// Its number, as the agent's PID namespace has it. It may be over by now.
    pub pid: i32,
    /// Its network namespace: not the node's own. A process with user namespaces can make some:
    /// whether it is the pod's is to be compared with what a trusted source says of the pod.
    pub netns: Netns,
    /// Its cgroup of v2, relative to the root of the hierarchy; empty where it is in the root, as
    /// everything is where the kubelet uses v1.
    pub cgroup: PathBuf,
}

/// What the container runtime wants.
#[derive(Debug)]
pub struct CniCommand {
    /// What.
    pub action: CniAction,
    /// Which pod, as Kubernetes knows it; none where it is none of Kubernetes.
    pub pod: Option<PodIdentity>,
    /// The sandbox's ID.
    pub container: String,
    /// The network namespace by the runtime's name, which need not exist for the agent.
    pub netns_path: Option<PathBuf>,
    /// The open network namespace, or why there is none: it may be gone at [`CniAction::Del`].
    pub netns: Result<Netns, String>,
    /// The pod's interface.
    pub interface: String,
}

/// What the container runtime can want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CniAction {
    /// The pod starts as soon as the answer is
    /// [`Intercepted`](protocol::cni::Answer::Intercepted) or
    /// [`Outside`](protocol::cni::Answer::Outside).
    Add,
    /// The pod ends. The answer does not matter, but it is waited for.
    Del,
    /// Whether the pod is intercepted still.
    Check,
}
