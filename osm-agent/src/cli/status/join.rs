//! What is pinned of a pod, and what the agent says of it, as one.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::Path,
};

use osm_ebpf_common::{INBOUND_PORT, OUTBOUND_PORT};

use super::{
    report::{Kernel, Mode, PodReport, Problem},
    users::Users,
    warnings::warnings,
};
use crate::{
    cli::out::plain,
    daemon::status::{Means, PodStatus, State},
    ebpf::view::PodView,
};

/// What is pinned.
#[derive(Debug, Default)]
pub struct Pinned {
    /// The pods that have a record.
    pub pods: Vec<PodView>,
    /// The cookies of those that have links only.
    pub unrecorded: Vec<u64>,
    /// By cookie, who runs as the sidecar's user.
    pub users: BTreeMap<u64, Users>,
}

/// By what pods are joined.
pub struct Join<'a> {
    /// Whether what is pinned could be read.
    pub is_readable: bool,
    /// Whether the agent runs.
    pub is_running: bool,
    /// Whether it has heard of all pods: only then it is known whom it does not know.
    pub knows_all: bool,
    /// Where pods are pinned.
    pub state_dir: &'a Path,
}

impl Join<'_> {
    pub fn pods(&self, pinned: Pinned, said: Vec<PodStatus>) -> Vec<PodReport> {
        let mut said_of: BTreeMap<String, PodStatus> = BTreeMap::new();
        let mut twice = Vec::new();
        for status in said {
            // Two pod files may be about one pod: both are shown.
            match said_of.entry(status.name.clone()) {
                Entry::Vacant(free) => drop(free.insert(status)),
                Entry::Occupied(_) => twice.push(status),
            }
        }
        let mut known = BTreeSet::new();
        let mut pods = Vec::new();
        for view in pinned.pods {
            known.insert(view.name.clone());
            let status = said_of.remove(&view.name);
            pods.push(self.pod(Some(view), status, &pinned.users));
        }
        pods.extend(pinned.unrecorded.into_iter().map(unrecorded));
        let rest = said_of.into_values().chain(twice);
        pods.extend(rest.map(|status| self.pod(None, Some(status), &pinned.users)));
        pods
    }

    fn pod(
        &self,
        view: Option<PodView>,
        status: Option<PodStatus>,
        users: &BTreeMap<u64, Users>,
    ) -> PodReport {
        let mut problems = Vec::new();
        if let Some(status) = &status {
            self.said(status, view.is_some(), &mut problems);
        }
        if let Some(view) = &view {
            self.seen(view, status.is_some(), &mut problems);
        }
        let users = view.as_ref().and_then(|view| users.get(&view.netns_cookie));
        let warnings = match (&view, users) {
            (Some(view), Some(users)) => warnings(view, users),
            _ => Vec::new(),
        };
        let name = match (&view, &status) {
            (Some(view), _) if view.name.is_empty() => format!("netns-{}", view.netns_cookie),
            (Some(view), _) => view.name.clone(),
            (None, Some(status)) => status.name.clone(),
            (None, None) => String::new(),
        };
        PodReport {
            name: plain(&name),
            mode: self.mode(view.is_some(), status.as_ref()),
            state: status.as_ref().map(|it| it.state.name()),
            detail: status.as_ref().and_then(detail),
            lists_problem: status.and_then(|it| it.lists_problem).map(|it| plain(&it)),
            problems,
            warnings,
            kernel: view.map(Kernel::from).unwrap_or_default(),
        }
    }

    const fn mode(&self, is_pinned: bool, status: Option<&PodStatus>) -> Mode {
        let Some(status) = status else {
            return if is_pinned { Mode::Ebpf } else { Mode::Unknown };
        };
        match &status.state {
            _ if is_pinned => Mode::Ebpf,
            State::Intercepted(Means::Iptables) => Mode::Iptables,
            // It was seen there, by somebody who could read.
            State::Intercepted(Means::Ebpf) if !self.is_readable => Mode::Ebpf,
            State::Intercepted(Means::Ebpf) | State::Failed(_) => Mode::Unknown,
            State::Waiting(_) | State::Refused(_) => Mode::None,
        }
    }

    /// What the agent finds wrong, and what is wrong with what it says.
    fn said(&self, status: &PodStatus, is_pinned: bool, problems: &mut Vec<Problem>) {
        match &status.state {
            State::Failed(why) => problems.push(Problem::new(
                why,
                "put that right; the agent tries again at its next --resync, and logs what comes \
                 of it",
            )),
            State::Intercepted(Means::Ebpf) if !is_pinned && self.is_readable => {
                let what = format!(
                    "the agent says that it is intercepted by eBPF, and nothing of it is pinned in \
                     {}",
                    self.state_dir.display()
                );
                let todo = "give the agent's --state-dir; where it is this one, wait for its next \
                            --resync";
                problems.push(Problem::new(what, todo));
            }
            State::Intercepted(Means::Iptables) if is_pinned => problems.push(Problem::new(
                "the agent says that it is intercepted by iptables, and eBPF is still in force",
                "where that stays so, see the agent's log",
            )),
            _ => {}
        }
        if let Some(problem) = &status.lists_problem {
            let stands = match &status.state {
                State::Intercepted(_) => "its lists were refused, the last good ones are in force",
                _ => "its lists are refused, and it is not intercepted",
            };
            problems.push(Problem::new(
                format!("{stands}: {problem}"),
                "correct the pod's annotation; the agent takes it at once",
            ));
        }
    }

    /// What is wrong with what is pinned.
    fn seen(&self, view: &PodView, is_known: bool, problems: &mut Vec<Problem>) {
        let mend = if self.is_running {
            "the agent mends it at its next --resync; where it comes back, find who does it".into()
        } else {
            format!(
                "start the node agent, or mend it by `osm-agent attach --pod {}` with the pod's \
                 --netns and --cgroup and what says its lists (--config, --annotation)",
                view.name
            )
        };
        for problem in &view.problems {
            problems.push(Problem::new(problem, mend.clone()));
        }
        if self.knows_all && !is_known {
            problems.push(Problem::new(
                "it is intercepted, and the node agent does not know it",
                format!(
                    "where nobody attached it by hand, let go of it by `osm-agent detach --pod {}`",
                    view.name
                ),
            ));
        }
        // Else it can't be told.
        if let Some(uid) = view.sidecar_uid {
            deaf(view, uid, problems);
        }
    }
}

