//! What a client is asked: one JSON object a line, `{"command": …}`.

mod many;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::SLOWNESS;

pub use many::Many;

/// How long a client waits for one step: a handshake, a greeting, an echo.
pub const STEP: Duration = Duration::from_secs(5).saturating_mul(SLOWNESS);

/// One line for a client.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// Open a socket and connect it. Answer: a connection.
    Connect(Dial),
    /// Connect a socket that exists: after a failure, a disconnect, or from another process.
    /// Answer: a connection.
    Reconnect {
        /// The socket.
        id: u64,
        /// Where to.
        to: SocketAddr,
        /// As in [`Dial::timeout_ms`].
        timeout_ms: u64,
    },
    /// `connect()` to `AF_UNSPEC`. Answer: the connection.
    Disconnect {
        /// The socket.
        id: u64,
    },
    /// Ask the socket's names again. Answer: the connection.
    Names {
        /// The socket.
        id: u64,
    },
    /// Send text and read as much back. Answer: an echo.
    Send {
        /// The socket.
        id: u64,
        /// What to send.
        text: String,
    },
    /// Send a pattern while reading it back. Answer: what arrived.
    Transfer {
        /// The socket.
        id: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// Close the sending half, then read to the end. Answer: an echo of what was still to come.
    Finish {
        /// The socket.
        id: u64,
    },
    /// Close the socket. Answer: done.
    Close {
        /// The socket.
        id: u64,
        /// With RST instead of FIN.
        reset: bool,
    },
    /// `getsockopt()` with a buffer of `len` bytes. Answer: an option.
    Getsockopt {
        /// The socket.
        id: u64,
        /// The level.
        level: i32,
        /// The option.
        name: i32,
        /// The size of the buffer.
        len: u32,
    },
    /// Make an unconnected TCP socket and send it to who listens at `path`. Answer: done.
    GiveSocket {
        /// A Unix socket.
        path: PathBuf,
        /// The socket's family.
        family: Family,
    },
    /// Take a socket that another client gives. Answer: the connection.
    TakeSocket {
        /// A Unix socket, to be created.
        path: PathBuf,
    },
    /// Make many connections. Answer: a tally.
    Many(Many),
    /// The same as several users at once, each on threads of its own, which the kernel knows by that user; for root.
    /// Answer: a tally for each.
    AsUsers {
        /// The user, and its connections.
        orders: Vec<(u32, Many)>,
    },
    /// Close the connections that [`Many::hold`] kept. Answer: done.
    Release,
    /// `bind()` and `listen()`. Answer: a connection without a peer.
    Listen {
        /// Where.
        address: SocketAddr,
        /// With `SO_REUSEPORT`.
        reuseport: bool,
    },
    /// `bind()`, as before `listen()`. Answer: a connection without a peer.
    Bind {
        /// To what.
        address: SocketAddr,
        /// Whom the socket is given to first (`fchown()`), with `SO_REUSEPORT`.
        owner: Option<u32>,
    },
    /// `listen()` on such a socket. Answer: likewise.
    ListenOn {
        /// The bound socket.
        id: u64,
    },
    /// `accept()` on a listening socket. Answer: the accepted connection.
    Accept {
        /// The listening socket.
        id: u64,
    },
    /// Send a datagram and wait for its echo. Answer: an echo.
    Udp(Udp),
}

/// The family of a socket.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`; dials IPv4 destinations as v4-mapped ones.
    V6,
}

/// How to ask for TCP fast open.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fastopen {
    /// `TCP_FASTOPEN_CONNECT`, then `connect()`, then `write()`.
    Connect,
    /// `sendto()` with `MSG_FASTOPEN` and no `connect()` at all.
    Sendto,
}

