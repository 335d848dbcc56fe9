//! Pods of a network namespace and a cgroup, and nothing else until somebody asks.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use osm_agent::{
    daemon::{
        locate::{Index, Locator, Whereabouts},
        source::PodSpec,
    },
    pod::{Pod, cgroup_root},
};
use osm_tests::{APP_UID, Accepted, Actor, Cgroup, Client, Dial, Netns, SIDECAR_UID, actor::Place};
use serde_json::{Value, json};

/// What the application dials. Nobody is there.
pub const DIALLED: &str = "198.51.100.10:80";

/// How long the application waits for what does not answer.
const NOBODY: Duration = Duration::from_millis(300);

/// A pod.
pub struct Bare {
    pub netns: Netns,
    pub cgroup: Cgroup,
    pub address: Ipv4Addr,
    netns_path: PathBuf,
}

impl Bare {
    /// One with an address that goes by its number.
    pub fn new(number: u16) -> Self {
        let netns = Netns::new();
        let [high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(10, 99, high, low);
        netns.ip(&[
            // iptables leaves alone what goes by `lo`.
            "link add eth0 type veth peer name eth1".to_owned(),
            format!("addr add {address}/32 dev eth0"),
            "link set eth0 up".into(),
            "link set eth1 up".into(),
            "route add default dev eth0".into(),
            // The sidecar is told at once that nobody is there.
            format!("rule add uidrange {SIDECAR_UID}-{SIDECAR_UID} to 198.51.100.0/24 unreachable"),
        ]);
        Self {
            netns_path: netns.path(),
            netns,
            cgroup: Cgroup::new(),
            address,
        }
    }

    /// So many of them, numbered from 1.
    pub fn many(count: usize) -> Result<Vec<Self>> {
        let count = u16::try_from(count)?;
        Ok((1..=count).map(Self::new).collect())
    }

    /// Where a process of a user lives.
    pub fn place(&self, uid: u32) -> Place<'_> {
        Place {
            netns: &self.netns,
            cgroup: Some(&self.cgroup),
            uid: Some(uid),
        }
    }

    /// What a file says of it that the agent reads.
    pub fn file(&self, number: usize) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": format!("bare-{number}"), "namespace": "bench" },
            "osm": { "netns": self.netns_path, "cgroup": self.cgroup.path() },
        })
    }

    /// Makes a real connection, and holds what application and sidecar saw of it against what
    /// they should have.
    pub fn prove_intercepted(&self) -> Result<()> {
        let seen = self.dial(DIALLED);
        let seen = seen.with_context(|| format!("{} is not intercepted", self.address))?;
        let destination = seen
            .original_destination
            .map_err(|error| anyhow!("no original destination: {error}"))?;
        ensure!(
            destination.to_string() == DIALLED && seen.peer.ip() == self.address,
            "the sidecar was told {destination}, from {}",
            seen.peer
        );
        Ok(())
    }

    /// Makes a connection to an excluded port, which the sidecar must not get.
    pub fn prove_excluded(&self, port: u16) -> Result<()> {
        let seen = self.dial(&format!("198.51.100.10:{port}"));
        ensure!(seen.is_none(), "the sidecar got what is excluded: {seen:?}");
        Ok(())
    }

    fn dial(&self, to: &str) -> Option<Accepted> {
        let mut sidecar = Actor::start("sidecar", &self.place(SIDECAR_UID), &["sidecar"]);
        let mut app = Client::start("app", &self.place(APP_UID));
        let connection = app.connect(Dial::to(to).timeout(NOBODY));
        connection.connected.then(|| sidecar.next_accepted())
    }
}

/// Finds pods as the agent does.
pub struct Finder {
    locator: Locator,
    index: Index,
}

impl Finder {
    /// One that knows the cgroups that are there now.
    pub fn new() -> Result<Self> {
        let locator = Locator::new(cgroup_root()?);
        let index = locator.index()?;
        Ok(Self { locator, index })
    }

    /// The pod as the agent knows it.
    pub fn find(&self, bare: &Bare) -> Result<Pod> {
        let spec = PodSpec {
            netns: Some(bare.netns_path.clone()),
            cgroup: Some(bare.cgroup.path().to_owned()),
            ..PodSpec::in_mesh(format!("bench/{}", bare.address), None)
        };
        match self.locator.locate(&spec, &self.index, None) {
            Whereabouts::Found(pod) => Ok(pod),
            Whereabouts::NotYet(why) | Whereabouts::Unfit(why) => bail!("{}: {why}", bare.address),
        }
    }

    /// The same for many.
    pub fn find_all(&self, bare: &[Bare]) -> Result<Vec<Pod>> {
        bare.iter().map(|bare| self.find(bare)).collect()
    }
}
