//! Those who wait for an answer: init containers and the CNI plugin.

use std::{
    collections::BTreeMap,
    os::fd::AsRawFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{Control, datapath::number_of, plan::Cookie};
use crate::{
    daemon::{
        locate::uid_of_cgroup,
        metrics::{Answered, Asked},
        request::{CniAction, CniCommand, Peer, Request},
        source::{Membership, PodKey, PodSpec},
        status::{Means, PodStatus, State},
    },
    pod::Netns,
    protocol::{self, Mode, cni},
};

/// How long a source may take to show a pod that asks, and the pod to be found.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a pod may take from its network to its first process.
const STARTING: Duration = Duration::from_mins(2);

/// The requests without an answer, and what came with them.
#[derive(Default)]
pub(super) struct Requests {
    waiting: Vec<Waiting>,
    /// Network namespaces that the container runtime told of, by pod, and when: a pod that
    /// starts has no process yet.
    hints: BTreeMap<PodKey, (Instant, Netns)>,
}

struct Waiting {
    since: Instant,
    request: Request,
    /// The namespace that is asked about, or what is wrong with it.
    namespace: Result<Cookie, String>,
}

/// What is known of a pod that somebody asks about.
enum Known {
    /// No source has spoken of it.
    No,
    /// It is not to be intercepted.
    Outside,
    /// It must not be.
    Refused(String),
    /// This is what became of it.
    As(Box<PodStatus>),
    /// It was not looked at yet.
    NotYet,
}

impl Requests {
    /// Whether somebody waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Control {
    /// Takes a request in: it is answered after a pass.
    pub(super) fn take_request(&mut self, mut request: Request) {
        let namespace = match &request {
            Request::Enrol { peer, .. } => Ok(&peer.netns),
            Request::Cni { command, .. } => command.netns.as_ref().map_err(Clone::clone),
        };
        let namespace =
            namespace.and_then(|netns| number_of(netns).map_err(|error| error.to_string()));
        match &mut request {
            Request::Enrol { peer, .. } => {
                if !self.options.has_source && self.key_of_peer(peer).is_none() {
                    self.admit(peer);
                }
                if let Some(key) = self.key_of_peer(peer) {
                    self.knowledge.touch(&key);
                }
            }
            Request::Cni { command, .. } => {
                if let Some(key) = self.key_of(command) {
                    self.knowledge.touch(&key);
                    match command.action {
                        CniAction::Add => {
                            let taken = Err("the loop has taken it".into());
                            if let Ok(netns) = std::mem::replace(&mut command.netns, taken) {
                                let hint = (Instant::now(), netns);
                                self.requests.hints.insert(key, hint);
                            }
                        }
                        CniAction::Del => {
                            self.requests.hints.remove(&key);
                        }
                        CniAction::Check => {}
                    }
                }
            }
        }
        self.requests.waiting.push(Waiting {
            since: Instant::now(),
            request,
            namespace,
        });
    }

    /// Has the pods looked at that somebody waits for.
    pub(super) fn touch_awaited(&mut self) {
        let waiting = self.requests.waiting.iter();
        let keys: Vec<PodKey> = waiting
            .filter_map(|waiting| match &waiting.request {
                Request::Enrol { peer, .. } => self.key_of_peer(peer),
                Request::Cni { command, .. } => self.key_of(command),
            })
            .collect();
        for key in keys {
            self.knowledge.touch(&key);
        }
    }

    /// Answers those whose answer is known, and those who have waited long enough.
    pub(super) fn answer_requests(&mut self) {
        for waiting in std::mem::take(&mut self.requests.waiting) {
            let Waiting {
                since,
                request,
                namespace,
            } = waiting;
            let is_late = since.elapsed() >= PATIENCE;
            let unanswered = match request {
                Request::Enrol { peer, answer } => {
                    match self.answer_to_peer(&peer, &namespace, is_late) {
                        Some(text) => {
                            self.count(Asked::Init, matches!(text, protocol::Answer::Mode(_)));
                            let _ = answer.send(text);
                            None
                        }
                        // Who has gone meanwhile needs none.
                        None if answer.is_closed() => None,
                        None => Some(Request::Enrol { peer, answer }),
                    }
                }
                Request::Cni { command, answer } => {
                    match self.answer_to_cni(&command, &namespace, is_late) {
                        Some(text) => {
                            use cni::Answer::{Intercepted, Outside};
                            let is_done = matches!(text, Intercepted(_) | Outside(_));
                            self.count(Asked::Cni, is_done);
                            let _ = answer.send(text);
                            None
                        }
                        None if answer.is_closed() => None,
                        None => Some(Request::Cni { command, answer }),
                    }
                }
            };
            if let Some(request) = unanswered {
                self.requests.waiting.push(Waiting {
                    since,
                    request,
                    namespace,
                });
            }
        }
    }

    /// A path of the pod's network namespace, as the container runtime told of it. The runtime's
    /// own path need not exist for this process.
    pub(super) fn hint(&self, key: &str) -> Option<PathBuf> {
        let (_, netns) = self.requests.hints.get(key)?;
        Some(format!("/proc/self/fd/{}", netns.file().as_raw_fd()).into())
    }

    /// Drops what is known of pods that are gone, or have had time for a process: an open
    /// namespace does not go away.
    pub(super) fn forget_hints(&mut self) {
        let knowledge = &self.knowledge;
        self.requests
            .hints
            .retain(|key, (since, _)| since.elapsed() < STARTING && knowledge.pod(key).is_some());
    }

    fn count(&self, asked: Asked, is_done: bool) {
        let answered = if is_done {
            Answered::Done
        } else {
            Answered::Refused
        };
        self.outlets.metrics.request(asked, answered);
    }

    fn answer_to_peer(
        &self,
        peer: &Peer,
        namespace: &Result<Cookie, String>,
        is_late: bool,
    ) -> Option<protocol::Answer> {
        let refused = |why: String| Some(protocol::Answer::Refused(why));
        let key = self.key_of_peer(peer);
        if let Some(key) = &key
            && let Some(pod) = self.settled.get(key).and_then(|entry| entry.pod)
            && *namespace != Ok(pod)
        {
            return refused("it asks from another network namespace than its pod's".into());
        }
        match self.known(key.as_ref()) {
            Known::No if is_late => refused(
                "no source of this node's agent knows this pod, and none has told it".into(),
            ),
            Known::No | Known::NotYet => is_late
                .then(|| protocol::Answer::Refused("the agent did not get to it in time".into())),
            Known::Outside => refused("this pod is not in the mesh".into()),
            Known::Refused(why) => refused(why),
            Known::As(pod) => match (pod.lists_problem, pod.state) {
                (Some(problem), _) => refused(problem),
                (None, State::Intercepted(Means::Ebpf)) => Some(protocol::Answer::Mode(Mode::Ebpf)),
                (None, State::Intercepted(Means::Iptables)) => refused(
                    self.datapath
                        .why_no_ebpf()
                        .unwrap_or("interceptionMode is iptables")
                        .to_owned(),
                ),
                (None, State::Failed(why) | State::Refused(why)) => refused(why),
                (None, State::Waiting(why)) => is_late.then_some(protocol::Answer::Refused(why)),
            },
        }
    }

    fn answer_to_cni(
        &self,
        command: &CniCommand,
        namespace: &Result<Cookie, String>,
        is_late: bool,
    ) -> Option<cni::Answer> {
        if command.action == CniAction::Del {
            // The namespace goes, and with it the interception: to let go of it before would
            // leave the pod's last moments to go around the sidecar.
            return Some(cni::Answer::Outside("it ends".into()));
        }
        let Some(pod) = &command.pod else {
            return Some(cni::Answer::Outside("it is no pod of Kubernetes".into()));
        };
        let key = self.key_of(command);
        match self.known(key.as_ref()) {
            Known::No | Known::NotYet => is_late.then(|| {
                let (of, name) = (&pod.namespace, &pod.name);
                let why = format!("no source of this node's agent knows {of}/{name} yet");
                cni::Answer::Retry(why)
            }),
            Known::Outside => Some(cni::Answer::Outside("it is not in the mesh".into())),
            Known::Refused(why) => Some(cni::Answer::Refused(why)),
            Known::As(pod) => match (pod.lists_problem, pod.state) {
                (Some(problem), _) => Some(cni::Answer::Refused(problem)),
                (None, State::Intercepted(means)) => match namespace {
                    Err(why) => Some(cni::Answer::Refused(why.clone())),
                    Ok(asked) if self.number_of_pod(key.as_ref()) == Some(*asked) => {
                        Some(cni::Answer::Intercepted(means))
                    }
                    Ok(_) => is_late.then(|| {
                        let why = "the pod is intercepted in another network namespace, in which \
                                   it has processes still";
                        cni::Answer::Retry(why.into())
                    }),
                },
                (None, State::Refused(why)) => Some(cni::Answer::Refused(why)),
                (None, State::Failed(why) | State::Waiting(why)) => {
                    is_late.then_some(cni::Answer::Retry(why))
                }
            },
        }
    }

    fn number_of_pod(&self, key: Option<&PodKey>) -> Option<Cookie> {
        self.settled.get(key?)?.pod
    }

    fn known(&self, key: Option<&PodKey>) -> Known {
        let Some((key, spec)) = key.and_then(|key| Some((key, self.knowledge.pod(key)?))) else {
            return Known::No;
        };
        match &spec.membership {
            Membership::Outside => Known::Outside,
            Membership::Refused(why) | Membership::Unreadable(why) => Known::Refused(why.clone()),
            Membership::InMesh if self.knowledge.is_switched_off() => Known::Outside,
            Membership::InMesh => match self.settled.get(key) {
                Some(entry) => Known::As(Box::new(entry.status.clone())),
                None => Known::NotYet,
            },
        }
    }

    fn key_of(&self, command: &CniCommand) -> Option<PodKey> {
        let pod = command.pod.as_ref()?;
        let name = format!("{}/{}", pod.namespace, pod.name);
        let is_it = |spec: &PodSpec| match (&pod.uid, &spec.uid) {
            (Some(one), Some(other)) => one == other,
            _ => spec.name == name,
        };
        let mut pods = self.knowledge.pods();
        pods.find(|(key, spec)| Some(*key) == pod.uid.as_ref() || is_it(spec))
            .map(|(key, _)| key.clone())
    }

    /// The pod that a process is in: by the cgroup that the kernel says it is in.
    fn key_of_peer(&self, peer: &Peer) -> Option<PodKey> {
        let uid = uid_of_cgroup(&peer.cgroup);
        let number = number_of(&peer.netns).ok();
        let is_it = |key: &PodKey, spec: &PodSpec| {
            let is_by_uid = uid.is_some() && spec.uid == uid;
            let is_found =
                number.is_some() && self.settled.get(key).and_then(|entry| entry.pod) == number;
            let is_below = spec
                .cgroup
                .as_ref()
                .is_some_and(|cgroup| self.options.locator.is_below(&peer.cgroup, cgroup));
            is_by_uid || is_found || is_below
        };
        let mut pods = self.knowledge.pods();
        pods.find(|(key, spec)| is_it(key, spec))
            .map(|(key, _)| key.clone())
    }

    /// Without a source, a pod speaks for itself: that it is to be intercepted, and no more.
    fn admit(&mut self, peer: &Peer) {
        let Some(uid) = uid_of_cgroup(&peer.cgroup) else {
            return;
        };
        let spec = PodSpec::in_mesh(format!("pod-{uid}"), Some(uid.clone()));
        self.knowledge.add_pod(uid, spec);
    }
}
