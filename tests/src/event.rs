//! What servers and sidecars print: one JSON object a line.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One line of a server or a sidecar.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// All listeners are open; the first line of every server and sidecar.
    Ready {
        /// The listeners' addresses, in the order of the flags, ports filled in.
        listen: Vec<SocketAddr>,
    },
    /// The process gives up.
    Failed {
        /// Why, with all causes.
        error: String,
    },
    /// A connection was accepted.
    Accepted(Accepted),
    /// A sidecar was not told where a connection wanted to go, and reset it.
    NoOriginalDestination {
        /// The connection, numbered by its acceptor.
        id: u64,
        /// The listener that accepted it.
        listener: Listener,
        /// The name of the error of `getsockopt`.
        error: String,
    },
    /// A sidecar could not reach the original destination, and reset the connection.
    NotForwarded {
        /// The connection, numbered by its acceptor.
        id: u64,
        /// Where the sidecar dialled.
        to: SocketAddr,
        /// The name of the error of `connect`, or `loop` where this is the sidecar's own listener.
        error: String,
    },
    /// A connection that a sidecar forwarded is over.
    Closed {
        /// The connection, numbered by its acceptor.
        id: u64,
        /// Bytes from the accepted peer to the destination; 0 after an error.
        up: u64,
        /// Bytes from the destination to the accepted peer; 0 after an error.
        down: u64,
        /// The name of the error that ended it, if one did.
        error: Option<String>,
    },
    /// A UDP datagram was echoed.
    Datagram {
        /// The server's name.
        role: String,
        /// Who sent it.
        peer: SocketAddr,
        /// The datagram.
        text: String,
    },
}

/// An accepted connection, as its acceptor sees it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// The connection, numbered by its acceptor from 1.
    pub id: u64,
    /// The acceptor's name; `sidecar` for a sidecar.
    pub role: String,
    /// Which kind of listener accepted.
    pub listener: Listener,
    /// The address that the listener is bound to.
    pub listen: SocketAddr,
    /// `getsockname()` of the accepted socket.
    pub local: SocketAddr,
    /// `getpeername()` of the accepted socket.
    pub peer: SocketAddr,
    /// The peer that `accept()` reported.
    pub peer_from_accept: SocketAddr,
    /// `SO_ORIGINAL_DST`, or the name of its error.
    pub original_destination: Result<SocketAddr, String>,
}

impl Accepted {
    /// Where the peer wanted to go; panics where the kernel did not say.
    #[must_use]
    pub fn original_destination(&self) -> SocketAddr {
        match &self.original_destination {
            Ok(address) => *address,
            Err(error) => panic!("no original destination ({error}): {self:?}"),
        }
    }
}

/// Which listener accepted a connection.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listener {
    /// A server's.
    Plain,
    /// The sidecar's for connections that the application makes.
    Outbound,
    /// The sidecar's for connections that the pod gets.
    Inbound,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        })
    }
}

/// The first line that a server writes to every client.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Greeting {
    /// The server's name.
    pub role: String,
    /// The server's end of the connection.
    pub local: SocketAddr,
    /// The other end, as the server sees it.
    pub peer: SocketAddr,
    /// `SO_ORIGINAL_DST`, where the kernel knows one.
    #[serde(default)]
    pub original: Option<SocketAddr>,
}
