//! The agent's sockets in this process, with a loop that does what the test says, and peers in
//! pods.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses a part of it"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use osm_agent::{
    daemon::{
        request::{Limits, Outcome, Place, Report, Request, Server, Socket},
        source::Event,
    },
    protocol,
};
use osm_tests::{Pod, TempDir, process::Process};

/// No test waits longer for what has to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What [`Requests`] answers where a test does not care.
pub const ANSWER: &str = r#"{"version":1,"refused":"the test's loop"}"#;

/// A server whose runtime ends with it.
pub struct Served {
    pub socket: PathBuf,
    pub outcomes: Receiver<Outcome>,
    _runtime: tokio::runtime::Runtime,
    directory: Option<TempDir>,
}

/// Which of the two sockets.
#[derive(Clone, Copy)]
pub enum Kind {
    Enrol,
    Cni,
}

impl Served {
    /// With a loop of the test's own: it gets every request.
    pub fn new(kind: Kind, limits: Limits, take: impl FnMut(Request) + Send + 'static) -> Self {
        let directory = TempDir::new();
        let socket = directory.path().join("agent.sock");
        let mut served = Self::at(&socket, kind, limits, take);
        served.directory = Some(directory);
        served
    }

    pub fn at(
        socket: &Path,
        kind: Kind,
        limits: Limits,
        take: impl FnMut(Request) + Send + 'static,
    ) -> Self {
        let place = match kind {
            Kind::Enrol => Place::for_pods(socket),
            Kind::Cni => Place::for_root(socket),
        };
        let listening = Socket::listen(&place).expect("a socket");
        Self::over(listening, kind, limits, take)
    }

    pub fn over(
        listening: Socket,
        kind: Kind,
        limits: Limits,
        mut take: impl FnMut(Request) + Send + 'static,
    ) -> Self {
        let socket = listening.path().to_owned();
        let (events, queue) = mpsc::channel();
        thread::spawn(move || {
            for event in queue {
                match event {
                    Event::Request(request) => take(request),
                    other => panic!("{other:?}"),
                }
            }
        });
        let (report, outcomes) = mpsc::channel();
        let report: Report = Arc::new(move |outcome| {
            let _ = report.send(outcome);
        });
        let server = match kind {
            Kind::Enrol => Server::enrol(listening, limits, events, report),
            Kind::Cni => Server::cni(listening, limits, events, report),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(async move {
            let ended = server.run(std::future::pending()).await;
            panic!("the server ended: {ended:?}");
        });
        Self {
            socket,
            outcomes,
            _runtime: runtime,
            directory: None,
        }
    }

    /// Refuses every pod in the test's name.
    pub fn refusing(limits: Limits) -> Self {
        Self::new(Kind::Enrol, limits, refuse)
    }

    /// What became of the next connection.
    #[track_caller]
    pub fn outcome(&self) -> Outcome {
        let outcome = self.outcomes.recv_timeout(PATIENCE);
        outcome.expect("an outcome")
    }

    /// What became of these many.
    #[track_caller]
    pub fn count(&self, total: usize, wanted: Outcome) -> usize {
        let all = (0..total).map(|_| self.outcome());
        all.filter(|outcome| *outcome == wanted).count()
    }

    /// A peer in a pod.
    pub fn peer(&self, pod: &Pod, steps: &[&str]) -> Process {
        peer(&self.socket, pod, steps)
    }

    /// A pod that behaves is served: within the limits of a hang, and no more is asserted.
    #[track_caller]
    pub fn expect_served(&self, pod: &Pod) {
        let start = Instant::now();
        let mut process = self.peer(pod, &["ask"]);
        assert_eq!(process.line(PATIENCE).as_deref(), Some(ANSWER));
        assert!(start.elapsed() < PATIENCE);
    }
}

pub fn refuse(request: Request) {
    match request {
        Request::Enrol { answer, .. } => {
            let _ = answer.send(protocol::Answer::Refused("the test's loop".into()));
        }
        Request::Cni { .. } => panic!("{request:?}"),
    }
}

/// Limits that a test that is about something else never meets.
pub fn generous() -> Limits {
    Limits {
        rate_of_pod: Limits::ENROL.rate,
        connections_of_pod: Limits::ENROL.connections,
        ..Limits::ENROL
    }
}

/// A `peer` in a pod's namespace and cgroup.
pub fn peer(socket: &Path, pod: &Pod, steps: &[&str]) -> Process {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", pod.netns.path().display()))
        .args(["sh", "-c", r#"echo 0 >"$0/cgroup.procs" && exec "$@""#])
        .arg(pod.app_cgroup().path())
        .arg(env!("CARGO_BIN_EXE_peer"))
        .arg(socket)
        .args(steps);
    Process::start("peer", command)
}

/// A `peer` where the test is.
pub fn peer_on_the_node(socket: &Path, steps: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peer"));
    command.arg(socket).args(steps);
    Process::start("peer", command)
}
