//! What the loop shows of itself.

use serde::{Deserialize, Serialize};

/// The node's pods as the last pass found them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether every source has spoken.
    pub is_synced: bool,
    /// What is wrong with the mesh's configuration; the last good one is in force then.
    pub mesh_problem: Option<String>,
    /// The pods, those with problems first.
    pub pods: Vec<PodStatus>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodStatus {
    /// What people call it.
    pub name: String,
    /// What became of it.
    #[serde(flatten)]
    pub state: State,
    /// What is wrong with its annotations; its last good lists are in force then, or the
    /// mesh's own where there were none.
    pub lists_problem: Option<String>,
}

/// What became of a pod that is wanted in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "detail")]
pub enum State {
    /// It is intercepted, by these means: it was seen in the kernel.
    Intercepted(Means),
    /// It has not started yet.
    Waiting(String),
    /// It is not intercepted as it has to be, and why.
    Failed(String),
    /// It must not be, and why.
    Refused(String),
}

/// By which means a pod is intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// eBPF.
    Ebpf,
    /// The fallback.
    Iptables,
}

impl Status {
    /// Whether every pod that is wanted, and has started, was verified in the kernel.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_synced
            && !self
                .pods
                .iter()
                .any(|pod| matches!(pod.state, State::Failed(_)))
    }
}
