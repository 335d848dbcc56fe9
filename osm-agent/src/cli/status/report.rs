//! What is known of this node's pods: what is pinned and what the agent says, joined. Pure.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use osm_ebpf_common::reason::{Kind, Reason};
use serde::Serialize;

use super::{
    agent::Answer,
    join::{Join, Pinned},
};
use crate::{
    cli::out::plain,
    daemon::status::Status,
    ebpf::view::{PodView, PolicyView},
};

/// The version of the names in JSON and YAML; `--help` says what they mean.
const SCHEMA: u32 = 1;

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    version: u32,
    pub agent: AgentReport,
    pub state_dir: PathBuf,
    /// What is wrong with all of it.
    pub problems: Vec<Problem>,
    /// Those with problems first.
    pub pods: Vec<PodReport>,
}

/// The node agent.
#[derive(Debug, Serialize)]
pub struct AgentReport {
    pub url: String,
    pub is_running: bool,
    /// Why it is not, where it is not.
    pub detail: Option<String>,
    /// Whether its sources have all spoken.
    is_synced: Option<bool>,
    mesh_problem: Option<String>,
}

/// Something that is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub what: String,
    pub todo: String,
}

/// A pod.
#[derive(Debug, Serialize)]
pub struct PodReport {
    pub name: String,
    pub mode: Mode,
    /// What the agent says of it: `intercepted`, `waiting`, `failed` or `refused`.
    pub state: Option<&'static str>,
    pub detail: Option<String>,
    pub problems: Vec<Problem>,
    /// What is right and not as it should be: it is intercepted all the same.
    pub warnings: Vec<Problem>,
    /// Why the last good lists are in force and not those that are written.
    pub lists_problem: Option<String>,
    #[serde(flatten)]
    pub kernel: Kernel,
}

/// What is pinned of a pod; nothing of it for pods that are not intercepted by eBPF.
#[derive(Debug, Default, Serialize)]
pub struct Kernel {
    pub policy: Option<PolicyView>,
    pub listeners: Option<Listens>,
    pub connections: Option<Connections>,
    pub counters: BTreeMap<&'static str, u64>,
    pub handshakes: Option<u64>,
    pub programs: Option<Programs>,
    pub sidecar_uid: Option<u32>,
    pub sidecar_cgroup: Option<u64>,
    pub addresses: Vec<IpAddr>,
    pub netns_cookie: Option<u64>,
    pub cgroup: Option<u64>,
    pub cgroup_path: Option<PathBuf>,
}

/// By which means a pod is intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Its links are pinned.
    Ebpf,
    /// The agent says so.
    Iptables,
    /// Not at all.
    None,
    /// It can't be told from here.
    Unknown,
}

/// For which directions the programs know a listener of the sidecar's.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Listens {
    pub outbound: bool,
    pub inbound: bool,
}

/// What became of connections since the pod is intercepted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Connections {
    pub redirected: u64,
    pub passed: u64,
    pub refused: u64,
}

/// Which version's programs run for a pod.
#[derive(Debug, Serialize)]
pub struct Programs {
    pub version: String,
    pub is_this_version: bool,
}

impl Report {
    /// Joins what is pinned in a directory, or why that can't be read, with the agent's answer.
    pub fn new(
        url: &str,
        answer: Answer,
        state_dir: PathBuf,
        pinned: Result<Pinned, String>,
    ) -> Self {
        let mut problems = Vec::new();
        let (agent, status) = of_agent(url, answer, &mut problems);
        let is_readable = pinned.is_ok();
        let pinned = pinned.unwrap_or_else(|why| {
            problems.push(Problem::new(why, "run this as root, on the node itself"));
            Pinned::default()
        });
        let is_synced = agent.is_synced;
        let join = Join {
            is_readable,
            is_running: agent.is_running,
            knows_all: is_synced == Some(true),
            state_dir: &state_dir,
        };
        let mut pods = join.pods(pinned, status.map(|it| it.pods).unwrap_or_default());
        pods.sort_by(|a, b| (a.urgency(), &a.name).cmp(&(b.urgency(), &b.name)));
        Self {
            version: SCHEMA,
            agent,
            state_dir,
            problems,
            pods,
        }
    }

