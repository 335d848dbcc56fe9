//! The network namespace that rules are written into.

use std::{fmt, fs::File, io, net::IpAddr, path::Path};

use crate::{
    error::{Error, Result, Tried as _},
    pod::{self, Netns},
};

/// Settings of the whole machine, which the kernel shows in the initial network namespace
/// only (`net/core/sysctl_net_core.c`), and one that it shows in all.
const ONLY_INITIAL: &str = "/proc/sys/net/core/netdev_budget";
const EVERYWHERE: &str = "/proc/sys/net/core/somaxconn";

/// A namespace that may be written into.
#[derive(Debug)]
pub struct Target<'a>(Where<'a>);

#[derive(Debug)]
enum Where<'a> {
    Own,
    Of(&'a Netns),
}

impl<'a> Target<'a> {
    /// The namespace of this process, as an init container has it to itself with its pod.
    ///
    /// # Errors
    /// Where it is the machine's: rules there would take the node off the network.
    pub fn own() -> Result<Self> {
        // Neither the cookie nor, before Linux 6.18, the inode of the initial namespace is a
        // known number, and process 1 of a container is in the pod's.
        if !Path::new(EVERYWHERE).exists() {
            return Err(Error::input(
                "the network namespace of this process",
                format!("there is no {EVERYWHERE} to tell whether it is the host's own"),
                "mount /proc, or give a pod's namespace with --netns",
            ));
        }
        if Path::new(ONLY_INITIAL).exists() {
            return Err(Error::input(
                "the network namespace of this process",
                "is the host's own",
                "rules there would take the node off the network: run it in the pod, or give the \
                 pod's namespace with --netns, and leave hostNetwork pods alone",
            ));
        }
        Ok(Self(Where::Own))
    }

    /// A pod's namespace; [`Netns::open`] has refused the host's.
    #[must_use]
    pub const fn of(netns: &'a Netns) -> Self {
        Self(Where::Of(netns))
    }

    /// The pod's addresses there: on interfaces that are up, loopback and link-local left out.
    ///
    /// # Errors
    /// Where it can't be entered or read.
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        self.enter(|| pod::own_addresses().tried(|| format!("read the addresses of {self}")))
    }

    /// Runs something in it.
    ///
    /// # Errors
    /// Where it can't be entered, and what `run` says.
    pub(super) fn enter<T: Send>(&self, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self.0 {
            // Entering takes a privilege, even where one is already.
            Where::Own => run(),
            Where::Of(netns) => {
                pod::inside(netns.file(), || Ok(run())).tried(|| format!("enter {self}"))?
            }
        }
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Where::Own => f.write_str("this network namespace"),
            Where::Of(netns) => write!(f, "the network namespace {}", netns.path().display()),
        }
    }
}

/// A file of `/proc/net`, as the namespace of the calling thread has it.
pub(super) fn proc_net(name: &str) -> io::Result<String> {
    io::read_to_string(File::open(format!("/proc/thread-self/net/{name}"))?)
}
