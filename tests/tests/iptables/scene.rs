//! A pod whose rules are looked at, and the ways to run the agent on it.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Output};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use osm_tests::netns::Netns;
use osm_tests::{Need, Pod, TempDir, World, agent, missing};

/// The two iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Nft,
    Legacy,
}

impl Backend {
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    pub fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

/// A world, and the agent to run in it.
pub struct Scene {
    pub world: World,
    agent: PathBuf,
}

impl Scene {
    /// None where the test has to be skipped.
    pub fn new() -> Option<Self> {
        let tools = ["iptables-nft-restore", "iptables-legacy-restore"].map(Need::Program);
        if missing(&[Need::Agent]) || missing(&tools) {
            return None;
        }
        Some(Self {
            world: World::new()?,
            agent: agent::binary()?,
        })
    }

    pub fn pod(&self) -> &Pod {
        &self.world.pod
    }

    /// The agent, to be told what to do.
    pub fn agent(&self) -> Command {
        Command::new(&self.agent)
    }

    /// `osm-agent iptables <args> --netns <the pod>`.
    #[track_caller]
    pub fn iptables<S: AsRef<OsStr>>(&self, args: &[S]) -> Said {
        self.iptables_in(&self.world.pod.netns, args)
    }

    /// The same for another pod.
    #[track_caller]
    pub fn iptables_in<S: AsRef<OsStr>>(&self, netns: &Netns, args: &[S]) -> Said {
        let mut command = self.agent();
        command.arg("iptables").args(args);
        said(command.arg("--netns").arg(netns.path()))
    }

    /// `apply` with this backend and these further arguments; panics unless it succeeded.
    #[track_caller]
    pub fn apply(&self, backend: Backend, more: &[&str]) -> String {
        let backend = backend.to_string();
        let args = [&["apply", "--iptables-backend", &backend], more].concat();
        self.iptables(&args).succeeded()
    }

    /// What `iptables-save` prints for all tables, without its comments and the time of day.
    /// With the counters of rules, but not those of policies: iptables-legacy puts them to
    /// zero whenever anything in the table changes.
    pub fn save(&self, backend: Backend) -> String {
        let tool = format!("iptables-{backend}-save");
        let text = save(&self.world.pod.netns, &tool, &["-c"]);
        let lines = text.lines().map(|line| match line.split_once(" [") {
            Some((policy, _)) if line.starts_with(':') => policy,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The same of table nat alone, without counters, and of IPv6.
    pub fn nat(&self, backend: Backend) -> [String; 2] {
        ["iptables", "ip6tables"].map(|tool| {
            let tool = format!("{tool}-{backend}-save");
            save(&self.world.pod.netns, &tool, &["-t", "nat"])
        })
    }

    /// Changes rules as other programs do.
    #[track_caller]
    pub fn change(&self, backend: Backend, rules: &[&str]) {
        let tool = format!("iptables-{backend}");
        for rule in rules {
            let args: Vec<&str> = ["-w", "-t", "nat"]
                .into_iter()
                .chain(rule.split(' '))
                .collect();
            let output = self.world.pod.netns.command(&tool, &args);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{tool} {rule}: {error}");
        }
    }

    /// Runs the agent in the pod as an init container does: in its namespace, with a file
    /// system of its own that `prepare` changes before.
    #[track_caller]
    pub fn contained(
        &self,
        prepare: impl FnOnce() + Send,
        command: impl FnOnce() -> Command + Send,
    ) -> Said {
        self.world.pod.netns.run(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
            let none: Option<&str> = None;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).expect("private mounts");
            prepare();
            said(&mut command())
        })
    }
}

/// Mounts an empty file system, in a mount namespace that `contained` made.
pub fn hide(path: &str, flags: MsFlags) {
    let none: Option<&str> = None;
    mount(Some("none"), path, Some("tmpfs"), flags, none).expect("mounting an empty directory");
}

/// Makes all of the root file system read-only, in a mount namespace that `contained` made.
pub fn read_only_root() {
    let none: Option<&str> = None;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, "/", none, bind, none).expect("a read-only root");
    hide("/run", MsFlags::MS_RDONLY);
}

/// A directory with copies of one tool's program under some of its names.
pub fn tools(backend: Backend, names: &[&str]) -> TempDir {
    let dir = TempDir::new();
    let program = dir.path().join("xtables");
    let original = format!("/usr/sbin/xtables-{backend}-multi");
    std::fs::copy(original, &program).expect("a copy of iptables");
    for name in names {
        std::os::unix::fs::symlink(&program, dir.path().join(name)).expect("a link");
    }
    dir
}

fn save(netns: &Netns, tool: &str, args: &[&str]) -> String {
    let output = netns.command(tool, args);
    assert!(output.status.success(), "{tool}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("iptables prints text");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| format!("{line}\n"))
        .collect::<Vec<_>>()
        .concat()
}

/// How a run of the agent ended.
#[must_use]
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
#[track_caller]
pub fn said(command: &mut Command) -> Said {
    let shown = format!("{command:?}");
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let [stdout, stderr] = [stdout, stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    Said {
        code: status.code(),
        stdout,
        stderr,
    }
}

impl Said {
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.stderr, "");
        self.stdout
    }

    /// One line on standard error with all these words, and this status.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let error = self.stderr.trim_end();
        assert_eq!(error.lines().count(), 1, "{error}");
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    }
}
