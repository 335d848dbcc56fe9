//! The node agent, run as the process that it is, with files as its source.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::SLOWNESS;
use crate::agent::{self, Agent, Outcome};
use crate::process::Process;
use crate::state::{StateDir, TempDir};
use crate::world::{Pod, World};

/// How long anything may take that has to come about.
pub const PATIENCE: Duration = Duration::from_secs(20).saturating_mul(SLOWNESS);

const STEP: Duration = Duration::from_millis(5);

/// A node agent with its own state directory, pod files, MeshConfig and sockets.
#[derive(Debug)]
pub struct Node {
    agent: Agent,
    files: TempDir,
    flags: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    process: Process,
    http: SocketAddr,
}

impl Node {
    /// One that does not run yet, with a directory of pods and an empty MeshConfig; none where
    /// the test has to be skipped.
    #[must_use]
    pub fn new() -> Option<Self> {
        let node = Self::without_source()?;
        if let Err(error) = fs::create_dir(node.pod_files()) {
            panic!("can't make the directory of pods: {error}");
        }
        node.mesh("{}");
        let (pods, mesh) = (node.pod_files(), node.mesh_file());
        Some(node.flag("--pods", &pods).flag("--config", &mesh))
    }

    /// A world whose pod it intercepts, under this `spec` of the mesh's; none where the test has to be
    /// skipped.
    #[must_use]
    #[track_caller]
    pub fn intercepting(spec: &str) -> Option<(World, Self)> {
        let (world, mut node) = (World::new()?, Self::new()?);
        node.mesh(spec);
        node.add_pod(&world.pod, &[]);
        node.start();
        node.wait_intercepted(&world.pod);
        Some((world, node))
    }

    /// One that only learns of pods by their requests.
    #[must_use]
    pub fn without_source() -> Option<Self> {
        let node = Self {
            agent: Agent::new()?,
            files: TempDir::new(),
            flags: Vec::new(),
            running: None,
        };
        let (state, socket, cni) = (
            node.state().path().to_owned(),
            node.socket(),
            node.cni_socket(),
        );
        Some(
            node.flag("--state-dir", &state)
                .flag("--agent-socket", &socket)
                .flag("--cni-socket", &cni)
                .flag("--listen", Path::new("127.0.0.1:0")),
        )
    }

