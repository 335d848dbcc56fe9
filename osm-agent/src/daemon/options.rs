//! What the node agent is told at its start.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::source::kubernetes::{KubernetesOptions, Pace};
use crate::{iptables::Iptables, protocol};

/// Where `osm-agent run` answers HTTP unless told otherwise: none of the ports that mean
/// something to the mesh (15000 to 15010, 15901 to 15904).
pub const DEFAULT_LISTEN: &str = "127.0.0.1:15905";
/// Where the CNI plugin asks unless told otherwise: in a directory of its own, as pods mount the
/// other socket's.
pub const DEFAULT_CNI_SOCKET: &str = protocol::cni::DEFAULT_SOCKET;

/// What the node agent is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory in a bpffs for maps, programs and links.
    pub state_dir: PathBuf,
    /// Who says which pods there are.
    pub source: Source,
    /// Where init containers ask.
    pub agent_socket: Option<AgentSocket>,
    /// Where the CNI plugin asks.
    pub cni_socket: Option<PathBuf>,
    /// How often all is compared, though nothing is said to have changed.
    pub resync: Duration,
    /// Where HTTP is answered.
    pub listen: Option<SocketAddr>,
    /// Whether native IPv6 is intercepted as well.
    pub dual_stack: bool,
    /// Root of the cgroup v2 hierarchy; found by itself where it is not given.
    pub cgroup_root: Option<PathBuf>,
    /// The cgroup above all pods, for those that have none of their own.
    pub shared_cgroup: Option<PathBuf>,
    /// The tools of the fallback.
    pub iptables: Iptables,
}

/// Who says which pods there are, and what the mesh's configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody but the pods themselves, on the agent's sockets; with the configuration of a
    /// file, where there is one.
    Requests {
        /// The MeshConfig.
        config: Option<PathBuf>,
    },
    /// Files.
    Files {
        /// The directory of pod files.
        pods: PathBuf,
        /// The MeshConfig.
        config: Option<PathBuf>,
    },
    /// The API server.
    Kubernetes(Kubernetes),
}

/// How the API server is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// The name of this node.
    pub node: String,
    /// How to reach the server; as the pod's service account where it is not given.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the MeshConfig.
    pub mesh_namespace: String,
    /// The name of the MeshConfig.
    pub mesh_config: String,
}

impl Kubernetes {
    /// The same for the source, which also has time limits.
    pub(super) fn options(&self) -> KubernetesOptions {
        KubernetesOptions {
            node_name: self.node.clone(),
            kubeconfig: self.kubeconfig.clone(),
            mesh_namespace: self.mesh_namespace.clone(),
            mesh_config_name: self.mesh_config.clone(),
            pace: Pace::default(),
        }
    }
}

/// The socket of init containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSocket {
    /// Where it is.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Its user and group; those of this process where they are not given.
    pub owner: Option<(u32, u32)>,
}
