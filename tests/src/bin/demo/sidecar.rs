//! The sidecar, whichever it is, and what it saw.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use osm_tests::{Actor, Event, Listener, Pod, canonical};

use crate::envoy::Envoy;

/// How long the demo waits before it takes it that a sidecar has no more to tell.
pub const SILENCE: Duration = Duration::from_millis(150);

/// How long it waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(3);

/// Which sidecar.
#[derive(Debug)]
pub enum Kind {
    /// The transparent proxy of this workspace.
    Builtin,
    /// The Envoy at this path.
    Envoy(PathBuf),
}

impl Kind {
    /// Starts one in the pod and waits until it listens.
    ///
    /// # Errors
    /// Where it does not.
    pub fn start(&self, pod: &Pod) -> Result<Sidecar> {
        Ok(match self {
            Self::Builtin => Sidecar::Builtin(pod.sidecar()),
            Self::Envoy(binary) => Sidecar::Envoy(Envoy::start(binary, pod)?),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Builtin => "the transparent proxy of this workspace",
            Self::Envoy(_) => "Envoy",
        })
    }
}

/// A running sidecar. Killed on drop.
#[derive(Debug)]
pub enum Sidecar {
    /// The transparent proxy of this workspace.
    Builtin(Actor),
    /// Envoy.
    Envoy(Envoy),
}

impl Sidecar {
    /// The connections that it saw and has not told about before: waits for this many of them, and
    /// then a little for any more.
    ///
    /// # Errors
    /// Where it can't be understood.
    pub fn seen(&mut self, expected: usize) -> Result<Vec<Seen>> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self {
                Self::Builtin(actor) => {
                    seen.extend(actor.drain().into_iter().filter_map(Seen::from_event));
                }
                Self::Envoy(envoy) => seen.extend(envoy.drain()?),
            }
            if seen.len() >= expected || Instant::now() > deadline {
                return Ok(seen);
            }
        }
    }
}

/// A connection as the sidecar saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The listener that got it.
    pub listener: Listener,
    /// Who made it.
    pub peer: SocketAddr,
    /// Where it was to go, or what the kernel said instead.
    pub original_destination: Result<SocketAddr, String>,
}

impl Seen {
    fn from_event(event: Event) -> Option<Self> {
        let Event::Accepted(accepted) = event else {
            return None;
        };
        Some(Self {
            listener: accepted.listener,
            peer: canonical(accepted.peer),
            original_destination: accepted.original_destination.map(canonical),
        })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self.listener {
            Listener::Outbound => "15001",
            Listener::Inbound => "15003",
            Listener::Plain => "?",
        };
        write!(f, "{port} {} → ", self.peer)?;
        match &self.original_destination {
            Ok(address) => address.fmt(f),
            Err(error) => f.write_str(error),
        }
    }
}