    /// With this flag from the next start on; the last of several counts.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: impl AsRef<Path>) -> Self {
        if let Some(at) = self.flags.iter().position(|it| it == flag) {
            self.flags.drain(at..at + 2);
        }
        let value = value.as_ref().display().to_string();
        self.flags.extend([flag.to_owned(), value]);
        self
    }

    /// The agent's other commands, with the same state directory.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Its state directory.
    #[must_use]
    pub fn state(&self) -> &StateDir {
        self.agent.state()
    }

    /// Where init containers ask.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.files.path().join("run/agent.sock")
    }

    /// Where the CNI plugin asks.
    #[must_use]
    pub fn cni_socket(&self) -> PathBuf {
        self.files.path().join("cni/agent.sock")
    }

    /// Says what the mesh's configuration is: the object's `spec`, in JSON or YAML's flow style.
    pub fn mesh(&self, spec: &str) {
        let text = format!(
            "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nspec: {spec}\n"
        );
        replace(&self.mesh_file(), &text);
    }

    /// Adds a pod, or changes its annotations (without their prefix).
    pub fn add_pod(&self, pod: &Pod, annotations: &[(&str, &str)]) {
        let annotations: serde_json::Map<String, Value> = annotations
            .iter()
            .map(|(key, value)| (format!("openservicemesh.io/{key}"), json!(value)))
            .collect();
        self.add_pod_file(
            pod.name(),
            &json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "name": pod.name(), "namespace": "test", "annotations": annotations },
                "osm": { "netns": pod.netns.path(), "cgroup": pod.cgroup.path() },
            }),
        );
    }

    /// Adds a pod whose sidecar runs in this cgroup.
    pub fn add_pod_with_sidecar(&self, pod: &Pod, cgroup: &Path) {
        self.add_pod_file(
            pod.name(),
            &json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "name": pod.name(), "namespace": "test" },
                "osm": {
                    "netns": pod.netns.path(),
                    "cgroup": pod.cgroup.path(),
                    "sidecarCgroup": cgroup,
                },
            }),
        );
    }

    /// Adds a pod file of this content.
    pub fn add_pod_file(&self, name: &str, content: &Value) {
        replace(
            &self.pod_files().join(format!("{name}.json")),
            &content.to_string(),
        );
    }

    /// Removes a pod.
    pub fn remove_pod(&self, pod: &Pod) {
        self.remove_pod_file(pod.name());
    }

    /// Removes a pod file.
    pub fn remove_pod_file(&self, name: &str) {
        let path = self.pod_files().join(format!("{name}.json"));
        if let Err(error) = fs::remove_file(&path) {
            panic!("can't remove {}: {error}", path.display());
        }
    }

    /// Removes a pod, if there is such a file.
    pub fn remove_pod_if_there(&self, pod: &Pod) {
        let _ = fs::remove_file(self.pod_files().join(format!("{}.json", pod.name())));
    }

    /// Starts the process; returns as soon as it answers over HTTP.
    #[track_caller]
    pub fn start(&mut self) {
        let binary = agent::binary().expect("there was one");
        self.start_binary(&binary);
    }

    /// The same, with this binary.
    #[track_caller]
    pub fn start_binary(&mut self, binary: &Path) {
        assert!(self.running.is_none(), "it runs already");
        let process = self.spawn(binary);
        let deadline = Instant::now() + PATIENCE;
        let http = loop {
            let log = process.stderr();
            let said = log
                .split_once("HTTP on ")
                .and_then(|(_, rest)| rest.split_once('\n'))
                .and_then(|(address, _)| address.trim().parse().ok());
            if let Some(address) = said {
                break address;
            }
            assert!(Instant::now() < deadline, "the agent does not start: {log}");
            thread::sleep(STEP);
        };
        self.running = Some(Running { process, http });
    }

    /// Starts the process and nothing more.
    #[must_use]
    #[track_caller]
    pub fn spawn(&self, binary: &Path) -> Process {
        let mut command = Command::new(binary);
        command.arg("run").args(&self.flags).env("NO_COLOR", "1");
        Process::start("osm-agent run", command)
    }

    /// Starts it, waits for its end, and tells how it was.
    #[track_caller]
    pub fn run_to_end(&self) -> Outcome {
        let mut process = self.spawn(&agent::binary().expect("there was one"));
        end_of(&mut process)
    }

    /// Kills it with SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.process.signal(Signal::SIGKILL);
        let _ = running.process.wait(PATIENCE);
    }

    /// Stops it in order.
    #[track_caller]
    pub fn stop(&mut self) -> Outcome {
        let mut running = self.running.take().expect("it runs");
        running.process.signal(Signal::SIGTERM);
        end_of(&mut running.process)
    }

    /// Its process ID.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").process.pid()
    }

    /// What it has logged since it was started.
    #[must_use]
    pub fn log(&self) -> String {
        let running = self.running.as_ref();
        running.map_or_else(String::new, |running| running.process.stderr())
    }

    /// Where it answers over HTTP.
    #[must_use]
    #[track_caller]
    pub fn url(&self) -> String {
        format!("http://{}", self.running.as_ref().expect("it runs").http)
    }

    /// What it answers over HTTP: status and body.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        let running = self.running.as_ref().expect("it runs");
        match get(running.http, path) {
            Ok(answer) => answer,
            Err(error) => panic!("no answer to {path}: {error}; {}", self.log()),
        }
    }

    /// The status that it shows.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> Value {
        let (_, body) = self.get("/status");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"))
    }

    /// What it shows of a pod.
    #[must_use]
    #[track_caller]
    pub fn pod(&self, pod: &Pod) -> Option<Value> {
        let name = format!("test/{}", pod.name());
        let status = self.status();
        let pods = status["pods"].as_array()?;
        pods.iter().find(|it| it["name"] == name.as_str()).cloned()
    }

    /// The value of a metric, by its name with labels; 0 where it is not there.
    #[must_use]
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let value = text.lines().find_map(|line| {
            line.strip_prefix(name)
                .and_then(|rest| rest.strip_prefix(' '))
        });
        value
            .and_then(|value| value.split(' ').next()?.parse().ok())
            .unwrap_or_default()
    }

    /// Waits until it is as `is_so` says; tells how long that took.
    #[track_caller]
    pub fn wait(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !is_so(self) {
            if start.elapsed() > PATIENCE {
                let (_, status) = self.get("/status");
                panic!("not in time: {what}; {status}\n{}", self.log());
            }
            thread::sleep(STEP);
        }
        start.elapsed()
    }

    /// Waits until a pod is shown as intercepted.
    #[track_caller]
    pub fn wait_intercepted(&self, pod: &Pod) {
        self.wait("the pod is intercepted", |node| {
            node.pod(pod)
                .is_some_and(|pod| pod["state"] == "intercepted")
        });
    }

    /// Waits until the agent says that all is well.
    #[track_caller]
    pub fn wait_ready(&self) {
        self.wait("it is ready", |node| node.get("/readyz").0 == 200);
    }

    /// The directory of pod files.
    #[must_use]
    pub fn pod_files(&self) -> PathBuf {
        self.files.path().join("pods")
    }

    fn mesh_file(&self) -> PathBuf {
        self.files.path().join("mesh.yaml")
    }
}

#[track_caller]
fn end_of(process: &mut Process) -> Outcome {
    let Some(status) = process.wait(PATIENCE) else {
        panic!(
            "the agent does not end: {}\nits threads wait in:\n{}",
            process.stderr(),
            process.threads()
        );
    };
    let (stdout, stderr) = process.output();
    Outcome {
        status,
        stdout,
        stderr,
    }
}

/// As people replace files that others read.
fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, path));
    if let Err(error) = written {
        panic!("can't write {}: {error}", path.display());
    }
}

fn get(http: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(http)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let odd = || std::io::Error::other(format!("odd answer: {text}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(odd)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or_else(odd)?, body.to_owned()))
}
