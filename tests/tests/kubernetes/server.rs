//! The two servers as processes that go with the test.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use osm_tests::process::spawn;

/// How much of a log a failed test shows.
const TAIL_LINES: usize = 25;

/// Where looking for free ports begins.
const FIRST_PORT: u16 = 20000;

/// A server that logs to a file. Killed on drop, and by the kernel where the test dies first.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; its log goes to a file in `directory`, behind what is there already.
    #[track_caller]
    pub fn start(name: &'static str, mut command: Command, directory: &Path) -> Self {
        let log = directory.join(format!("{name}.log"));
        let open = || File::options().create(true).append(true).open(&log);
        command
            .stdin(Stdio::null())
            .stdout(open().expect("a log"))
            .stderr(open().expect("a log"));
        let child = spawn(command).unwrap_or_else(|error| panic!("starting {name}: {error}"));
        Self { name, child, log }
    }

    /// Panics if it is over.
    #[track_caller]
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("waiting for a child") {
            panic!("{} ended ({status}):\n{}", self.name, self.tail());
        }
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- end of the log of {}:\n{}\n---", self.name, self.tail());
        }
    }
}

/// A port of 127.0.0.1 that nobody else takes: below those that the kernel gives to connections.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let of_process = std::process::id() % 100 * 100;
        AtomicU16::new(FIRST_PORT + u16::try_from(of_process).unwrap_or_default())
    });
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
