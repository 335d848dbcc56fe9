//! An open network namespace, and what is in it.

use std::{
    fs::{File, TryLockError},
    io,
    net::IpAddr,
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

use crate::{
    error::{Error, Result, Tried as _},
    sys,
};

/// How long a command waits for another one that works on the same pod.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How often it looks.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
    /// None on kernels that can't tell.
    cookie: Option<u64>,
    addresses: Vec<IpAddr>,
}

impl Netns {
    /// Opens a pod's network namespace.
    ///
    /// # Errors
    /// Where the path is no network namespace, or the host's own.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_without_waiting(path).map_err(|error| {
            Error::input(
                format!("--netns {}", path.display()),
                format!("cannot be opened ({error})"),
                "give a path such as /proc/PID/ns/net or /run/netns/NAME",
            )
        })?;
        Self::of(file, path)
    }

    /// Takes an open file for a pod's network namespace; `path` is what messages call it.
    ///
    /// # Errors
    /// Where it is no network namespace, or the host's own.
    pub(crate) fn of(file: File, path: &Path) -> Result<Self> {
        let what = || format!("--netns {}", path.display());
        let not_a_netns = || {
            Error::input(
                what(),
                "is not a network namespace",
                "give a path such as /proc/PID/ns/net or /run/netns/NAME",
            )
        };
        let kind = fstatfs(&file).map_err(io::Error::from).tried(what)?;
        if kind.filesystem_type() != NSFS_MAGIC {
            return Err(not_a_netns());
        }
        if let Some(whose) = guarded(&file).tried(what)? {
            return Err(Error::input(
                what(),
                format!("is {whose} network namespace"),
                "interception there would take the node off the network: give a pod's, \
                 and leave hostNetwork pods alone",
            ));
        }
        let (cookie, addresses) = inside(&file, look_around).or_else(|error| {
            if error.raw_os_error() == Some(libc::EINVAL) {
                return Err(not_a_netns());
            }
            Err(error).tried(|| format!("enter the network namespace {}", path.display()))
        })?;
        Ok(Self {
            path: path.into(),
            file,
            cookie,
            addresses,
        })
    }

    /// The number by which programs know it: its cookie. Linux 5.14.
    ///
    /// # Errors
    /// Where the kernel can't tell.
    pub fn cookie(&self) -> Result<u64> {
        self.cookie
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOPROTOOPT))
            .tried(|| {
                format!(
                    "read the cookie of the network namespace {}",
                    self.path.display()
                )
            })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open namespace.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Waits until no other command works on the pod, 10 s at most, and keeps others waiting as
    /// long as this is open.
    ///
    /// # Errors
    /// Where somebody else keeps it locked, or the kernel can't lock it.
    pub fn lock(&self) -> Result<()> {
        self.lock_within(LOCK_WAIT)
    }

    /// Any process of the pod can open its own namespace and lock it: nobody waits for ever.
    fn lock_within(&self, limit: Duration) -> Result<()> {
        let path = self.path.display();
        let deadline = Instant::now() + limit;
        loop {
            match self.file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(error)) => {
                    return Err(error).tried(|| format!("lock the network namespace {path}"));
                }
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOCK_POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::System {
                        tried: format!("lock the network namespace {path}"),
                        source: "another command, or a process of the pod, keeps it locked".into(),
                        advice: format!(
                            "; wait for the other command, or find who holds it: its inode is \
                             {} in /proc/locks",
                            self.inode()?
                        ),
                    });
                }
            }
        }
    }

    /// Lets other commands work on the pod.
    ///
    /// # Errors
    /// Where the kernel can't.
    pub fn unlock(&self) -> Result<()> {
        self.file
            .unlock()
            .tried(|| format!("unlock the network namespace {}", self.path.display()))
    }

    /// The inode number, which is what `/proc/PID/ns/net` shows.
    ///
    /// # Errors
    /// Where the kernel can't tell.
    pub fn inode(&self) -> Result<u64> {
        Ok(self
            .file
            .metadata()
            .tried(|| "read the network namespace's inode")?
            .ino())
    }

    /// Refuses addresses that the namespace does not have, and those that nobody speaks from.
    ///
    /// # Errors
    /// Says which, and what the namespace has.
    pub fn check_addresses(&self, addresses: &[IpAddr]) -> Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        let present = self.addresses();
        for address in addresses.iter().map(IpAddr::to_canonical) {
            if !is_unicast(address) || !present.contains(&address) {
                let problem = if is_unicast(address) {
                    format!("{} does not have this address", self.path.display())
                } else {
                    "is no address that a pod can speak from".into()
                };
                return Err(Error::input(
                    format!("--pod-address {address}"),
                    problem,
                    match present {
                        [] => "it has none: attach after the pod's network is set up".into(),
                        present => format!("it has {}", list(present)),
                    },
                ));
            }
        }
        Ok(())
    }

    /// Its addresses on interfaces that are up, as it was opened; link-local ones come last.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Whether it had an address that a pod can speak from.
    pub(crate) fn has_address(&self) -> bool {
        self.addresses.iter().any(|address| !is_link_local(address))
    }
}

