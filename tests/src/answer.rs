//! What a client answers: one JSON object a line, `{"answer": …}`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::event::Greeting;

/// One line of a client.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The client is in its namespace and cgroup, with its UID; its first line.
    Ready,
    /// A socket and its state.
    Connection(Connection),
    /// What came back.
    Echo(Echo),
    /// What a transfer brought back.
    Transferred(Transferred),
    /// A socket option.
    Option(SocketOption),
    /// How many connections came to what.
    Tally(Tally),
    /// The same, for each user.
    Tallies {
        /// In the order of the users.
        tallies: Vec<Tally>,
    },
    /// There is nothing to tell.
    Done,
    /// The request itself failed: no such socket, or a call that should never fail.
    Failed {
        /// Why, with all causes.
        error: String,
    },
}

/// A socket, and how its connection went.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Connection {
    /// The socket, numbered by the client. It stays open after a failure too.
    pub id: u64,
    /// Did `connect()` (or `bind()` and `listen()`) succeed?
    pub connected: bool,
    /// The name of the error if not; `timeout` where nothing happened in time.
    pub error: Option<String>,
    /// `getpeername()`.
    pub peer: Option<SocketAddr>,
    /// `getsockname()`.
    pub local: Option<SocketAddr>,
    /// The greeting of the server.
    pub greeting: Option<Greeting>,
    /// Why there is no greeting: the name of an error, `EOF`, `timeout`.
    pub greeting_error: Option<String>,
    /// The echo of the payload.
    pub echoed: Option<String>,
    /// Microseconds from before `connect()` until the greeting was read.
    pub micros: u64,
}

impl Connection {
    /// The name of the server that answered; panics where none did.
    #[must_use]
    pub fn answered_by(&self) -> &str {
        match &self.greeting {
            Some(greeting) => &greeting.role,
            None => panic!("nobody answered: {self:?}"),
        }
    }

    /// The greeting; panics where there is none.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        match &self.greeting {
            Some(greeting) => greeting,
            None => panic!("nobody answered: {self:?}"),
        }
    }

    /// `getpeername()`; panics where it failed.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        match self.peer {
            Some(address) => address,
            None => panic!("no peer: {self:?}"),
        }
    }

    /// `getsockname()`; panics where it failed.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        match self.local {
            Some(address) => address,
            None => panic!("no name: {self:?}"),
        }
    }

    /// The name of the error of `connect()`; panics where it succeeded.
    #[must_use]
    pub fn error(&self) -> &str {
        match &self.error {
            Some(error) => error,
            None => panic!("there was no error: {self:?}"),
        }
    }
}

/// What came back.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Echo {
    /// The text.
    pub text: String,
    /// Who sent it, for datagrams.
    pub from: Option<SocketAddr>,
    /// The name of the error that ended the exchange; `timeout` where nothing came in time.
    pub error: Option<String>,
}

/// What a transfer brought back.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Transferred {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Was every byte received the one that was sent?
    pub intact: bool,
    /// The name of the error that ended it early.
    pub error: Option<String>,
    /// Microseconds it took.
    pub micros: u64,
}

/// A socket option.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SocketOption {
    /// The bytes, as many as the kernel said.
    pub value: Vec<u8>,
    /// The name of the error.
    pub error: Option<String>,
}

/// How many connections came to what.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Tally {
    /// Connections that were greeted.
    pub succeeded: u64,
    /// The others, by the name of the error.
    pub failed: BTreeMap<String, u64>,
    /// The greeted ones, by the name of the server.
    pub roles: BTreeMap<String, u64>,
    /// Those of them whose `getpeername()` is not what was dialled.
    pub wrong_peer: u64,
    /// Those of them that went straight to the server, past any sidecar.
    pub around: u64,
    /// Microseconds for all.
    pub micros: u64,
    /// Microseconds from `connect()` to the greeting: the median.
    pub p50_micros: u64,
    /// The same: exceeded by one in a hundred.
    pub p99_micros: u64,
}
