//! Pods of a network namespace and a cgroup, and nothing else until somebody asks.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use osm_agent::pod::{self, Pod};
use osm_tests::{APP_UID, Accepted, Actor, Cgroup, Client, Dial, Netns, SIDECAR_UID, actor::Place};

/// What the application dials. Nobody is there.
pub const DIALLED: &str = "198.51.100.10:80";

/// How long the application waits for what does not answer.
const NOBODY: Duration = Duration::from_millis(300);

/// A pod.
pub struct Bare {
    pub netns: Netns,
    pub cgroup: Cgroup,
    pub address: Ipv4Addr,
}

impl Bare {
    /// One with an address that goes by its number.
    pub fn new(number: u16) -> Self {
        let netns = Netns::new();
        let [high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(10, 99, high, low);
        netns.ip(&[
            // iptables leaves alone what goes by `lo`.
            "link add eth0 type veth peer name eth1".into(),
            format!("addr add {address}/32 dev eth0"),
            "link set eth0 up".into(),
            "link set eth1 up".into(),
            "route add default dev eth0".into(),
            // The sidecar is told at once that nobody is there.
            format!("rule add uidrange {SIDECAR_UID}-{SIDECAR_UID} to 198.51.100.0/24 unreachable"),
        ]);
        Self {
            netns,
            cgroup: Cgroup::new(),
            address,
        }
    }

    /// As the agent knows it.
    pub fn open(&self) -> Result<Pod> {
        let root = pod::cgroup_root()?;
        let netns = pod::Netns::open(&self.netns.path())?;
        let cgroup = pod::Cgroup::open(self.cgroup.path(), &root)?;
        Ok(Pod::new(None, netns, cgroup, Vec::new())?)
    }

    fn place(&self, uid: u32) -> Place<'_> {
        Place {
            netns: &self.netns,
            cgroup: Some(&self.cgroup),
            uid: Some(uid),
        }
    }

    /// Makes a real connection, and holds what application and sidecar saw of it against what
    /// they should have.
    pub fn prove_intercepted(&self) -> Result<()> {
        let seen = self
            .dial(DIALLED)?
            .context("the sidecar got no connection")?;
        let destination = seen
            .original_destination
            .map_err(|error| anyhow::anyhow!("no original destination: {error}"))?;
        ensure!(
            destination.to_string() == DIALLED && seen.peer.ip() == self.address,
            "the sidecar was told {destination}, from {}",
            seen.peer
        );
        Ok(())
    }

    /// Makes a connection to an excluded port, which the sidecar must not get.
    pub fn prove_excluded(&self, port: u16) -> Result<()> {
        let seen = self.dial(&format!("198.51.100.10:{port}"))?;
        ensure!(seen.is_none(), "the sidecar got what is excluded: {seen:?}");
        Ok(())
    }

    fn dial(&self, to: &str) -> Result<Option<Accepted>> {
        let mut sidecar = Actor::start("sidecar", &self.place(SIDECAR_UID), &["sidecar"]);
        let mut app = Client::start("app", &self.place(APP_UID));
        let connection = app.connect(Dial::to(to).timeout(NOBODY));
        if !connection.connected {
            return Ok(None);
        }
        Ok(Some(sidecar.next_accepted()))
    }
}
