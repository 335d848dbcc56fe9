//! The agent as the process that it is on a node.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use osm_tests::process::Process;
use osm_tests::{Agent, TempDir};

use crate::cluster::Cluster;
use crate::objects::{NODE, PATIENCE};
use crate::server::free_port;

/// Nothing happens in these tests because time has passed.
const RESYNC: &str = "3600";

/// How long an answer of the agent may take.
const ANSWER: Duration = Duration::from_secs(10);

/// `osm-agent run`, which can be killed and started again.
pub struct Node {
    process: Option<Process>,
    agent: Agent,
    kubeconfig: PathBuf,
    listen: SocketAddr,
    files: TempDir,
}

impl Node {
    /// A node on which the agent does not run yet; none where the test has to be skipped.
    pub fn new(cluster: &Cluster) -> Option<Self> {
        Some(Self {
            process: None,
            agent: Agent::new()?,
            kubeconfig: cluster.kubeconfig(),
            listen: (Ipv4Addr::LOCALHOST, free_port()).into(),
            files: TempDir::new(),
        })
    }

    /// Starts the agent.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "the agent is running");
        let path = |path: PathBuf| path.display().to_string();
        let process = self.agent.start(&[
            "run",
            "--kubernetes",
            "--node-name",
            NODE,
            "--resync",
            RESYNC,
            "--kubeconfig",
            &path(self.kubeconfig.clone()),
            "--state-dir",
            &path(self.agent.state().path().to_owned()),
            "--agent-socket",
            &path(self.files.path().join("agent.sock")),
            "--cni-socket",
            &path(self.files.path().join("cni.sock")),
            "--listen",
            &self.listen.to_string(),
        ]);
        self.process = Some(process);
    }

    /// Kills the agent, without a chance for it to clean up.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the agent is running");
        process.signal(Signal::SIGKILL);
        assert!(process.wait(PATIENCE).is_some(), "it does not end");
    }

    /// Waits until every pod that is wanted was verified in the kernel.
    #[track_caller]
    pub fn wait_until_ready(&self) {
        self.wait_for("/readyz is not 200", |node| {
            node.get("/readyz").is_some_and(|(status, _)| status == 200)
        });
    }

    /// Waits until the agent has logged this.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        let what = format!("its log does not say {text:?}");
        self.wait_for(&what, |node| node.log().contains(text));
    }

    /// Waits until `is_so`; panics with `otherwise` and all the agent has to say.
    #[track_caller]
    pub fn wait_for(&self, otherwise: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            if Instant::now() > deadline {
                let status = self.get("/status").map(|(_, body)| body);
                panic!("{otherwise}\nstatus: {status:?}\nlog:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the agent has logged since its start.
    pub fn log(&self) -> String {
        self.process
            .as_ref()
            .map_or_else(String::new, Process::stderr)
    }

    /// Asks the agent by HTTP: the status and the body; none where nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.listen, ANSWER).ok()?;
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }
}
