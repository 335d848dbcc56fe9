//! The node: pods under load, an outside, and an agent.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use osm_agent::{config::Lists, ebpf::view::View};
use osm_tests::{APP_UID, Actor, Need, Node, Pod, SIDECAR_UID, World, actor::Place, missing};

use crate::{
    lists::{PORTS, REMOTE},
    possible::Possible,
};

/// A node with pods that are not in the mesh yet.
pub struct Scene {
    pub node: Node,
    // Processes go before the pods that they are in.
    _servers: Vec<Actor>,
    pub pods: Vec<PodUnderLoad>,
    pub world: World,
}

/// A pod whose connections are looked at.
pub struct PodUnderLoad {
    pub told: Mutex<Told>,
    pub possible: Possible,
    pub pod: Pod,
}

/// What somebody has told of a pod.
#[derive(Default)]
pub struct Told {
    /// It is wanted in the mesh.
    pub is_member: bool,
    /// The lists of its annotations.
    pub lists: Lists,
    /// None while it does not run.
    pub sidecar: Option<Actor>,
}

impl Scene {
    /// None where the test has to be skipped.
    pub fn new(count: usize) -> Option<Self> {
        if missing(&[Need::Ipv6]) {
            return None;
        }
        let world = World::new()?;
        // What went wrong is mended within a second.
        let node = Node::new()?
            .flag("--resync", "1")
            .flag("--ip-families", "dual");
        let pods: Vec<_> = (0..count)
            .map(|_| PodUnderLoad::new(world.add_pod()))
            .collect();
        let mut servers = vec![direct(&world.outside.place(), &REMOTE.map(parsed))];
        for pod in &pods {
            let own = [pod.pod.ip4(), pod.pod.ip6()];
            servers.push(direct(&pod.pod.place(APP_UID), &own));
        }
        Some(Self {
            _servers: servers,
            pods,
            node,
            world,
        })
    }

    /// All pods leave, and nothing is left.
    pub fn end(mut self) {
        let state = self.node.state().path().to_owned();
        for pod in &self.pods {
            self.node.remove_pod_if_there(&pod.pod);
        }
        self.node.wait("all pods are withdrawn", |_| {
            let view = View::open(&state).expect("it can be read");
            view.is_none_or(|view| view.known().expect("it can be read").is_empty())
        });
        let _ = self.node.stop();
        let _ = self.node.agent().ask_all(&["cleanup"]).succeeded();
        assert!(self.node.state().pins().is_empty(), "something is left");
    }
}

impl PodUnderLoad {
    fn new(pod: Pod) -> Self {
        let this = Self {
            possible: Possible::new([pod.ip4(), pod.ip6()]),
            told: Mutex::default(),
            pod,
        };
        this.told().sidecar = Some(this.sidecar());
        this
    }

    /// A sidecar that says what it was told.
    pub fn sidecar(&self) -> Actor {
        let on =
            [15001, 15003].map(|port| [format!("0.0.0.0:{port}"), format!("[::]:{port},v6only")]);
        let on: Vec<&str> = on.iter().flatten().map(String::as_str).collect();
        quiet("sidecar", &self.pod.place(SIDECAR_UID), &on)
    }

    /// What was told of it.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is dialled, at all of these addresses and on all ports.
fn direct(place: &Place<'_>, addresses: &[IpAddr]) -> Actor {
    let on: Vec<String> = addresses
        .iter()
        .flat_map(|address| PORTS.map(|port| SocketAddr::new(*address, port).to_string()))
        .collect();
    let on: Vec<&str> = on.iter().map(String::as_str).collect();
    quiet("direct", place, &on)
}

fn quiet(role: &str, place: &Place<'_>, on: &[&str]) -> Actor {
    let mut args = vec!["serve", "--quiet", "--role", role];
    for address in on {
        args.extend(["--listen", address]);
    }
    Actor::start(role, place, &args)
}

fn parsed(address: &str) -> IpAddr {
    address.parse().expect("an address")
}
