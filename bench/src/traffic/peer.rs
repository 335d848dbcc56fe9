//! A running peer, as the engine sees it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use osm_tests::process::Process;
use osm_tests::{Cgroup, Netns};

use crate::peer::{Answer, Order};

/// How long a peer may take to get to its place.
const START: Duration = Duration::from_secs(10);

/// A process that carries out orders. Killed on drop.
#[derive(Debug)]
pub struct Peer {
    process: Process,
}

/// Where a peer lives, and what it is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its network namespace.
    pub netns: &'a Netns,
    /// Its cgroup; the engine's own if none.
    pub cgroup: Option<&'a Cgroup>,
    /// Its user; root if none.
    pub uid: Option<u32>,
    /// Whether it listens on a sidecar's ports.
    pub is_sidecar: bool,
}

impl Peer {
    /// Starts one, and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not get ready.
    pub fn start(name: &str, program: &Path, place: Place<'_>) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("peer").arg("--netns").arg(place.netns.path());
        if let Some(cgroup) = place.cgroup {
            command.arg("--cgroup").arg(cgroup.path());
        }
        if let Some(uid) = place.uid {
            command.arg("--uid").arg(uid.to_string());
        }
        if place.is_sidecar {
            command.arg("--sidecar");
        }
        let process = Process::start(name, command);
        let mut peer = Self { process };
        match peer.answer(START)? {
            Answer::Ready => Ok(peer),
            other => bail!("{name} starts with {other:?}"),
        }
    }

    /// Gives an order, without waiting for what comes of it.
    ///
    /// # Errors
    /// Where an order can't be written as JSON, which all can.
    pub fn order(&mut self, order: &Order) -> Result<()> {
        self.process.write(&serde_json::to_string(order)?);
        Ok(())
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// Where there is none, or it says that an order failed.
    pub fn answer(&mut self, limit: Duration) -> Result<Answer> {
        let Some(line) = self.process.line(limit) else {
            let (name, stderr) = (self.process.name(), self.process.stderr());
            bail!("{name} says nothing for {limit:?}: {stderr}");
        };
        let name = self.process.name();
        let answer = serde_json::from_str(&line).with_context(|| format!("{name}: {line}"))?;
        if let Answer::Failed(error) = answer {
            bail!("{name}: {error}");
        }
        Ok(answer)
    }
}
