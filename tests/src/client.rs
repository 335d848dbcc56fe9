//! Clients under a test's control.

use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::actor::{PATIENCE, Place};
use crate::answer::{Answer, Connection, Echo, SocketOption, Tally, Transferred};
use crate::process::{Process, unique_name};
use crate::request::{Dial, Family, Many, Request, STEP, Udp, milliseconds, parse};

/// How long a load may take.
const LOAD: Duration = Duration::from_mins(10);

/// A process that makes connections. Killed on drop.
#[derive(Debug)]
pub struct Client {
    process: Process,
}

impl Client {
    /// Starts one and waits until it is in its place.
    #[must_use]
    #[track_caller]
    pub fn start(name: &str, place: &Place<'_>) -> Self {
        let mut command = place.command();
        command.arg("client");
        Self::of(name, command)
    }

    /// The same behind another program with its flags, which becomes the client, such as `unshare`.
    #[must_use]
    #[track_caller]
    pub fn start_behind(name: &str, place: &Place<'_>, program: &[&str]) -> Self {
        let mut command = place.command();
        let (program, flags) = program.split_first().expect("a program");
        command.args(["exec", program, "--"]).args(flags);
        let client = command.get_program().to_owned();
        command.arg(client).arg("client");
        Self::of(name, command)
    }

