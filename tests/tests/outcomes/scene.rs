//! An attached pod, and what is dialled there.

use std::net::IpAddr;

use osm_tests::{Actor, Dial, Need, missing};

use super::mesh::{Backend, Lists, Mesh};

/// Which addresses are dialled, from which kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    V4,
    Mapped,
    V6,
}

/// An attached pod, and the addresses of its world.
pub struct Scene {
    pub mesh: Mesh,
    kind: Kind,
    /// Two remote hosts.
    pub remote: [&'static str; 2],
    /// The pod's own address.
    pub pod: &'static str,
    pub localhost: &'static str,
}

impl Scene {
    /// None where the test has to be skipped.
    pub fn new(backend: Backend, kind: Kind) -> Option<Self> {
        Self::with_lists(backend, kind, &Lists::default())
    }

    pub fn with_lists(backend: Backend, kind: Kind, lists: &Lists<'_>) -> Option<Self> {
        if kind == Kind::V6 && missing(&[Need::Ipv6]) {
            return None;
        }
        let mesh = Mesh::by(backend)?;
        let (mesh, remote, pod, localhost) = if kind == Kind::V6 {
            let mesh = mesh.with_flag("--ip-families", "dual");
            (
                mesh,
                ["[2001:db8::10]", "[2001:db8::11]"],
                "[fd77:1::2]",
                "[::1]",
            )
        } else {
            (
                mesh,
                ["198.51.100.10", "198.51.100.11"],
                "10.77.1.2",
                "127.0.0.1",
            )
        };
        let _ = mesh.attach(lists).succeeded();
        Some(Self {
            mesh,
            kind,
            remote,
            pod,
            localhost,
        })
    }

    pub fn dial(&self, to: &str) -> Dial {
        match self.kind {
            Kind::Mapped => Dial::to(to).v6(),
            Kind::V4 | Kind::V6 => Dial::to(to),
        }
    }

    /// The pod's address as a connection's source.
    pub fn own(&self) -> IpAddr {
        if self.kind == Kind::V6 {
            self.mesh.world.pod.ip6()
        } else {
            self.mesh.world.pod.ip4()
        }
    }

    pub fn sidecar(&self) -> Actor {
        let both = ["--outbound", "[::]:15001", "--inbound", "[::]:15003"];
        let flags: &[&str] = if self.kind == Kind::V6 { &both } else { &[] };
        self.mesh.world.pod.sidecar_with(flags)
    }

    /// A server outside on these ports of both remote hosts.
    pub fn remote(&self, ports: &[u16]) -> Actor {
        serve(&self.remote, ports, |listen| {
            self.mesh.world.outside.server("remote", listen)
        })
    }

    /// A server in the pod, on these ports of all its addresses; some may be for the sidecar alone.
    pub fn local(&self, ports: &[u16]) -> Actor {
        serve(&["[::]"], ports, |listen| {
            self.mesh.world.pod.sidecar_server("local", listen)
        })
    }
}

fn serve(hosts: &[&str], ports: &[u16], start: impl FnOnce(&[&str]) -> Actor) -> Actor {
    let listen: Vec<_> = hosts
        .iter()
        .flat_map(|host| ports.iter().map(move |port| format!("{host}:{port}")))
        .collect();
    start(&listen.iter().map(String::as_str).collect::<Vec<_>>())
}
