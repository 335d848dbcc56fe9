//! A pod as the kernel knows it: a network namespace and a cgroup.

mod cgroup;
mod netns;

use std::{net::IpAddr, os::unix::fs::MetadataExt as _};

use osm_ebpf_common::{SIDECAR_UID, maps::PodRecord};

use crate::error::{Error, Result, Tried as _};

pub use cgroup::{Cgroup, cgroup_root};
pub(crate) use cgroup::{Guarded, is_gone, of_process as cgroup_of_process, processes_below};
pub use netns::Netns;
use netns::is_link_local;
pub(crate) use netns::{inside, own_addresses};

/// A pod to be intercepted.
#[derive(Debug)]
pub struct Pod {
    /// What people call it.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// Its cgroup (v2).
    pub cgroup: Cgroup,
    /// Whether the cgroup holds other processes than the pod's: it has none of its own in v2.
    pub shares_cgroup: bool,
    /// Its own addresses, loopback and link-local ones left out; the first of a family is the
    /// one it speaks from.
    pub addresses: Vec<IpAddr>,
    /// Its link-local IPv6 addresses: its own as well, but it does not speak from them.
    pub link_local: Vec<IpAddr>,
    /// The sidecar's user, as the initial user namespace numbers it.
    pub sidecar_uid: u32,
    /// The cgroup of the sidecar's container.
    pub sidecar_cgroup: SidecarCgroup,
}

/// The cgroup that the sidecar's processes are in.
#[derive(Debug, Default)]
pub enum SidecarCgroup {
    /// Nobody says: as the programs know it.
    #[default]
    Unsaid,
    /// It is not known.
    Unknown,
    /// This.
    Known(Cgroup),
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
        let pod = Self::unchecked(name, netns, cgroup, addresses)?;
        check_same_pod(&pod.netns, &pod.cgroup)?;
        Ok(pod)
    }

    /// The same where the caller knows that namespace and cgroup are one pod's.
    pub(crate) fn unchecked(
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
        let (mut link_local, present): (Vec<_>, Vec<_>) =
            netns.addresses().iter().copied().partition(is_link_local);
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
                netns.path().display(),
                "the network namespace has no address besides loopback",
                "attach after the pod's network is set up, or give --pod-address",
            ));
        }
        Ok(Self {
            name,
            netns,
            cgroup,
            shares_cgroup: false,
            addresses,
            link_local,
            sidecar_uid: SIDECAR_UID,
            sidecar_cgroup: SidecarCgroup::Unsaid,
        })
    }
}

impl SidecarCgroup {
    /// The kernel's number of it; `before` is how the programs know it.
    ///
    /// # Errors
    /// Where the kernel can't tell.
    pub fn id(&self, before: Option<u64>) -> Result<Option<u64>> {
        match self {
            Self::Unsaid => Ok(before),
            Self::Unknown => Ok(None),
            Self::Known(cgroup) => cgroup.id().map(Some),
        }
    }
}

/// Refuses one pod's network namespace with another one's cgroup: neither would be
/// intercepted whole.
pub(crate) fn check_same_pod(netns: &Netns, cgroup: &Cgroup) -> Result<()> {
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
            netns.path().display()
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
