//! Where a pod is in the kernel: its cgroup, its network namespace, its users.
//!
//! * [`Locator`]: finds pods, by an [`Index`] of the cgroup hierarchy that one pass reads once,
//! * [`uid_of_cgroup`], [`uid_of_process`]: which pod a process belongs to.
//!
//! Who a pod is comes from the kernel, by way of what the kubelet or the node's administrator
//! named: nothing that a pod can write is asked.

mod index;
mod names;
mod process;
mod sidecar;
mod users;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use osm_ebpf_common::SIDECAR_UID;

use index::Directory;
pub use index::Index;
pub use names::{uid_of_cgroup, uid_of_process};
use process::{Member, Members, Search};
use users::Sidecar;

use super::source::PodSpec;
use crate::{
    error::{Error, Result},
    pod::{Cgroup, Netns, Pod, check_same_pod},
};

/// How long a container's process may take to enter the pod's network namespace: a container
/// runtime starts it in the node's.
const STARTING: Duration = Duration::from_secs(10);

/// Where a pod is.
#[derive(Debug)]
pub enum Whereabouts {
    /// Here.
    Found(Pod),
    /// Not in the kernel as yet, or no more: what is missing.
    NotYet(String),
    /// Somewhere that must not be intercepted, or can't be: why, and what to do.
    Unfit(String),
}

/// Finds pods in the kernel.
#[derive(Clone, Debug)]
pub struct Locator {
    root: PathBuf,
    shared_cgroup: Option<PathBuf>,
}

/// Why a pod is not [`Whereabouts::Found`].
#[derive(Debug)]
enum Missing {
    NotYet(String),
    Unfit(String),
}

/// A pod's cgroup, before its namespaces are known.
struct Place {
    cgroup: Cgroup,
    is_shared: bool,
    /// Where its processes, and nobody else's, are listed.
    processes: Option<PathBuf>,
}

