//! What the CNI plugin and the node agent say to each other, over a socket for root alone.
//!
//! ```text
//! → {"version":1,"command":"add","container":"4f1c…","netns":"/run/netns/cni-1","interface":"eth0",
//!    "pod":{"namespace":"default","name":"web-0","uid":"0b1e…"}}
//! ← {"version":1,"intercepted":"ebpf"}
//! ← {"version":1,"outside":"its namespace is not in the mesh"}
//! ← {"version":1,"refused":"its annotation … is wrong"}
//! ← {"version":1,"retry":"its cgroup is not there yet"}
//! → {"version":1,"command":"status"}
//! ← {"version":1,"ready":true}
//! ```
//!
//! Lines, limits and versions are those of [the other socket](super). Who the pod is comes from
//! the container runtime, which is trusted: it made the pod. So nobody else may speak here.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};
use serde::{Deserialize, Serialize};

use super::{NoAnswer, VERSION, exchange};
use crate::daemon::status::Means;

/// Where the agent listens unless something else is said. Not beside the socket of init
/// containers: their directory is mounted into pods, and root in a pod could put a socket of its
/// own in the place of this one.
pub const DEFAULT_SOCKET: &str = "/run/osm-cni/agent.sock";

/// What the plugin asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// See [`VERSION`].
    pub version: u32,
    /// What for.
    pub command: Verb,
    /// For which container; empty where it is for none.
    #[serde(default)]
    pub container: String,
    /// Its network namespace, as the runtime's mount namespace has it, without symbolic links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Its interface; empty where it is for none.
    #[serde(default)]
    pub interface: String,
    /// Which pod this is; none where no Kubernetes speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodIdentity>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// To intercept the pod before it starts.
    Add,
    /// To let go of it.
    Del,
    /// Whether it is intercepted.
    Check,
    /// Whether the agent is there.
    Status,
}

/// Which pod, as the container runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, where the runtime says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What the agent responds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// See [`VERSION`].
    pub version: u32,
    /// What became of the request.
    #[serde(flatten)]
    pub answer: Answer,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The pod is intercepted, by these means: it was seen in the kernel.
    Intercepted(Means),
    /// It is not in the mesh, or not any more, and why.
    Outside(String),
    /// It has to be intercepted and is not, and trying again will not help: why.
    Refused(String),
    /// Not now: why.
    Retry(String),
}

/// The response to [`Verb::Status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// See [`VERSION`].
    pub version: u32,
    /// Whether requests are taken.
    pub ready: bool,
}

/// Asks the agent. Returns within about `limit`, whatever the other side does.
///
/// # Errors
/// Where there is no answer, or not the agent listens but somebody of less privilege.
pub fn ask(socket: &Path, limit: Duration, request: &Request) -> Result<Answer, NoAnswer> {
    let response: Response = exchange(socket, limit, request, is_root_s)?;
    Ok(response.answer)
}

/// Asks whether the agent is there.
///
/// # Errors
/// Where there is no answer, or not the agent listens but somebody of less privilege.
pub fn is_ready(socket: &Path, limit: Duration) -> Result<bool, NoAnswer> {
    let request = Request {
        version: VERSION,
        command: Verb::Status,
        container: String::new(),
        netns: None,
        interface: String::new(),
        pod: None,
    };
    let readiness: Readiness = exchange(socket, limit, &request, is_root_s)?;
    Ok(readiness.ready)
}

/// The word of another user must not let a pod start.
fn is_root_s(stream: &UnixStream) -> io::Result<()> {
    let uid = getsockopt(stream, PeerCredentials)?.uid();
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "user {uid} listens there, which is not the agent"
    )))
}
