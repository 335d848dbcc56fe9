//! Three worlds alike, each intercepted by other means.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use osm_tests::{Actor, Client, Dial, SIDECAR_UID, canonical};

use super::{
    case::{Connection, PORTS, Policy, Who},
    mesh::{Backend, Mesh},
};

/// Where clients outside connect from.
pub const OUTSIDE: [&str; 2] = ["192.0.2.20", "2001:db8::11"];

/// Where a connection landed, and what both ends see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landing {
    At {
        /// Who answered.
        role: String,
        /// The address it was reached at; the sidecar's own depends on the means.
        server: Option<SocketAddr>,
        /// The original destination, as the sidecar is told it.
        original: Option<SocketAddr>,
        /// The client's address, as the server and as the client itself see it.
        client: IpAddr,
        /// What the client believes to be connected to.
        dialled: SocketAddr,
    },
    /// Something else: in words.
    Otherwise(String),
}

/// The three worlds.
pub struct Scene {
    places: [Place; 3],
}

struct Place {
    // Processes go before their world.
    clients: RefCell<[Client; 4]>,
    _servers: [Actor; 4],
    mesh: Mesh,
}

impl Scene {
    /// None where the test has to be skipped.
    pub fn new() -> Option<Self> {
        Some(Self {
            places: [
                Place::new(Backend::Ebpf)?,
                Place::new(Backend::Legacy)?,
                Place::new(Backend::Nft)?,
            ],
        })
    }

    /// Puts a policy in force everywhere.
    pub fn put_in_force(&self, policy: &Policy) {
        for place in &self.places {
            place.put_in_force(policy);
        }
    }

    /// Makes a connection everywhere.
    pub fn connect(&self, connection: &Connection) -> impl Iterator<Item = (Backend, Landing)> {
        self.places
            .iter()
            .map(|place| (place.mesh.backend, place.connect(connection)))
    }
}

impl Place {
    fn new(backend: Backend) -> Option<Self> {
        let mesh = Mesh::by(backend)?;
        let pod = &mesh.world.pod;
        let on = |ports: &[u16]| -> Vec<String> {
            ports
                .iter()
                .flat_map(|port| [format!("0.0.0.0:{port}"), format!("[::]:{port},v6only")])
                .collect()
        };
        let app_ports: Vec<u16> = PORTS
            .into_iter()
            .filter(|port| ![15001, 15003].contains(port))
            .collect();
        let [all, local] = [on(&PORTS), on(&app_ports)];
        let [all, local] =
            [&all, &local].map(|it| it.iter().map(String::as_str).collect::<Vec<_>>());
        let sidecar = |role: &str, port: u16| {
            let listen = on(&[port]);
            let args = [
                "serve", "--quiet", "--role", role, "--listen", &listen[0], "--listen", &listen[1],
            ];
            Actor::start(role, &pod.place(SIDECAR_UID), &args)
        };
        Some(Self {
            _servers: [
                mesh.world.outside.server("remote", &all),
                pod.server("local", &local),
                sidecar("outbound", 15001),
                sidecar("inbound", 15003),
            ],
            clients: RefCell::new([
                pod.app(),
                pod.sidecar_client(),
                pod.stranger(),
                mesh.world.outside.client(),
            ]),
            mesh,
        })
    }

    fn put_in_force(&self, policy: &Policy) {
        let lists = &policy.lists;
        let mut attach = self.mesh.attach_without_lists();
        for (name, value) in [
            (
                "outbound-ip-range-exclusion-list",
                joined(&lists.outbound_ranges_excluded),
            ),
            (
                "outbound-ip-range-inclusion-list",
                joined(&lists.outbound_ranges_included),
            ),
            (
                "outbound-port-exclusion-list",
                joined(&lists.outbound_ports_excluded),
            ),
            (
                "inbound-port-exclusion-list",
                joined(&lists.inbound_ports_excluded),
            ),
        ] {
            if !value.is_empty() {
                attach = attach.annotation(&format!("openservicemesh.io/{name}"), &value);
            }
        }
        if policy.dual {
            attach = attach.option("--ip-families", "dual");
        }
        let mode = if policy.pod_ip { "PodIP" } else { "Localhost" };
        let identity = if policy.by_cgroup {
            "uid-and-cgroup"
        } else {
            "uid"
        };
        attach = attach
            .option(
                "--sidecar-cgroup",
                self.mesh.world.pod.sidecar_cgroup().path(),
            )
            .config(&format!(
                "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
                 spec: {{sidecar: {{localProxyMode: {mode}, identity: {identity}}}}}\n",
            ));
        let _ = attach.run().succeeded();
    }

    fn connect(&self, wanted: &Connection) -> Landing {
        let mut dial = Dial::from(wanted.to);
        if wanted.v6_socket && wanted.who != Who::Outside {
            dial = dial.v6();
        }
        let [app, sidecar, stranger, outside] = &mut *self.clients.borrow_mut();
        let client = match wanted.who {
            Who::App => app,
            Who::Sidecar => sidecar,
            Who::Stranger => stranger,
            Who::Outside => {
                let from = OUTSIDE[usize::from(wanted.to.is_ipv6())]
                    .parse()
                    .expect("an address");
                dial.bind = Some(SocketAddr::new(from, 0));
                outside
            }
        };
        let made = client.connect(dial);
        client.reset(made.id);
        let (Some(greeting), Some(peer), Some(local)) = (&made.greeting, made.peer, made.local)
        else {
            return Landing::Otherwise(format!("{:?} {:?}", made.error, made.greeting_error));
        };
        let (local, server) = (canonical(local), canonical(greeting.peer));
        // iptables translates a source port that another redirected connection has, or had
        // until lately; see `differences.rs`.
        let may_differ = self.mesh.backend != Backend::Ebpf;
        if local.ip() != server.ip() || (local.port() != server.port() && !may_differ) {
            return Landing::Otherwise(format!("the client is {local}, the server sees {server}"));
        }
        let reached = canonical(greeting.local);
        let by_sidecar = ["outbound", "inbound"].contains(&greeting.role.as_str());
        let original = greeting.original.map_or(reached, canonical);
        Landing::At {
            role: greeting.role.clone(),
            server: (!by_sidecar).then_some(reached),
            original: by_sidecar.then_some(original),
            client: local.ip(),
            dialled: canonical(peer),
        }
    }
}

/// As annotations have it.
fn joined<T: ToString>(items: &BTreeSet<T>) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(",")
}
