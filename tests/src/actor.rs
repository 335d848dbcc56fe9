//! Servers and sidecars.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::SLOWNESS;
use crate::canonical;
use crate::cgroup::Cgroup;
use crate::event::{Accepted, Event, Listener};
use crate::netns::Netns;
use crate::process::Process;

/// How long the harness waits for something that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(10).saturating_mul(SLOWNESS);

/// How long it waits before it says that something does not happen: every test that goes well waits as long.
const SILENCE: Duration = Duration::from_millis(if SLOWNESS == 1 { 150 } else { 500 });

/// Where a process is to live, and as whom.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its network namespace.
    pub netns: &'a Netns,
    /// Its cgroup; the test's own if none.
    pub cgroup: Option<&'a Cgroup>,
    /// Its user and group; root if none.
    pub uid: Option<u32>,
}

impl Place<'_> {
    /// The command for the `actor` binary in this place, without its part.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("--netns").arg(self.netns.path());
        if let Some(cgroup) = self.cgroup {
            command.arg("--cgroup").arg(cgroup.path());
        }
        if let Some(uid) = self.uid {
            command.arg("--uid").arg(uid.to_string());
        }
        command
    }
}

/// The `actor` binary: from `OSM_ACTOR`, or beside the test executable's directory.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("OSM_ACTOR") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of the test executable");
    let candidates = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("actor"));
    let found = candidates.into_iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no actor binary near {}; build osm-tests", test.display()))
}

/// Any program in a place, killed on drop.
#[must_use]
#[track_caller]
pub fn program(name: &str, place: &Place<'_>, command: &[&str]) -> Process {
    let mut actor = place.command();
    actor.arg("exec");
    if let Some(user) = place.uid {
        actor.arg("--output-of").arg(user.to_string());
    }
    let (program, arguments) = command.split_first().expect("a program");
    actor.arg(program).arg("--").args(arguments);
    Process::start(name, actor)
}

/// The command for a process that sends or reads on this socket until it is killed
/// (`actor victim`).
#[must_use]
pub fn victim(socket: &socket2::Socket) -> Command {
    use std::os::fd::AsFd as _;
    let socket = socket.as_fd().try_clone_to_owned();
    let mut command = Command::new(binary());
    command
        .arg("victim")
        .stdin(socket.expect("one more descriptor"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// A running server or sidecar. Killed on drop.
#[derive(Debug)]
pub struct Actor {
    process: Process,
    listen: Vec<SocketAddr>,
    unread: VecDeque<Event>,
}

impl Actor {
    /// Starts one and waits until its listeners are open. `args` are those of the `actor` binary,
    /// the part first: `["serve", "--role", "remote", "--listen", "198.51.100.10:80"]`.
    #[must_use]
    #[track_caller]
    pub fn start(name: &str, place: &Place<'_>, args: &[&str]) -> Self {
        let mut command = place.command();
        command.args(args);
        let mut actor = Self {
            process: Process::start(name, command),
            listen: Vec::new(),
            unread: VecDeque::new(),
        };
        match actor.next(PATIENCE) {
            Some(Event::Ready { listen }) => actor.listen = listen,
            other => panic!(
                "{name} does not start: {other:?} {}",
                actor.process.stderr()
            ),
        }
        actor
    }

    /// The process: its pid, signals to it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The addresses that it listens on, in the order of its flags.
    #[must_use]
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// The next connection that it accepted.
    #[track_caller]
    pub fn next_accepted(&mut self) -> Accepted {
        self.wait_for("a connection", |event| match event {
            Event::Accepted(accepted) => Some(accepted.clone()),
            _ => None,
        })
    }

    /// The next connection that it accepted on this kind of listener.
    #[track_caller]
    pub fn next_accepted_by(&mut self, listener: Listener) -> Accepted {
        let what = format!("a connection on the {listener} listener");
        self.wait_for(&what, |event| match event {
            Event::Accepted(it) if it.listener == listener => Some(it.clone()),
            _ => None,
        })
    }

    /// The connection that it accepted from this peer, seen from a socket of either family.
    #[track_caller]
    pub fn accepted_from(&mut self, peer: SocketAddr) -> Accepted {
        self.wait_for(&format!("a connection from {peer}"), |event| match event {
            Event::Accepted(it) if canonical(it.peer) == canonical(peer) => Some(it.clone()),
            _ => None,
        })
    }

    /// Waits for the first event that `select` makes something of; the others stay for later.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, select: impl Fn(&Event) -> Option<T>) -> T {
        let mut at = 0;
        let deadline = Instant::now() + PATIENCE;
        loop {
            while at == self.unread.len() {
                let limit = deadline.saturating_duration_since(Instant::now());
                match self.next(limit) {
                    Some(event) => self.unread.push_back(event),
                    None => panic!(
                        "{} does not report {what}; only {:?}",
                        self.process.name(),
                        self.unread
                    ),
                }
            }
            if let Some(selected) = select(&self.unread[at]) {
                self.unread.remove(at);
                return selected;
            }
            at += 1;
        }
    }

    /// All events that nobody has asked for, once no more come.
    pub fn drain(&mut self) -> Vec<Event> {
        while let Some(event) = self.next(SILENCE) {
            self.unread.push_back(event);
        }
        self.unread.drain(..).collect()
    }

    /// Panics if it accepted a connection that nobody has asked for.
    #[track_caller]
    pub fn expect_no_connection(&mut self) {
        let events = self.drain();
        let accepted: Vec<_> = events
            .iter()
            .filter(|event| matches!(event, Event::Accepted(_)))
            .collect();
        assert!(
            accepted.is_empty(),
            "{} got what it should not: {accepted:?}",
            self.process.name()
        );
    }

    /// Ends it now, and returns when all its sockets are closed.
    pub fn stop(self) {
        drop(self);
    }

    #[track_caller]
    fn next(&mut self, limit: Duration) -> Option<Event> {
        let line = self.process.line(limit)?;
        match serde_json::from_str(&line) {
            Ok(event) => Some(event),
            Err(error) => panic!("{} says {line:?}: {error}", self.process.name()),
        }
    }
}
