//! Many connections of one client.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::parse;

/// Many connections: each connects, reads its greeting and closes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Many {
    /// Where to.
    pub to: SocketAddr,
    /// How many.
    pub count: u64,
    /// How many at a time.
    pub concurrency: usize,
    /// Keep them open until [`Request::Release`](super::Request::Release).
    #[serde(default)]
    pub hold: bool,
    /// Close with FIN, which leaves sockets in `TIME_WAIT`, instead of RST.
    #[serde(default)]
    pub fin: bool,
    /// Only call `connect()`, wait for nothing, and close with RST; that it was called is success.
    #[serde(default)]
    pub abort: bool,
    /// Microseconds from the start of one to the start of the next, in each thread; 0 for none.
    #[serde(default)]
    pub pace_micros: u64,
}

impl Many {
    /// So many connections to `address:port`, one after the other, each closed with RST.
    #[must_use]
    #[track_caller]
    pub fn to(to: &str, count: u64) -> Self {
        Self {
            to: parse(to),
            count,
            concurrency: 1,
            hold: false,
            fin: false,
            abort: false,
            pace_micros: 0,
        }
    }

    /// So many of them at a time.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Starts so many a second, however long each takes.
    #[must_use]
    pub fn per_second(mut self, rate: u64) -> Self {
        self.pace_micros = 1_000_000 * self.concurrency.max(1) as u64 / rate.max(1);
        self
    }

    /// Keeps them open until [`Request::Release`](super::Request::Release).
    #[must_use]
    pub fn hold(mut self) -> Self {
        self.hold = true;
        self
    }

    /// Gives each of them up as soon as `connect()` was called.
    #[must_use]
    pub fn abort(mut self) -> Self {
        self.abort = true;
        self
    }

    /// Closes them with FIN.
    #[must_use]
    pub fn fin(mut self) -> Self {
        self.fin = true;
        self
    }
}
