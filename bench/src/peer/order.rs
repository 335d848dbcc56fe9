//! What peers are told, and what they answer.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

/// An order: one line on a peer's stdin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// To a client.
    Dial(Dial),
    /// To a sidecar.
    Serve(Serve),
}

/// What a client has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dial {
    /// The core to do it on.
    pub cpu: usize,
    /// What to dial.
    pub to: SocketAddrV4,
    /// What to do with it.
    pub load: Load,
    /// How long to do it unmeasured, in milliseconds, so that caches and threads are warm.
    pub warm_up: u64,
    /// How long to measure, in milliseconds.
    pub millis: u64,
}

/// How calls on sockets wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sockets {
    /// In the call itself.
    Blocking,
    /// In poll(), after a call that could not go on.
    NonBlocking,
}

/// What a client does. Sockets never block where they carry several messages. A sidecar has to do the [`Task`] that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Load {
    /// One connection after the other: connect, one byte, close.
    Connections(Sockets),
    /// The same on blocking sockets, each at its time, whatever became of the one before.
    Paced {
        /// Connections per second.
        rate: f64,
    },
    /// Requests and responses of `size` bytes, one outstanding on each of the connections.
    Requests {
        /// Connections, opened before the measurement.
        connections: usize,
        /// Bytes each way.
        size: usize,
    },
    /// As many bytes as the connections take, from the client to the sidecar.
    Streams {
        /// Connections, opened before the measurement, a thread each.
        connections: usize,
    },
}

impl Load {
    /// What the other end has to do.
    #[must_use]
    pub fn task(self) -> Task {
        match self {
            Self::Connections(sockets) => Task::Connections(sockets),
            Self::Paced { .. } => Task::Connections(Sockets::Blocking),
            Self::Requests { connections, size } => Task::Echo { connections, size },
            Self::Streams { connections } => Task::Sink { connections },
        }
    }
}

/// What a sidecar has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Serve {
    /// The core to do it on.
    pub cpu: usize,
    /// On which port.
    pub listener: Listener,
    /// What to do with connections.
    pub task: Task,
    /// What every connection has to report as its original destination.
    pub expect: Expected,
}

/// What connections report as their original destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// This.
    Destination(SocketAddrV4),
    /// None: nothing is in between.
    None,
    /// They are not asked, as applications don't ask.
    Anything,
}

/// Where a peer listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listener {
    /// [`super::OUTBOUND_PORT`].
    Outbound,
    /// [`super::INBOUND_PORT`].
    Inbound,
    /// [`super::APP_PORT`].
    App,
}

/// What a sidecar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Accept, read a byte, close; until the byte is `LAST`.
    Connections(Sockets),
    /// Send back what comes, `size` bytes at a time, on that many connections, until all are closed.
    Echo {
        /// How many.
        connections: usize,
        /// Bytes of a message.
        size: usize,
    },
    /// Read that many connections to their end.
    Sink {
        /// How many.
        connections: usize,
    },
}

/// The byte on a connection with others to follow.
pub const MORE: u8 = b'x';

/// The byte on the last connection.
pub const LAST: u8 = b'q';

/// What a peer says: one line on its stdout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is in its place, and listens if it is a sidecar.
    Ready,
    /// A client is done.
    Done(Done),
    /// A sidecar is done.
    Served(Served),
    /// An order was not carried out.
    Failed(String),
}

/// What a client has done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Connections that it made, unmeasured ones too.
    pub connections: u64,
    /// What it did in the measured time: connections, or requests, or bytes.
    pub count: u64,
    /// The measured time.
    pub seconds: f64,
    /// Processor time in that.
    pub cpu_seconds: f64,
    /// Of [`Load::Paced`]: microseconds from when each connect() was due to its return, sorted.
    pub micros: Vec<f64>,
}

/// What a sidecar has done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Connections that it accepted.
    pub accepted: u64,
    /// How many of them did not report the original destination that was expected.
    pub unexpected: u64,
    /// What the first of these reported.
    pub first_unexpected: Option<String>,
    /// Processor time for all of it.
    pub cpu_seconds: f64,
}
