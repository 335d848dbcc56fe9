//! Child processes that end with the test, and names that tell whose a leftover is.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys;

/// What everything is called that outlives a process unless somebody removes it.
const PREFIX: &str = "osm-test-";

/// `osm-test-<pid>-<n>`: no other test has it.
#[must_use]
pub fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{count}", std::process::id())
}

/// Is this the name of something whose test process is gone?
#[must_use]
pub fn is_stale(name: &str) -> bool {
    let owner = name.strip_prefix(PREFIX).and_then(|it| it.split_once('-'));
    let pid = owner.and_then(|(pid, _)| pid.parse().ok());
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH))
}

/// Starts a process that the kernel kills when this one ends.
///
/// It is started by a thread that lives as long as the process: to the kernel, a child's parent is
/// the thread that forked it, and tests' threads come and go.
///
/// # Errors
/// The error of the start.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
        let (orders, queue) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in queue {
                sys::die_with_parent(&mut command);
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, child) = mpsc::channel();
    let orders = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    orders.send((command, reply)).map_err(io::Error::other)?;
    drop(orders);
    child.recv().map_err(io::Error::other)?
}

/// A running process whose output is collected. Killed on drop; says what it had to say about a
/// failed test.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts it, with pipes for stdin, stdout and stderr.
    #[must_use]
    #[track_caller]
    pub fn start(name: &str, mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let shown = format!("{command:?}");
        let mut child = spawn(command)
            .unwrap_or_else(|error| panic!("{name} does not start: {error}; {shown}"));
        let (sender, lines) = mpsc::channel();
        let stderr = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&stderr);
        let readers = vec![
            read_lines(child.stdout.take(), move |line| {
                let _ = sender.send(line);
            }),
            read_lines(child.stderr.take(), move |line| {
                let mut text = collected.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }),
        ];
        Self {
            name: name.to_owned(),
            child,
            lines,
            stderr,
            readers,
        }
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line on stdout; none when it is over or `limit` has passed.
    pub fn line(&mut self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    /// Writes a line to its stdin.
    #[track_caller]
    pub fn write(&mut self, line: &str) {
        let written = match &mut self.child.stdin {
            Some(stdin) => writeln!(stdin, "{line}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        if let Err(error) = written {
            panic!("{} is gone ({error}): {}", self.name, self.stderr());
        }
    }

    /// What it said on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        let text = self.stderr.lock();
        text.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends it a signal; panics where it is over, so that the signal never meets another process.
    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        let over = self.child.try_wait().expect("waiting for a child");
        assert!(over.is_none(), "{} is over: {over:?}", self.name);
        let pid = i32::try_from(self.pid()).expect("a pid fits");
        if let Err(error) = kill(Pid::from_raw(pid), signal) {
            panic!("{signal} to {} (pid {pid}): {error}", self.name);
        }
    }

    /// Waits for its end; none when `limit` has passed.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.child.stdin = None;
        let deadline = Instant::now() + limit;
        loop {
            let status = self.child.try_wait().expect("waiting for a child");
            if status.is_some() || Instant::now() > deadline {
                return status;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its threads, a line each, and in which functions of the kernel they are: for messages.
    #[must_use]
    pub fn threads(&self) -> String {
        let tasks = format!("/proc/{}/task", self.pid());
        let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
        let threads = tasks.map(|task| {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let state = read("stat")
                .rsplit(") ")
                .next()
                .map(|it| it.chars().take(1).collect());
            let (name, state, stack): (_, String, _) =
                (read("comm"), state.unwrap_or_default(), read("stack"));
            format!(
                "{} {state} {}",
                name.trim(),
                stack.trim().replace('\n', " < ")
            )
        });
        threads.collect::<Vec<_>>().join("\n")
    }

    /// What is left of its output once it is over: stdout and stderr.
    pub fn output(&mut self) -> (String, String) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let mut stdout = String::new();
        for line in self.lines.try_iter() {
            stdout.push_str(&line);
            stdout.push('\n');
        }
        (stdout, self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let stderr = self.stderr();
        if thread::panicking() && !stderr.is_empty() {
            eprintln!("--- stderr of {}:\n{stderr}---", self.name);
        }
    }
}

fn read_lines(
    pipe: Option<impl Read + Send + 'static>,
    mut take: impl FnMut(String) + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let lines = pipe.into_iter().flat_map(|it| BufReader::new(it).lines());
        lines.map_while(Result::ok).for_each(&mut take);
    })
}