/// Directions for which the sidecar does not listen.
fn deaf(view: &PodView, uid: u32, problems: &mut Vec<Problem>) {
    let listeners = &view.listeners;
    for (is_there, direction, port) in [
        (listeners.outbound > 0, "outbound", OUTBOUND_PORT),
        (listeners.inbound > 0, "inbound", INBOUND_PORT),
    ] {
        if !is_there {
            problems.push(Problem::new(
                format!(
                    "the sidecar does not listen on {port}: {direction} connections are refused"
                ),
                format!(
                    "see whether the sidecar runs as user {uid} and what it logs; then \
                     `osm-agent check --pod {}`",
                    view.name
                ),
            ));
        }
    }
}

/// A pod of which no more than its links is left.
fn unrecorded(cookie: u64) -> PodReport {
    PodReport {
        name: format!("netns-{cookie}"),
        mode: Mode::Ebpf,
        state: None,
        detail: None,
        problems: vec![Problem::new(
            "its links are pinned, and its record in the map POD_RECORDS is missing: it stays intercepted, and nothing of it can be read",
            "remove all of it by `osm-agent cleanup` and start the node agent: it intercepts the pods anew",
        )],
        warnings: Vec::new(),
        lists_problem: None,
        kernel: Kernel {
            netns_cookie: Some(cookie),
            ..Kernel::default()
        },
    }
}

fn detail(status: &PodStatus) -> Option<String> {
    match &status.state {
        State::Intercepted(_) => None,
        State::Waiting(why) | State::Failed(why) | State::Refused(why) => Some(plain(why)),
    }
}