impl Locator {
    /// With the root of the cgroup v2 hierarchy, as [`crate::pod::cgroup_root`] finds it.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self {
            root,
            shared_cgroup: None,
        }
    }

    /// With the cgroup of pods that have none of their own in v2, because their kubelet uses
    /// version 1: the one that the container runtime leaves their processes in, for instance
    /// `system.slice/containerd.service`; relative to the root or absolute. It may hold the agent
    /// too, but is not to be the root.
    #[must_use]
    pub fn with_shared_cgroup(mut self, cgroup: Option<PathBuf>) -> Self {
        self.shared_cgroup = cgroup;
        self
    }

    /// Whether a cgroup is another one or below it; both relative to the root of the hierarchy
    /// or absolute.
    #[must_use]
    pub fn is_below(&self, cgroup: &Path, above: &Path) -> bool {
        self.root.join(cgroup).starts_with(self.root.join(above))
    }

    /// Reads the hierarchy: once a pass, for all pods.
    ///
    /// # Errors
    /// Where its root can't be read.
    pub fn index(&self) -> Result<Index> {
        Index::read(&self.root, self.shared_cgroup.is_some())
    }

    /// Finds a pod that a source speaks of.
    ///
    /// The cgroup is the one that the source names, else the one that the kubelet named after the
    /// pod's UID, else the shared one. The network namespace is the one that the source names, else
    /// that of the pod's oldest process, else `netns_hint`, for a pod that has no process yet. In
    /// that case the sidecar's user is taken to be UID 1500 itself: it has to be looked for again
    /// once the pod has a process.
    #[must_use]
    pub fn locate(&self, spec: &PodSpec, index: &Index, netns_hint: Option<&Path>) -> Whereabouts {
        self.find(spec, index, netns_hint).into()
    }

    /// Finds a pod that only the kernel's record knows: by the id of its cgroup and the cookie of
    /// its network namespace.
    #[must_use]
    pub fn locate_known(
        &self,
        name: &str,
        cgroup_id: u64,
        netns_cookie: u64,
        index: &Index,
    ) -> Whereabouts {
        self.find_known(name, cgroup_id, netns_cookie, index).into()
    }

    fn find(&self, spec: &PodSpec, index: &Index, hint: Option<&Path>) -> Result<Pod, Missing> {
        let place = self.place(spec, index)?;
        let given = spec.netns.as_deref().map(open_netns).transpose()?;
        let members = place.processes.as_deref().map(members).transpose()?;
        let members = members.filter(|it| !it.is_empty());
        let (netns, member) = match (given, members) {
            (Some(netns), Some(members)) => {
                let inode = netns.inode().map_err(unfit)?;
                let member = members.in_netns(inode);
                if member.is_none() {
                    return Err(not_of_one_pod(&place, &netns));
                }
                (netns, member)
            }
            (Some(netns), None) => (netns, None),
            (None, Some(members)) => {
                let member = members.first().ok_or_else(nobody)?;
                (netns_of(&member)?, Some(member))
            }
            (None, None) => (open_netns(hint.ok_or_else(nobody)?)?, None),
        };
        if place.is_shared {
            check_shared(&place, &netns, member.as_ref())?;
        }
        let pod = pod(&spec.name, place, netns, member.as_ref())?;
        let sidecar = sidecar::cgroup(spec.sidecar.as_ref(), &pod.cgroup, &self.root);
        Ok(Pod {
            sidecar_cgroup: sidecar.map_err(unfit)?,
            ..pod
        })
    }

    fn place(&self, spec: &PodSpec, index: &Index) -> Result<Place, Missing> {
        if let Some(path) = &spec.cgroup {
            return self.own(path, index);
        }
        let Some(uid) = &spec.uid else {
            return Err(Missing::Unfit(
                "neither its UID nor its cgroup is known: one of them has to be given".into(),
            ));
        };
        match index.directory(uid) {
            Directory::One(path) => self.own(path, index),
            Directory::Many(one, other) => Err(Missing::Unfit(format!(
                "two cgroups have the name of its UID {uid}, {} and {}: remove the one that is \
                 not the kubelet's",
                one.display(),
                other.display()
            ))),
            Directory::None => match &self.shared_cgroup {
                Some(shared) => Ok(Place {
                    cgroup: Cgroup::open_unless(shared, &self.root, &index.roots).map_err(unfit)?,
                    is_shared: true,
                    processes: index.legacy(uid).map(Path::to_owned),
                }),
                None => Err(Missing::NotYet(format!(
                    "no cgroup below {} has the name of its UID {uid}",
                    self.root.display()
                ))),
            },
        }
    }

    fn own(&self, path: &Path, index: &Index) -> Result<Place, Missing> {
        let path = self.root.join(path);
        if is_absent(&path) {
            let path = path.display();
            return Err(Missing::NotYet(format!("its cgroup {path} does not exist")));
        }
        let cgroup = Cgroup::open_unless(&path, &self.root, &index.guarded).map_err(unfit)?;
        Ok(Place {
            processes: Some(cgroup.path().to_owned()),
            cgroup,
            is_shared: false,
        })
    }

    fn find_known(
        &self,
        name: &str,
        cgroup_id: u64,
        netns_cookie: u64,
        index: &Index,
    ) -> Result<Pod, Missing> {
        let path = index.path_of(cgroup_id).ok_or_else(|| {
            Missing::NotYet(format!("its cgroup, of id {cgroup_id}, does not exist"))
        })?;
        let place = match self.shared_place(cgroup_id, index) {
            Some(shared) => shared,
            None => self.own(path, index)?,
        };
        for member in members(place.cgroup.path())?.of_each_netns() {
            // What is no pod's is not the one that is looked for.
            let Ok(netns) = netns_of(&member) else {
                continue;
            };
            if netns.cookie().map_err(unfit)? == netns_cookie {
                return pod(name, place, netns, Some(&member));
            }
        }
        Err(Missing::NotYet(format!(
            "no process of its cgroup {} is in its network namespace, of cookie {netns_cookie}",
            place.cgroup.path().display()
        )))
    }

    /// The shared cgroup, if that is the one with this id.
    fn shared_place(&self, cgroup_id: u64, index: &Index) -> Option<Place> {
        let cgroup =
            Cgroup::open_unless(self.shared_cgroup.as_ref()?, &self.root, &index.roots).ok()?;
        (cgroup.id().ok()? == cgroup_id).then_some(Place {
            cgroup,
            is_shared: true,
            processes: None,
        })
    }
}

