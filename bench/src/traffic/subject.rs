//! One pod, intercepted one way by one set of lists, with a client and a sidecar in it.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use osm_tests::{APP_UID, Agent, Pod, SIDECAR_UID, TempDir};

use super::lists::Lists;
use super::peer::{Peer, Place};
use crate::peer::{APP_PORT, Expected, INBOUND_PORT, Listener, OUTBOUND_PORT};
use crate::sample::Variant;

/// How long the agent may take to put lists in force; iptables takes long for long ones.
const PATIENCE: Duration = Duration::from_secs(45);

/// What the application dials, where something is in between: nobody serves there.
const REMOTE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 10), 80);

/// Which way connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the pod's application.
    Outbound,
    /// From outside, over a veth pair.
    Inbound,
    /// From the sidecar to the pod's application, on 127.0.0.1.
    ToApp,
}

/// A pod to measure. Fields go in this order: processes, then what they live in.
#[derive(Debug)]
pub struct Subject {
    /// How it is intercepted.
    pub variant: Variant,
    /// Its application.
    pub client: Peer,
    /// Its sidecar.
    pub sidecar: Peer,
    pod: Pod,
    address: Ipv4Addr,
}

impl Subject {
    /// Has the agent intercept the pod, and starts its processes.
    ///
    /// # Errors
    /// Where the agent fails or takes too long, or a process does not start.
    pub fn new(
        pod: Pod,
        agent: &Agent,
        program: &Path,
        (variant, lists, seed): (Variant, Lists, u64),
    ) -> Result<Self> {
        intercept(&pod, agent, variant, lists, seed)
            .with_context(|| format!("intercepting a pod by {variant} with {lists}"))?;
        let place = |uid| Place {
            netns: &pod.netns,
            cgroup: Some(match uid {
                SIDECAR_UID => pod.sidecar_cgroup(),
                _ => pod.app_cgroup(),
            }),
            uid: Some(uid),
            is_sidecar: uid == SIDECAR_UID,
        };
        let std::net::IpAddr::V4(address) = pod.ip4() else {
            bail!("a pod's IPv4 address is none");
        };
        Ok(Self {
            variant,
            client: Peer::start("the client", program, place(APP_UID))?,
            sidecar: Peer::start("the sidecar", program, place(SIDECAR_UID))?,
            address,
            pod,
        })
    }

    /// What is dialled, and what those who accept it have to see as original destination.
    #[must_use]
    pub fn route(&self, way: Way) -> (SocketAddrV4, Expected) {
        let is_direct = self.variant == Variant::Direct;
        let to = match (way, is_direct) {
            (Way::Outbound, true) => SocketAddrV4::new(Ipv4Addr::LOCALHOST, OUTBOUND_PORT),
            (Way::Outbound, false) => REMOTE,
            (Way::Inbound, true) => SocketAddrV4::new(self.address, INBOUND_PORT),
            (Way::Inbound, false) => SocketAddrV4::new(self.address, APP_PORT),
            (Way::ToApp, _) => SocketAddrV4::new(Ipv4Addr::LOCALHOST, APP_PORT),
        };
        let expect = match (way, is_direct) {
            (Way::ToApp, _) => Expected::Anything,
            (_, true) => Expected::None,
            (_, false) => Expected::Destination(to),
        };
        (to, expect)
    }

    /// How many bytes went over the pod's loopback interface so far.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn loopback_bytes(&self) -> Result<u64> {
        let table = self
            .pod
            .netns
            .run(|| fs::read_to_string("/proc/thread-self/net/dev"))
            .context("reading the counters of the pod's interfaces")?;
        received(&table, "lo").context("the pod has no loopback interface")
    }
}

/// Where connections of that way arrive.
#[must_use]
pub fn listener(way: Way) -> Listener {
    match way {
        Way::Outbound => Listener::Outbound,
        Way::Inbound => Listener::Inbound,
        Way::ToApp => Listener::App,
    }
}

/// The bytes received by an interface, from `/proc/net/dev`.
fn received(table: &str, interface: &str) -> Option<u64> {
    let counters = table.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        (name.trim() == interface).then_some(counters)
    });
    counters?.split_whitespace().next()?.parse().ok()
}

fn intercept(pod: &Pod, agent: &Agent, variant: Variant, lists: Lists, seed: u64) -> Result<()> {
    let sidecar: &[&str] = match variant {
        Variant::EbpfShortcut => &["shortcut: true"],
        _ => &[],
    };
    let mode: &[&str] = match variant {
        Variant::Direct => return Ok(()),
        Variant::Ebpf | Variant::EbpfShortcut => &["--mode", "ebpf"],
        Variant::IptablesLegacy => &["--mode", "iptables", "--iptables-backend", "legacy"],
        Variant::IptablesNft => &["--mode", "iptables", "--iptables-backend", "nft"],
    };
    let files = TempDir::new();
    let config = files.file("mesh-config.yaml", &lists.mesh_config(seed, sidecar));
    let mut args: Vec<OsString> = vec!["attach".into()];
    args.extend(mode.iter().map(OsString::from));
    args.extend(["--netns".into(), pod.netns.path().into()]);
    args.extend(["--cgroup".into(), pod.cgroup.path().into()]);
    args.extend(["--pod".into(), pod.name().into()]);
    args.extend(["--config".into(), config.into()]);
    args.extend(["--state-dir".into(), agent.state().path().into()]);
    let mut process = agent.start(&args);
    let Some(status) = process.wait(PATIENCE) else {
        bail!("osm-agent is not done after {} s", PATIENCE.as_secs());
    };
    if !status.success() {
        let (_, stderr) = process.output();
        bail!("osm-agent fails ({status}): {}", stderr.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_bytes_are_those_of_the_interface_named() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n    \
                     lo: 123 4 0 0 0 0 0 0 567 8\n  eth0: 9 1 0 0 0 0 0 0 7 1\n";
        assert_eq!(received(table, "lo"), Some(123));
        assert_eq!(received(table, "eth0"), Some(9));
        assert_eq!(received(table, "eth1"), None);
    }
}