    /// How many problems there are.
    pub fn count_problems(&self) -> usize {
        let of_pods = self.pods.iter().map(|pod| pod.problems.len());
        self.problems.len() + of_pods.sum::<usize>()
    }
}

impl Problem {
    /// In one line each.
    pub fn new(what: impl AsRef<str>, todo: impl Into<String>) -> Self {
        Self {
            what: plain(what.as_ref()),
            todo: todo.into(),
        }
    }
}

impl PodReport {
    /// In one word, what a table shows of it.
    pub fn word(&self) -> &'static str {
        if self.problems.is_empty() {
            match self.state {
                Some("intercepted") | None => "ok",
                Some(other) => other,
            }
        } else {
            "PROBLEM"
        }
    }

    /// What is wrong comes first.
    fn urgency(&self) -> u8 {
        match self.state {
            Some("failed") => 0,
            _ if !self.problems.is_empty() => 1,
            Some("refused") => 2,
            Some("waiting") => 3,
            _ => 4,
        }
    }
}

impl Mode {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

fn of_agent(
    url: &str,
    answer: Answer,
    problems: &mut Vec<Problem>,
) -> (AgentReport, Option<Status>) {
    let mut agent = AgentReport {
        url: format!("http://{url}"),
        is_running: false,
        detail: None,
        is_synced: None,
        mesh_problem: None,
    };
    let status = match answer {
        Answer::Absent(error) => {
            agent.detail = Some(error.to_string());
            return (agent, None);
        }
        Answer::Odd(why) => {
            problems.push(Problem::new(
                format!("what listens at http://{url} is no node agent, or hangs: {why}"),
                "give the address of the agent's --listen with --agent-url",
            ));
            agent.detail = Some(plain(&why));
            return (agent, None);
        }
        Answer::Status(status) => status,
    };
    agent.is_running = true;
    agent.is_synced = Some(status.is_synced);
    agent.mesh_problem.clone_from(&status.mesh_problem);
    if !status.is_synced {
        problems.push(Problem::new(
            "the sources of pods and configuration have not all spoken yet",
            "where that stays so, see the agent's log",
        ));
    }
    if let Some(problem) = &status.mesh_problem {
        problems.push(Problem::new(
            format!(
                "the mesh's configuration is refused, the last good one is in force: {problem}"
            ),
            "correct the MeshConfig; the agent takes it at once",
        ));
    }
    if let Some(problem) = &status.survey_problem {
        problems.push(Problem::new(
            format!("the agent can't look at pods, and changes nothing: {problem}"),
            "put right what it says; the agent tries again by itself",
        ));
    }
    (agent, Some(status))
}

impl From<PodView> for Kernel {
    fn from(view: PodView) -> Self {
        Self {
            listeners: Some(Listens {
                outbound: view.listeners.outbound > 0,
                inbound: view.listeners.inbound > 0,
            }),
            connections: Some(Connections::of(&view.counters)),
            counters: view
                .counters
                .iter()
                .map(|(reason, count)| (reason.name(), *count))
                .collect(),
            handshakes: Some(view.handshakes),
            programs: Some(Programs {
                version: view.version,
                is_this_version: view.is_this_version,
            }),
            sidecar_uid: view.sidecar_uid,
            sidecar_cgroup: view.sidecar_cgroup,
            addresses: view.addresses,
            netns_cookie: Some(view.netns_cookie),
            cgroup: Some(view.cgroup),
            cgroup_path: view.cgroup_path,
            policy: view.policy,
        }
    }
}

impl Connections {
    fn of(counters: &[(Reason, u64)]) -> Self {
        let mut sums = Self::default();
        for (reason, count) in counters {
            *match reason.kind() {
                Kind::Redirect => &mut sums.redirected,
                Kind::Pass => &mut sums.passed,
                Kind::Refuse => &mut sums.refused,
            } += count;
        }
        sums
    }
}
