//! The agent, run as the program that it is.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use crate::SLOWNESS;
use crate::need::{Need, missing};
use crate::process::Process;
use crate::state::{StateDir, TempDir};
use crate::world::Pod;

/// How long one run may take.
const LIMIT: Duration = Duration::from_mins(1).saturating_mul(SLOWNESS);

/// The agent's binary: from `OSM_AGENT`, or from the target directory of the test executable.
#[must_use]
pub fn binary() -> Option<PathBuf> {
    find("OSM_AGENT", "osm-agent")
}

/// The agent built with another layout of its maps: from `OSM_AGENT_NEXT`, or from the same target
/// directory.
#[must_use]
pub fn next_binary() -> Option<PathBuf> {
    find("OSM_AGENT_NEXT", "osm-agent-next")
}

fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let test = std::env::current_exe().ok()?;
    let profile = test.ancestors().find(|dir| {
        dir.file_name()
            .is_some_and(|name| name == "debug" || name == "release")
    })?;
    let is_debug = profile.ends_with("debug");
    let other = profile.with_file_name(if is_debug { "release" } else { "debug" });
    let candidates = [profile, &other].map(|dir| dir.join(name));
    candidates.into_iter().find(|path| path.is_file())
}

/// The agent, with a state directory of its own.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    state: StateDir,
}

impl Agent {
    /// Finds it; none where the test has to be skipped.
    #[must_use]
    pub fn new() -> Option<Self> {
        if missing(&[Need::Root, Need::Agent]) {
            return None;
        }
        Some(Self {
            binary: binary()?,
            state: StateDir::new(),
        })
    }

    /// The same state directory, worked on by another binary from now on.
    pub fn replace(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// The BPF file system where it pins.
    #[must_use]
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// Runs it with these arguments, adding nothing, to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Outcome {
        let mut process = self.start(args);
        let Some(status) = process.wait(LIMIT) else {
            let (seconds, stderr) = (LIMIT.as_secs(), process.stderr());
            panic!("osm-agent is not done after {seconds} s: {stderr}");
        };
        let (stdout, stderr) = process.output();
        Outcome {
            status,
            stdout,
            stderr,
        }
    }

    /// Starts it with these arguments, adding nothing; for what does not end by itself.
    #[must_use]
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Process {
        let mut command = Command::new(&self.binary);
        command.args(args);
        Process::start("osm-agent", command)
    }

    /// Runs a command about a pod that is attached here.
    #[track_caller]
    pub fn ask(&self, pod: &Pod, command: &[&str]) -> Outcome {
        let about = ["--pod", pod.name()];
        self.ask_all(&[command, &about[..]].concat())
    }

    /// Runs a command about all that is attached here.
    #[track_caller]
    pub fn ask_all(&self, command: &[&str]) -> Outcome {
        let state = self.state.path().display().to_string();
        self.run(&[command, &["--state-dir", &state]].concat())
    }

    /// `attach` for a pod; [`Attach::run`] does it.
    #[must_use]
    pub fn attach(&self, pod: &Pod) -> Attach<'_> {
        self.attach_as(pod, pod.name())
    }

    /// The same, under another name.
    #[must_use]
    pub fn attach_as(&self, pod: &Pod, name: &str) -> Attach<'_> {
        let attach = Attach {
            agent: self,
            args: vec!["attach".into()],
            files: TempDir::new(),
        };
        attach
            .option("--netns", pod.netns.path())
            .option("--cgroup", pod.cgroup.path())
            .option("--pod", name)
            .option("--state-dir", self.state.path())
    }

    /// `detach` for a pod.
    #[track_caller]
    pub fn detach(&self, pod: &Pod) -> Outcome {
        self.ask(pod, &["detach"])
    }
}

/// An `attach` in the making.
#[derive(Debug)]
pub struct Attach<'a> {
    agent: &'a Agent,
    args: Vec<OsString>,
    files: TempDir,
}

impl Attach<'_> {
    /// With this mesh configuration: the text of a `MeshConfig` in YAML or JSON.
    #[must_use]
    pub fn config(self, text: &str) -> Self {
        let path = self.files.file("mesh-config.yaml", text);
        self.option("--config", path)
    }

    /// With this annotation on the pod.
    #[must_use]
    pub fn annotation(self, key: &str, value: &str) -> Self {
        self.option("--annotation", format!("{key}={value}"))
    }

    /// With this flag and its value.
    #[must_use]
    pub fn option(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.args.push(flag.into());
        self.args.push(value.as_ref().into());
        self
    }

    /// With this flag.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.args.push(flag.into());
        self
    }

    /// What is to be run, for who runs it otherwise. Only without [`Self::config`], whose file goes.
    ///
    /// # Panics
    /// Where a path is not UTF-8.
    #[must_use]
    pub fn into_args(self) -> Vec<String> {
        let args = self.args.into_iter().map(OsString::into_string);
        args.collect::<Result<_, _>>().expect("UTF-8")
    }

    /// Does it.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.agent.run(&self.args)
    }
}

/// How a run of the agent ended.
#[derive(Clone, Debug)]
#[must_use]
pub struct Outcome {
    /// Its status.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Outcome {
    /// Panics unless it succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(self.status.success(), "osm-agent failed: {self}");
        self
    }

    /// Panics unless it failed by itself, with a code and not by a signal.
    #[track_caller]
    pub fn failed(self) -> Self {
        let by_itself = self.status.code().is_some_and(|code| code != 0);
        assert!(by_itself, "osm-agent should have failed: {self}");
        self
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            status: output.status,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (stdout, stderr) = (&self.stdout, &self.stderr);
        write!(f, "{}\n{stdout}\n{stderr}", self.status)
    }
}