/// Whose it is, where it is not a pod's.
fn guarded(file: &File) -> io::Result<Option<&'static str>> {
    let metadata = file.metadata()?;
    let is_of = |process: &str| {
        // Without privilege over process 1 the check is left to the agent's own.
        let other = std::fs::metadata(format!("/proc/{process}/ns/net"));
        other.is_ok_and(|other| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino()))
    };
    Ok([("1", "the host's own"), ("self", "the agent's own")]
        .into_iter()
        .find_map(|(process, whose)| is_of(process).then_some(whose)))
}

/// The cookie, where the kernel can tell it, and the addresses of the calling thread's network
/// namespace.
fn look_around() -> io::Result<(Option<u64>, Vec<IpAddr>)> {
    let cookie = match sys::netns::cookie() {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => None,
        cookie => Some(cookie?),
    };
    Ok((cookie, all_own_addresses()?))
}

fn list(addresses: &[IpAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

fn is_unicast(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_broadcast)
}

pub(super) fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The addresses of the calling thread's network namespace, on interfaces that are up,
/// loopback and link-local ones left out.
pub(crate) fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut found = all_own_addresses()?;
    found.retain(|address| !is_link_local(address));
    Ok(found)
}

/// The same with link-local ones, which come last.
fn all_own_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = getifaddrs()?;
    let up = interfaces.filter(|it| it.flags.contains(InterfaceFlags::IFF_UP));
    let addresses = up.filter_map(|it| {
        let address = it.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    });
    let mut found: Vec<IpAddr> = Vec::new();
    for address in addresses.filter(|ip| !ip.is_loopback()) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    // The order is otherwise the kernel's: the sort is stable.
    found.sort_by_key(is_link_local);
    Ok(found)
}

/// Runs something in a network namespace, on a thread that ends with it.
pub(crate) fn inside<T: Send>(
    netns: &File,
    run: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
                run()
            })
            .join()
            .map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    })
}

/// Opening a FIFO that somebody put there would wait for a writer.
fn open_without_waiting(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use nix::{sched::unshare, unistd::geteuid};

    use super::*;

    /// A namespace that goes with the file.
    fn new() -> File {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new namespace");
            File::open("/proc/thread-self/ns/net").expect("the thread's own")
        });
        made.join().expect("the thread ends")
    }

    #[test]
    fn lock_that_a_process_of_the_pod_holds_is_not_waited_for_for_ever() {
        if !geteuid().is_root() {
            return;
        }
        let holder = new();
        holder.lock().expect("nobody holds it yet");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&holder);
        let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
        let netns = Netns::open(&path).expect("a namespace");
        let error = netns.lock_within(LOCK_POLL * 3).expect_err("it is held");
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains("keeps it locked"), "{text}");
        drop(holder);
        netns.lock_within(LOCK_POLL).expect("it is free");
    }

    #[test]
    fn own_namespace_is_refused() {
        let error = Netns::open(Path::new("/proc/self/ns/net")).expect_err("it is ours");
        assert!(
            error.to_string().contains("own network namespace"),
            "{error}"
        );
    }
}
