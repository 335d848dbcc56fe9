//! An init container: the agent in a pod's network namespace and cgroup, as root with few
//! capabilities, its root filesystem read-only if wanted.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    thread,
    time::Duration,
};

use osm_tests::{Pod, TempDir, agent};

/// What container runtimes leave to root, as far as it matters here, and what the manifest adds.
pub const USUAL: &[&str] = &[
    "net_admin",
    "net_raw",
    "setuid",
    "setgid",
    "net_bind_service",
];

/// Enters the cgroup in $1; with "ro" in $2 nothing can be written any more.
const ENTER: &str = r#"echo 0 >"$1/cgroup.procs" || exit 99
if [ "$2" = ro ]; then
  mount -o remount,bind,ro / || exit 99
  mount -t tmpfs -o ro none /run || exit 99
  mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp || exit 99
  touch /run/x /tmp/x /var/x 2>/dev/null && exit 99
fi
shift 2
exec "$@""#;

pub struct Container<'a> {
    pod: &'a Pod,
    capabilities: &'a [&'a str],
    is_read_only: bool,
    environment: Vec<(&'a str, &'a str)>,
    args: Vec<OsString>,
}

impl<'a> Container<'a> {
    /// `osm-agent init` with these flags, and the agent's socket where there is none.
    pub fn new(pod: &'a Pod, args: &[&str]) -> Self {
        Self {
            pod,
            capabilities: USUAL,
            is_read_only: false,
            environment: vec![("OSM_AGENT_SOCKET", "/nonexistent/agent.sock")],
            args: args.iter().map(OsString::from).collect(),
        }
    }

    pub fn capabilities(mut self, capabilities: &'a [&'a str]) -> Self {
        self.capabilities = capabilities;
        self
    }

    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }

    pub fn environment(mut self, name: &'a str, value: &'a str) -> Self {
        self.environment.push((name, value));
        self
    }

    #[must_use]
    pub fn run(self) -> Ended {
        let mut command = Command::new("unshare");
        let mounts = if self.is_read_only { "ro" } else { "rw" };
        let mut bounds = vec!["-all".to_owned()];
        bounds.extend(self.capabilities.iter().map(|name| format!("+{name}")));
        command
            .args(["--mount", "sh", "-c", ENTER, "sh"])
            .arg(self.pod.cgroup.path())
            .args([mounts, "setpriv", "--inh-caps", "-all", "--bounding-set"])
            .arg(bounds.join(","))
            .arg(agent::binary().expect("the agent"))
            .arg("init")
            .args(self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment);
        let output = self.pod.netns.run(|| command.output());
        Ended(output.expect("the container starts"))
    }
}

pub struct Ended(Output);

impl Ended {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    #[track_caller]
    pub fn exited(self, status: i32) -> Self {
        let (out, err) = (self.stdout(), self.stderr());
        assert_eq!(self.0.status.code(), Some(status), "{out}\n{err}");
        self
    }

    /// It said that, on one line of standard output.
    #[track_caller]
    pub fn saying(self, line: &str) -> Self {
        let out = self.stdout();
        let said = out.lines().any(|it| it.contains(line));
        assert!(said, "{line:?} is not in:\n{out}");
        self
    }

    /// It ended with one line on standard error, with these words.
    #[track_caller]
    pub fn complaining(self, words: &[&str]) -> Self {
        let error = self.stderr();
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
        self
    }

    /// No path was left untried or went wrong.
    #[track_caller]
    pub fn proving_all(self) -> Self {
        let out = self.stdout();
        let checks = || out.lines().filter(|it| it.starts_with("self-check: "));
        assert!(checks().count() >= 8, "{out}");
        assert!(checks().all(|it| it.contains(": proven: ")), "{out}");
        self
    }
}

/// Something that listens where the node agent should. It reads a request, then answers.
pub struct FakeAgent {
    directory: TempDir,
}

impl FakeAgent {
    pub fn new(answer: impl Fn(UnixStream) + Send + Sync + 'static) -> Self {
        let directory = TempDir::new();
        let listener = UnixListener::bind(directory.path().join("agent.sock")).expect("a socket");
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = Arc::clone(&answer);
                thread::spawn(move || answer(stream));
            }
        });
        Self { directory }
    }

    /// One that says this, whatever it is asked.
    pub fn saying(text: &'static [u8]) -> Self {
        Self::new(move |mut stream| {
            assert_eq!(request(&stream), r#"{"version":1,"request":"enrol"}"#);
            let _ = stream.write_all(text);
        })
    }

    /// One that sends a byte from time to time, for longer than anybody should wait.
    pub fn dripping() -> Self {
        Self::new(|mut stream| {
            let _ = request(&stream);
            while stream.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(100));
            }
        })
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }
}

/// The line that was sent.
pub fn request(stream: &UnixStream) -> String {
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    line.trim_end().to_owned()
}

/// What iptables-save says of a namespace, without comments and counters.
pub fn rules(pod: &Pod, tool: &str) -> String {
    let output = pod.netns.command(tool, &["-t", "nat"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<_> = lines
        .map(|line| line.split(" [").next().unwrap_or(line))
        .collect();
    lines.join("\n")
}

/// The names of a pod's interfaces.
pub fn interfaces(pod: &Pod) -> String {
    let read = || fs::read_to_string("/proc/thread-self/net/dev").expect("the interfaces");
    let text = pod.netns.run(read);
    let names = text.lines().filter_map(|line| line.split_once(':'));
    let names: Vec<_> = names.map(|(name, _)| name.trim()).collect();
    names.join(" ")
}
