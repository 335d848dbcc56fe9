//! Envoy, unmodified, as the sidecar. Its access log is the witness.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use osm_tests::process::Process;
use osm_tests::{Listener, Pod, SIDECAR_UID};

use crate::sidecar::{SILENCE, Seen};

const CONFIG: &str = include_str!("envoy.yaml");

/// Worker threads, each with a listening socket of its own for every port.
const WORKERS: usize = 2;

/// How long it may take to listen.
const START: Duration = Duration::from_secs(20);

/// What `/proc/net/tcp` calls a socket that listens.
const LISTENING: &str = "0A";

/// A running Envoy. Killed on drop.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    // A connection is logged when it is forwarded and once more when it ends.
    logged: HashSet<String>,
}

impl Envoy {
    /// Starts it and waits until it listens with all of its workers.
    ///
    /// # Errors
    /// Where it does not get that far, with what it complained about.
    pub fn start(binary: &Path, pod: &Pod) -> Result<Self> {
        let uid = SIDECAR_UID.to_string();
        let mut command = Command::new(env::current_exe().context("the demo's own path")?);
        command
            .arg("run-as")
            .arg("--netns")
            .arg(pod.netns.path())
            .arg("--cgroup")
            .arg(pod.sidecar_cgroup().path())
            .args(["--uid", &uid, "--output-of", &uid])
            .arg(binary)
            .args(["--", "--config-yaml", CONFIG, "--disable-hot-restart"])
            .args(["--concurrency", &WORKERS.to_string()])
            .args(["--log-level", "warning"])
            .args(["--file-flush-interval-msec", "20"]);
        let mut envoy = Self {
            process: Process::start("envoy", command),
            logged: HashSet::new(),
        };
        envoy.wait_until_listening()?;
        Ok(envoy)
    }

    /// The connections in its log that were not there before, once no more come.
    ///
    /// # Errors
    /// Where the log is not as configured.
    pub fn drain(&mut self) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        while let Some(line) = self.process.line(SILENCE) {
            seen.extend(self.read(&line)?);
        }
        Ok(seen)
    }

    fn read(&mut self, line: &str) -> Result<Option<Seen>> {
        let words: Vec<_> = line.split(' ').collect();
        let &[listener, id, peer, destination] = words.as_slice() else {
            bail!("odd line in Envoy's access log: {line:?}");
        };
        if !self.logged.insert(id.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Seen {
            listener: match listener {
                "outbound" => Listener::Outbound,
                _ => Listener::Inbound,
            },
            peer: peer.parse().with_context(|| format!("reading {line:?}"))?,
            original_destination: destination.parse().map_err(|_| destination.to_owned()),
        }))
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while [15001, 15003].map(|port| self.listeners(port)) != [WORKERS; 2] {
            if let Some(status) = self.process.wait(Duration::ZERO) {
                bail!("Envoy is over ({status}): {}", self.process.stderr());
            }
            if Instant::now() > deadline {
                let stderr = self.process.stderr();
                bail!(
                    "Envoy does not listen after {} s: {stderr}",
                    START.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// How many sockets of its network namespace listen on a port.
    fn listeners(&self, port: u16) -> usize {
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", self.process.pid()));
        let table = table.unwrap_or_default();
        let suffix = format!(":{port:04X}");
        let is_listener = |line: &&str| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&suffix))
                && words.nth(1) == Some(LISTENING)
        };
        table.lines().filter(is_listener).count()
    }
}