    #[track_caller]
    fn of(name: &str, command: Command) -> Self {
        let mut client = Self {
            process: Process::start(name, command),
        };
        match client.answer(PATIENCE) {
            Answer::Ready => client,
            other => panic!("{name} does not start: {other:?}"),
        }
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

    /// Makes a connection: `"address:port"`, a `SocketAddr`, or a [`Dial`] with all its switches.
    #[track_caller]
    pub fn connect(&mut self, dial: impl Into<Dial>) -> Connection {
        self.connection(&Request::Connect(dial.into()))
    }

    /// Connects a socket that exists.
    #[track_caller]
    pub fn reconnect(&mut self, id: u64, to: &str) -> Connection {
        let (to, timeout_ms) = (parse(to), milliseconds(STEP));
        self.connection(&Request::Reconnect { id, to, timeout_ms })
    }

    /// Dissolves a connection with `connect()` to `AF_UNSPEC`.
    #[track_caller]
    pub fn disconnect(&mut self, id: u64) -> Connection {
        self.connection(&Request::Disconnect { id })
    }

    /// The names of a socket, asked again.
    #[track_caller]
    pub fn names(&mut self, id: u64) -> Connection {
        self.connection(&Request::Names { id })
    }

    /// Sends text and reads its echo.
    #[track_caller]
    pub fn send(&mut self, id: u64, text: &str) -> Echo {
        let text = text.to_owned();
        self.echo(&Request::Send { id, text })
    }

    /// Sends so many bytes while reading them back.
    #[track_caller]
    pub fn transfer(&mut self, id: u64, bytes: u64) -> Transferred {
        match self.ask(&Request::Transfer { id, bytes }, LOAD) {
            Answer::Transferred(transferred) => transferred,
            other => panic!("odd answer: {other:?}"),
        }
    }

    /// Closes the sending half and reads to the end.
    #[track_caller]
    pub fn finish(&mut self, id: u64) -> Echo {
        self.echo(&Request::Finish { id })
    }

    /// Closes a socket.
    #[track_caller]
    pub fn close(&mut self, id: u64) {
        self.done(&Request::Close { id, reset: false });
    }

    /// Closes a socket with RST.
    #[track_caller]
    pub fn reset(&mut self, id: u64) {
        self.done(&Request::Close { id, reset: true });
    }

    /// `getsockopt()` with a buffer of `len` bytes.
    #[track_caller]
    pub fn getsockopt(&mut self, id: u64, level: i32, name: i32, len: u32) -> SocketOption {
        let request = Request::Getsockopt {
            id,
            level,
            name,
            len,
        };
        match self.ask(&request, PATIENCE) {
            Answer::Option(option) => option,
            other => panic!("odd answer: {other:?}"),
        }
    }

    /// Makes many connections.
    #[track_caller]
    pub fn many(&mut self, many: Many) -> Tally {
        match self.ask(&Request::Many(many), LOAD) {
            Answer::Tally(tally) => tally,
            other => panic!("odd answer: {other:?}"),
        }
    }

    /// Makes many connections as several users at once; the client has to be root.
    #[track_caller]
    pub fn as_users(&mut self, orders: Vec<(u32, Many)>) -> Vec<Tally> {
        match self.ask(&Request::AsUsers { orders }, LOAD) {
            Answer::Tallies { tallies } => tallies,
            other => panic!("odd answer: {other:?}"),
        }
    }

    /// Closes the connections that [`Many::hold`] kept.
    #[track_caller]
    pub fn release(&mut self) {
        self.done(&Request::Release);
    }

    /// Listens; the connection's ID is that of the listener.
    #[track_caller]
    pub fn listen(&mut self, address: &str) -> Connection {
        let address = parse(address);
        let reuseport = false;
        self.connection(&Request::Listen { address, reuseport })
    }

    /// Binds a socket and does not listen yet.
    #[track_caller]
    pub fn bind(&mut self, address: &str) -> Connection {
        let (address, owner) = (parse(address), None);
        self.connection(&Request::Bind { address, owner })
    }

    /// Gives a socket to somebody, and shares a port with others of theirs; does not listen yet.
    #[track_caller]
    pub fn bind_as(&mut self, owner: u32, address: &str) -> Connection {
        let (address, owner) = (parse(address), Some(owner));
        self.connection(&Request::Bind { address, owner })
    }

    /// Listens on such a socket.
    #[track_caller]
    pub fn listen_on(&mut self, id: u64) -> Connection {
        self.connection(&Request::ListenOn { id })
    }

    /// Accepts a connection on a listener.
    #[track_caller]
    pub fn accept(&mut self, id: u64) -> Connection {
        self.connection(&Request::Accept { id })
    }

    /// Sends a datagram and waits for its echo.
    #[track_caller]
    pub fn udp(&mut self, to: &str, text: &str) -> Echo {
        self.echo(&Request::Udp(Udp {
            to: parse(to),
            from: None,
            text: text.to_owned(),
            connected: false,
            timeout_ms: milliseconds(STEP),
        }))
    }

    /// Has `giver` make an unconnected socket and takes it; [`Client::reconnect`] connects it.
    #[track_caller]
    pub fn take_socket(&mut self, giver: &mut Self, family: Family) -> Connection {
        // In /tmp itself, where any user may make and find it.
        let path = std::env::temp_dir().join(unique_name());
        self.tell(&Request::TakeSocket { path: path.clone() });
        giver.done(&Request::GiveSocket {
            path: path.clone(),
            family,
        });
        let answer = self.answer(PATIENCE);
        let _ = std::fs::remove_file(path);
        match answer {
            Answer::Connection(connection) => connection,
            other => panic!("odd answer: {other:?}"),
        }
    }

    /// Sends a request and waits for its answer; panics when the request itself fails.
    #[track_caller]
    pub fn ask(&mut self, request: &Request, limit: Duration) -> Answer {
        self.tell(request);
        match self.answer(limit) {
            Answer::Failed { error } => {
                panic!("{} fails at {request:?}: {error}", self.process.name())
            }
            answer => answer,
        }
    }

    #[track_caller]
    fn connection(&mut self, request: &Request) -> Connection {
        match self.ask(request, 3 * PATIENCE) {
            Answer::Connection(connection) => connection,
            other => panic!("odd answer: {other:?}"),
        }
    }

    #[track_caller]
    fn echo(&mut self, request: &Request) -> Echo {
        match self.ask(request, PATIENCE) {
            Answer::Echo(echo) => echo,
            other => panic!("odd answer: {other:?}"),
        }
    }

    #[track_caller]
    fn done(&mut self, request: &Request) {
        match self.ask(request, PATIENCE) {
            Answer::Done => {}
            other => panic!("odd answer: {other:?}"),
        }
    }

    #[track_caller]
    fn tell(&mut self, request: &impl Serialize) {
        let line = serde_json::to_string(request).expect("requests are plain data");
        self.process.write(&line);
    }

    #[track_caller]
    fn answer(&mut self, limit: Duration) -> Answer {
        let Some(line) = self.process.line(limit) else {
            let stderr = self.process.stderr();
            panic!("{} does not answer: {stderr}", self.process.name());
        };
        match serde_json::from_str(&line) {
            Ok(answer) => answer,
            Err(error) => panic!("{} says {line:?}: {error}", self.process.name()),
        }
    }
}
