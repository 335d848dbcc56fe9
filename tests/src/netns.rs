//! Network namespaces that nothing but the test holds.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::sys;

/// `SO_NETNS_COOKIE` (`asm-generic/socket.h`, Linux 5.14).
const SO_NETNS_COOKIE: i32 = 71;

/// A network namespace with `lo` up. It goes with the last process in it and this guard.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new, empty one.
    #[must_use]
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            File::open("/proc/thread-self/ns/net").expect("the thread's network namespace")
        });
        let netns = Self {
            file: made.join().unwrap_or_else(|panic| resume_unwind(panic)),
        };
        if has_ipv6() {
            netns.sysctl("net/ipv6/conf/all/disable_ipv6", "0");
            netns.sysctl("net/ipv6/conf/default/disable_ipv6", "0");
            // No waiting for duplicate address detection.
            netns.sysctl("net/ipv6/conf/default/accept_dad", "0");
        }
        netns.sysctl("net/ipv4/conf/all/rp_filter", "0");
        netns.sysctl("net/ipv4/conf/default/rp_filter", "0");
        netns.ip(&["link set lo up"]);
        netns
    }

    /// A path by which other processes can open it, as long as this guard lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let fd = self.file.as_fd().as_raw_fd();
        format!("/proc/{}/fd/{fd}", std::process::id()).into()
    }

    /// What BPF programs know it by: its cookie, before Linux 5.14 the number of its inode.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        let value = self.run(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
            sys::getsockopt(socket.as_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, 8)
        });
        match value {
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                self.file.metadata().expect("it is open").ino()
            }
            value => {
                let value = value.expect("SO_NETNS_COOKIE").try_into();
                u64::from_ne_bytes(value.expect("a cookie has 8 bytes"))
            }
        }
    }

    /// Runs `job` on a thread inside; processes that it starts are inside too.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("entering our own namespace");
                job()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs a short command inside, to its end.
    #[must_use]
    #[track_caller]
    pub fn command(&self, program: &str, args: &[&str]) -> Output {
        let output = self.run(|| Command::new(program).args(args).output());
        output.unwrap_or_else(|error| panic!("{program} does not start: {error}"))
    }

    /// Runs `ip` inside with all of these commands (`link set lo up`), in one batch.
    #[track_caller]
    pub fn ip(&self, commands: &[impl AsRef<str>]) {
        let batch: Vec<_> = commands.iter().map(AsRef::as_ref).collect();
        let batch = batch.join("\n") + "\n";
        let output = self.run(|| {
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = ip.stdin.take() {
                stdin.write_all(batch.as_bytes())?;
            }
            ip.wait_with_output()
        });
        let output = output.unwrap_or_else(|error| panic!("ip does not run: {error}"));
        assert!(
            output.status.success(),
            "ip fails: {}{}\nit was told:\n{batch}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
    }

    /// Writes a setting below `/proc/sys`, inside.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        assert!(
            name.starts_with("net/"),
            "{name} is not the namespace's own"
        );
        let path = Path::new("/proc/sys").join(name);
        if let Err(error) = self.run(|| fs::write(&path, value)) {
            panic!("can't write {value} to {}: {error}", path.display());
        }
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

/// A pair of network interfaces that joins two namespaces. It goes with either of them.
#[derive(Debug)]
pub struct Veth<'a> {
    near: (&'a Netns, &'a str),
    far: (&'a Netns, &'a str),
}

impl<'a> Veth<'a> {
    /// Joins two namespaces; an end is a namespace and the interface's name there.
    #[must_use]
    #[track_caller]
    pub fn new(near: (&'a Netns, &'a str), far: (&'a Netns, &'a str)) -> Self {
        let (far_name, far_path) = (far.1, far.0.path());
        near.0.ip(&[format!(
            "link add {} type veth peer name {far_name} netns {}",
            near.1,
            far_path.display()
        )]);
        Self { near, far }
    }

    /// Gives the ends their addresses (`address/length`, the near end's first) and brings them up.
    /// IPv6 pairs are left out where the kernel has no IPv6.
    #[must_use]
    #[track_caller]
    pub fn addresses(self, pairs: &[(&str, &str)]) -> Self {
        let commands = |name: &str, list: Vec<&str>| -> Vec<String> {
            let usable = list.iter().filter(|it| !it.contains(':') || has_ipv6());
            usable
                .map(|it| format!("addr add {it} dev {name}{}", flags(it)))
                .chain([format!("link set {name} up")])
                .collect()
        };
        let (near, far) = pairs.iter().copied().unzip();
        self.near.0.ip(&commands(self.near.1, near));
        self.far.0.ip(&commands(self.far.1, far));
        self
    }
}

/// Does this kernel have IPv6?
#[must_use]
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// What `ip addr add` needs besides the address.
pub(crate) fn flags(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}
