//! What the loop shows of itself.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The node's pods as the last pass found them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether every source has spoken.
    pub is_synced: bool,
    /// What is wrong with the mesh's configuration; the last good one is in force then.
    pub mesh_problem: Option<String>,
    /// Why pods could not be looked at; what is said of them may be out of date then.
    #[serde(default)]
    pub survey_problem: Option<String>,
    /// The pods, those with problems first.
    pub pods: Vec<PodStatus>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Means {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ebpf, Self::Iptables];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Ebpf => Self::Iptables,
            Self::Iptables => Self::Ebpf,
        }
    }

    /// The name in configuration, labels and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
        }
    }
}

impl fmt::Display for Means {
    /// As people write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ebpf => "eBPF",
            Self::Iptables => "iptables",
        })
    }
}

impl Status {
    /// Whether every pod that is wanted, and has started, was verified in the kernel.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_synced
            && self.survey_problem.is_none()
            && !self
                .pods
                .iter()
                .any(|pod| matches!(pod.state, State::Failed(_)))
    }

    /// How many pods there are of each state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for pod in &self.pods {
            *match pod.state {
                State::Intercepted(_) => &mut counts.intercepted,
                State::Waiting(_) => &mut counts.waiting,
                State::Failed(_) => &mut counts.failed,
                State::Refused(_) => &mut counts.refused,
            } += 1;
        }
        counts
    }
}

/// Numbers of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that are intercepted.
    pub intercepted: usize,
    /// Those that have not started.
    pub waiting: usize,
    /// Those that are not intercepted as they have to be.
    pub failed: usize,
    /// Those that must not be intercepted.
    pub refused: usize,
}

impl Counts {
    /// Each with the name of its state.
    #[must_use]
    pub const fn by_state(&self) -> [(&'static str, usize); 4] {
        [
            ("intercepted", self.intercepted),
            ("waiting", self.waiting),
            ("failed", self.failed),
            ("refused", self.refused),
        ]
    }
}

impl fmt::Display for Counts {
    /// On one line, those that there are always and the others where there are some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} intercepted", self.intercepted)?;
        for (state, count) in &self.by_state()[1..] {
            if *count > 0 {
                write!(f, ", {count} {state}")?;
            }
        }
        Ok(())
    }
}

impl State {
    /// In one word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Intercepted(_) => "intercepted",
            Self::Waiting(_) => "waiting",
            Self::Failed(_) => "failed",
            Self::Refused(_) => "refused",
        }
    }
}