/// A connection to make.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each switch of a socket"
)]
pub struct Dial {
    /// Where to.
    pub to: SocketAddr,
    /// The socket's own address, bound before it connects.
    #[serde(default)]
    pub bind: Option<SocketAddr>,
    /// The socket's family; that of `to` where it is not said.
    #[serde(default)]
    pub family: Option<Family>,
    /// Connect with `O_NONBLOCK`, `poll()` and `SO_ERROR`.
    #[serde(default)]
    pub nonblocking: bool,
    /// Connect through an `io_uring`.
    #[serde(default)]
    pub io_uring: bool,
    /// Use TCP fast open; the payload goes first then.
    #[serde(default)]
    pub fastopen: Option<Fastopen>,
    /// An `IPPROTO_MPTCP` socket.
    #[serde(default)]
    pub mptcp: bool,
    /// `SO_REUSEADDR`.
    #[serde(default)]
    pub reuseaddr: bool,
    /// `SO_BINDTODEVICE`.
    #[serde(default)]
    pub device: Option<String>,
    /// `SO_MARK`.
    #[serde(default)]
    pub mark: Option<u32>,
    /// Milliseconds for each step.
    #[serde(default = "step_ms")]
    pub timeout_ms: u64,
    /// Sent after the greeting; its echo is awaited.
    #[serde(default)]
    pub payload: Option<String>,
    /// Don't wait for a greeting.
    #[serde(default)]
    pub no_greeting: bool,
}

impl Dial {
    /// A plain connection to `to` (`address:port`).
    #[must_use]
    pub fn to(to: &str) -> Self {
        Self::from(to)
    }

    /// Binds the socket to `address:port` first.
    #[must_use]
    pub fn bind(mut self, address: &str) -> Self {
        self.bind = Some(parse(address));
        self
    }

    /// Uses an IPv6 socket, for IPv4 destinations too.
    #[must_use]
    pub fn v6(mut self) -> Self {
        self.family = Some(Family::V6);
        self
    }

    /// Connects without blocking.
    #[must_use]
    pub fn nonblocking(mut self) -> Self {
        self.nonblocking = true;
        self
    }

    /// Connects through an `io_uring`.
    #[must_use]
    pub fn io_uring(mut self) -> Self {
        self.io_uring = true;
        self
    }

    /// Uses TCP fast open.
    #[must_use]
    pub fn fastopen(mut self, how: Fastopen) -> Self {
        self.fastopen = Some(how);
        self
    }

    /// Uses MPTCP.
    #[must_use]
    pub fn mptcp(mut self) -> Self {
        self.mptcp = true;
        self
    }

    /// Sets `SO_REUSEADDR`.
    #[must_use]
    pub fn reuseaddr(mut self) -> Self {
        self.reuseaddr = true;
        self
    }

    /// Binds the socket to a network interface.
    #[must_use]
    pub fn device(mut self, name: &str) -> Self {
        self.device = Some(name.to_owned());
        self
    }

    /// Marks the socket, and with it its packets.
    #[must_use]
    pub fn mark(mut self, mark: u32) -> Self {
        self.mark = Some(mark);
        self
    }

    /// Waits this long for each step instead of [`STEP`].
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout_ms = milliseconds(limit);
        self
    }

    /// Sends `text` and reads its echo.
    #[must_use]
    pub fn payload(mut self, text: &str) -> Self {
        self.payload = Some(text.to_owned());
        self
    }

    /// Expects no greeting, for servers that are not ours.
    #[must_use]
    pub fn no_greeting(mut self) -> Self {
        self.no_greeting = true;
        self
    }
}

impl From<SocketAddr> for Dial {
    fn from(to: SocketAddr) -> Self {
        Self {
            to,
            bind: None,
            family: None,
            nonblocking: false,
            io_uring: false,
            fastopen: None,
            mptcp: false,
            reuseaddr: false,
            device: None,
            mark: None,
            timeout_ms: step_ms(),
            payload: None,
            no_greeting: false,
        }
    }
}

impl From<&str> for Dial {
    fn from(to: &str) -> Self {
        Self::from(parse(to))
    }
}

/// A datagram to send.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Udp {
    /// Where to.
    pub to: SocketAddr,
    /// The socket's own address; any where it is not said.
    #[serde(default)]
    pub from: Option<SocketAddr>,
    /// What.
    pub text: String,
    /// Use `connect()` and `send()` instead of `sendto()`.
    #[serde(default)]
    pub connected: bool,
    /// Milliseconds to wait for the echo.
    #[serde(default = "step_ms")]
    pub timeout_ms: u64,
}

/// Reads `address:port`; panics on anything else.
#[must_use]
pub fn parse(address: &str) -> SocketAddr {
    match address.parse() {
        Ok(address) => address,
        Err(error) => panic!("{address:?} is not address:port: {error}"),
    }
}

/// A duration as the protocol has it.
#[must_use]
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn step_ms() -> u64 {
    milliseconds(STEP)
}
