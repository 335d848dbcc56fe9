//! A pod as the kernel knows it: a network namespace and a cgroup.

mod cgroup;

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use osm_ebpf_common::{SIDECAR_UID, maps::PodRecord};

use crate::{
    error::{Error, Result, Tried as _},
    sys,
};

pub use cgroup::{Cgroup, cgroup_root};

/// A pod to be intercepted.
#[derive(Debug)]
pub struct Pod {
    /// What people call it.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// Its cgroup (v2).
    pub cgroup: Cgroup,
    /// Its own addresses, loopback and link-local ones left out; the first of a family is the
    /// one it speaks from.
    pub addresses: Vec<IpAddr>,
    /// Its link-local IPv6 addresses: its own as well, but it does not speak from them.
    pub link_local: Vec<IpAddr>,
    /// The sidecar's user, as the initial user namespace numbers it.
    pub sidecar_uid: u32,
}

impl Pod {
    /// A pod whose sidecar has the usual user.
    ///
    /// `name` defaults to one made of the namespace's cookie, `addresses` to those that the
    /// namespace has now.
    ///
    /// # Errors
    /// Where the name is too long, or the pod has no address.
    pub fn new(
        name: Option<String>,
        netns: Netns,
        cgroup: Cgroup,
        addresses: Vec<IpAddr>,
    ) -> Result<Self> {
        let name = match name {
            Some(name) => name,
            None => format!("netns-{}", netns.inode()?),
        };
        check_name(&name)?;
        let present = netns.addresses()?;
        let (mut link_local, present): (Vec<_>, Vec<_>) =
            present.into_iter().partition(is_link_local);
        let addresses = if addresses.is_empty() {
            present
        } else {
            let (more, addresses): (Vec<_>, Vec<_>) = addresses
                .into_iter()
                .map(|address| address.to_canonical())
                .partition(is_link_local);
            link_local.extend(more);
            addresses
        };
        if addresses.is_empty() {
            return Err(Error::input(
                netns.path.display(),
                "the network namespace has no address besides loopback",
                "attach after the pod's network is set up, or give --pod-address",
            ));
        }
        check_same_pod(&netns, &cgroup)?;
        Ok(Self {
            name,
            netns,
            cgroup,
            addresses,
            link_local,
            sidecar_uid: SIDECAR_UID,
        })
    }
}

/// Refuses one pod's network namespace with another one's cgroup: neither would be
/// intercepted whole.
fn check_same_pod(netns: &Netns, cgroup: &Cgroup) -> Result<()> {
    let processes = cgroup
        .processes()
        .tried(|| format!("list the processes of {}", cgroup.path().display()))?;
    let inode = netns.inode()?;
    let mut namespaces = processes
        .iter()
        .filter_map(|pid| std::fs::metadata(format!("/proc/{pid}/ns/net")).ok())
        .map(|metadata| metadata.ino())
        .peekable();
    // A pod without processes yet can't be checked.
    if namespaces.peek().is_none() || namespaces.any(|other| other == inode) {
        return Ok(());
    }
    Err(Error::input(
        format!("--cgroup {}", cgroup.path().display()),
        format!(
            "none of its processes is in the network namespace {}",
            netns.path.display()
        ),
        "give the cgroup and the network namespace of the same pod",
    ))
}

/// Checks a pod's name: it is shown in tables, so it must be printable and not too long.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_name(name: &str) -> Result<()> {
    let printable = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
    if !printable || PodRecord::new(name, 0).is_none() {
        return Err(Error::input(
            format!("--pod {name:?}"),
            "not a pod's name",
            "use 1 to 320 printable characters without spaces, such as default/web-0",
        ));
    }
    Ok(())
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
    /// None on kernels that can't tell.
    cookie: Option<u64>,
}

impl Netns {
    /// Opens a pod's network namespace.
    ///
    /// # Errors
    /// Where the path is no network namespace, or the host's own.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("--netns {}", path.display());
        let file = File::open(path).map_err(|error| {
            Error::input(
                what(),
                format!("cannot be opened ({error})"),
                "give a path such as /proc/PID/ns/net or /run/netns/NAME",
            )
        })?;
        let not_a_netns = || {
            Error::input(
                what(),
                "is not a network namespace",
                "give a path such as /proc/PID/ns/net or /run/netns/NAME",
            )
        };
        if fstatfs(&file)
            .map_err(io::Error::from)
            .tried(what)?
            .filesystem_type()
            != NSFS_MAGIC
        {
            return Err(not_a_netns());
        }
        let metadata = file.metadata().tried(what)?;
        for (process, whose) in [("1", "the host's own"), ("self", "the agent's own")] {
            // Without privilege over process 1 the check is left to the agent's own.
            let other = std::fs::metadata(format!("/proc/{process}/ns/net"));
            if other.is_ok_and(|o| (o.dev(), o.ino()) == (metadata.dev(), metadata.ino())) {
                return Err(Error::input(
                    what(),
                    format!("is {whose} network namespace"),
                    "interception there would take the node off the network: give a pod's, \
                     and leave hostNetwork pods alone",
                ));
            }
        }
        let cookie = match inside(&file, sys::netns::cookie) {
            Ok(cookie) => Some(cookie),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOPROTOOPT) => None,
                Some(libc::EINVAL) => return Err(not_a_netns()),
                _ => {
                    return Err(error)
                        .tried(|| format!("enter the network namespace {}", path.display()));
                }
            },
        };
        Ok(Self {
            path: path.into(),
            file,
            cookie,
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

    /// Waits until no other command works on the pod, and keeps others waiting as long as
    /// this is open.
    ///
    /// # Errors
    /// Where the kernel can't lock it.
    pub fn lock(&self) -> Result<()> {
        self.file
            .lock()
            .tried(|| format!("lock the network namespace {}", self.path.display()))
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
        let present = self.addresses()?;
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
                    match present.as_slice() {
                        [] => "it has none: attach after the pod's network is set up".into(),
                        present => format!("it has {}", list(present)),
                    },
                ));
            }
        }
        Ok(())
    }

    /// Link-local ones come last.
    fn addresses(&self) -> Result<Vec<IpAddr>> {
        inside(&self.file, all_own_addresses)
            .tried(|| format!("read the addresses of {}", self.path.display()))
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

fn is_unicast(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_broadcast)
}

fn is_link_local(address: &IpAddr) -> bool {
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