/// Puts together what was found.
fn pod(name: &str, place: Place, netns: Netns, member: Option<&Member>) -> Result<Pod, Missing> {
    if !netns.has_address() {
        return Err(Missing::NotYet(format!(
            "its network namespace {} has no address besides loopback",
            netns.path().display()
        )));
    }
    let sidecar_uid = match member {
        Some(member) => sidecar_uid(member)?,
        None => SIDECAR_UID,
    };
    let pod = Pod::unchecked(Some(name.into()), netns, place.cgroup, Vec::new()).map_err(unfit)?;
    Ok(Pod {
        shares_cgroup: place.is_shared,
        sidecar_uid,
        ..pod
    })
}

fn members(cgroup: &Path) -> Result<Members, Missing> {
    let found = Members::of(cgroup).map_err(|error| {
        Missing::Unfit(format!(
            "the processes of {} can't be looked at: {error}",
            cgroup.display()
        ))
    })?;
    match found {
        Search::Members(members) => Ok(members),
        Search::Unseen(why) => Err(Missing::Unfit(why)),
    }
}

/// A pod that shares its cgroup is in it, or no program there would see it.
fn check_shared(place: &Place, netns: &Netns, member: Option<&Member>) -> Result<(), Missing> {
    let Some(member) = member else {
        return check_same_pod(netns, &place.cgroup).map_err(unfit);
    };
    let shared = place.cgroup.processes().unwrap_or_default();
    if shared.contains(&member.pid()) {
        return Ok(());
    }
    Err(Missing::Unfit(format!(
        "its process {} is not in the shared cgroup {}: give the one that the container runtime \
         leaves pods in",
        member.pid(),
        place.cgroup.path().display()
    )))
}

fn sidecar_uid(member: &Member) -> Result<u32, Missing> {
    let pid = member.pid();
    let map = member
        .uid_map()
        .map_err(|error| gone_or_unfit(&error, pid))?;
    match users::sidecar(&map) {
        Sidecar::Is(uid) => Ok(uid),
        Sidecar::NotYet => Err(Missing::NotYet(format!(
            "the user namespace of its process {pid} has no users yet"
        ))),
        Sidecar::Missing => Err(Missing::Unfit(format!(
            "its user namespace has no UID {SIDECAR_UID}, the sidecar's (/proc/{pid}/uid_map): \
             give the pod a range of users that holds it"
        ))),
    }
}

fn netns_of(member: &Member) -> Result<Netns, Missing> {
    let pid = member.pid();
    if member.is_in_the_node_s() && member.age() < STARTING {
        return Err(Missing::NotYet(format!(
            "its process {pid} has just started, and is in the node's network namespace"
        )));
    }
    let file: File = member
        .netns
        .try_clone()
        .map_err(|error| gone_or_unfit(&error, pid))?;
    Netns::of(file, &member.netns_path()).map_err(unfit)
}

fn open_netns(path: &Path) -> Result<Netns, Missing> {
    if is_absent(path) {
        let path = path.display();
        return Err(Missing::NotYet(format!(
            "its network namespace {path} does not exist"
        )));
    }
    Netns::open(path).map_err(unfit)
}

fn is_absent(path: &Path) -> bool {
    path.metadata()
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn nobody() -> Missing {
    Missing::NotYet("it has no process yet".into())
}

fn not_of_one_pod(place: &Place, netns: &Netns) -> Missing {
    Missing::Unfit(format!(
        "none of the processes in {} is in the network namespace {}: give the cgroup and the \
         network namespace of the same pod",
        place.cgroup.path().display(),
        netns.path().display()
    ))
}

fn gone_or_unfit(error: &io::Error, pid: i32) -> Missing {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => nobody(),
        _ => Missing::Unfit(format!("its process {pid} can't be looked into: {error}")),
    }
}

/// In the words of a command, without the flag that nobody gave here.
#[expect(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn unfit(error: Error) -> Missing {
    let text = error.to_string();
    let flags = ["--netns ", "--cgroup "];
    let bare = flags.iter().find_map(|flag| text.strip_prefix(flag));
    Missing::Unfit(bare.unwrap_or(&text).to_owned())
}

impl From<Result<Pod, Missing>> for Whereabouts {
    fn from(found: Result<Pod, Missing>) -> Self {
        match found {
            Ok(pod) => Self::Found(pod),
            Err(Missing::NotYet(what)) => Self::NotYet(what),
            Err(Missing::Unfit(why)) => Self::Unfit(why),
        }
    }
}
