//! A pod as the kernel knows it: a network namespace and a cgroup.

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
    sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, NSFS_MAGIC, fstatfs},
};
use osm_ebpf_common::{SIDECAR_UID, maps::PodRecord};

use crate::{
    error::{Error, Result, Tried as _},
    sys,
};

/// A pod to be intercepted.
#[derive(Debug)]
pub struct Pod {
    /// What people call it.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// Its cgroup (v2).
    pub cgroup: Cgroup,
    /// Its own addresses, loopback left out; the first of a family is the one it speaks from.
    pub addresses: Vec<IpAddr>,
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
        let addresses = if addresses.is_empty() {
            netns.addresses()?
        } else {
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

    fn addresses(&self) -> Result<Vec<IpAddr>> {
        inside(&self.file, own_addresses)
            .tried(|| format!("read the addresses of {}", self.path.display()))
    }
}

/// The addresses of the calling thread's network namespace, on interfaces that are up,
/// loopback and link-local ones left out.
pub(crate) fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = getifaddrs()?;
    let up = interfaces.filter(|it| it.flags.contains(InterfaceFlags::IFF_UP));
    let addresses = up.filter_map(|it| {
        let address = it.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    });
    let is_own = |ip: &IpAddr| {
        !ip.is_loopback() && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
    };
    let mut found: Vec<IpAddr> = Vec::new();
    for address in addresses.filter(is_own) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
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

/// An open cgroup (v2).
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    directory: File,
}

impl Cgroup {
    /// Opens a pod's cgroup; a relative path is taken from the root of the hierarchy.
    ///
    /// # Errors
    /// Where the path is no cgroup of v2, or not one pod's own.
    pub fn open(path: &Path, root: &Path) -> Result<Self> {
        let path = root.join(path);
        let what = format!("--cgroup {}", path.display());
        let example = format!("give a pod's directory below {}", root.display());
        let directory = File::open(&path).map_err(|error| {
            Error::input(&what, format!("cannot be opened ({error})"), &example)
        })?;
        let kind = fstatfs(&directory)
            .map_err(io::Error::from)
            .tried(|| &what)?
            .filesystem_type();
        if kind == CGROUP_SUPER_MAGIC {
            return Err(Error::input(&what, "is a cgroup of version 1", example));
        }
        if kind != CGROUP2_SUPER_MAGIC || !directory.metadata().tried(|| &what)?.is_dir() {
            return Err(Error::input(&what, "is not a cgroup", example));
        }
        let path = path.canonicalize().tried(|| format!("resolve {what}"))?;
        let root = root
            .canonicalize()
            .tried(|| format!("resolve {}", root.display()))?;
        if path == root {
            return Err(Error::input(
                &what,
                "is the root cgroup, which holds every process of the node",
                example,
            ));
        }
        if own_cgroup(&root).is_some_and(|own| own.starts_with(&path)) {
            return Err(Error::input(
                &what,
                "holds this very process, so it is not a pod's own",
                example,
            ));
        }
        Ok(Self { path, directory })
    }

    /// The open directory.
    #[must_use]
    pub const fn directory(&self) -> &File {
        &self.directory
    }

    /// The path it was opened by, resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number by which the kernel knows it: the directory's inode.
    ///
    /// # Errors
    /// Where the kernel can't tell.
    pub fn id(&self) -> Result<u64> {
        Ok(self
            .directory
            .metadata()
            .tried(|| "read the cgroup's inode")?
            .ino())
    }

    /// The processes in it and below it.
    ///
    /// # Errors
    /// Where a directory of it can't be read, other than by having gone.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let mut found = Vec::new();
        let mut directories = vec![self.path.clone()];
        while let Some(directory) = directories.pop() {
            match std::fs::read_to_string(directory.join("cgroup.procs")) {
                Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
                // A threaded cgroup has no processes of its own; a container may just end.
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            }
            for entry in std::fs::read_dir(&directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    directories.push(entry.path());
                }
            }
        }
        Ok(found)
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
    )
}

/// Where the agent itself is in the hierarchy.
fn own_cgroup(root: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(root.join(own.trim_start_matches('/')))
}

/// The root of the cgroup v2 hierarchy, wherever it is mounted.
///
/// # Errors
/// Where it is not.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").tried(|| "read /proc/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .ok_or_else(|| {
            Error::input(
                "/proc/mounts",
                "no cgroup v2 hierarchy is mounted",
                "mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`) or give --cgroup-root",
            )
        })
}
