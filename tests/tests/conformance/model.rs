//! What `spec.md` wants, by the decision function over plain lists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use osm_agent::policy::Naive;
use osm_ebpf_common::{
    address::Address,
    decision::{self, Direction, Inbound, Outbound, Verdict},
};

use super::case::{Connection, POD, Policy, Who};
use super::mesh::Backend;
use super::scene::{Landing, OUTSIDE};

/// Where the connection lands, and what both ends see. iptables asks for the user alone.
pub fn decide(policy: &Policy, connection: &Connection, backend: Backend) -> Landing {
    let pod = Naive {
        lists: policy.lists.clone(),
        own_addresses: own().map(Address::from).to_vec(),
        dual_stack: policy.dual,
        pod_ip: policy.pod_ip,
        by_cgroup: policy.by_cgroup && backend == Backend::Ebpf,
        ..Naive::default()
    };
    let destination = Address::from(connection.to.ip());
    let port = connection.to.port();
    let verdict = if connection.who == Who::Outside {
        decision::inbound(
            &pod,
            &Inbound {
                client: outside(connection).into(),
                destination,
                port,
                interface: None,
            },
        )
    } else {
        decision::outbound(
            &pod,
            &Outbound {
                destination,
                port,
                by_sidecar: pod.is_sidecar(
                    matches!(connection.who, Who::Sidecar | Who::Stranger),
                    connection.who == Who::Sidecar,
                ),
            },
        )
    };
    match verdict {
        Verdict::Redirect(Direction::Outbound, _) => redirected("outbound", connection),
        Verdict::Redirect(Direction::Inbound, _) => redirected("inbound", connection),
        Verdict::Pass(_) => direct(connection, connection.to),
        Verdict::ToPodAddress(_) => {
            let own = own()[usize::from(connection.to.is_ipv6())];
            direct(connection, SocketAddr::new(own, port))
        }
    }
}

fn redirected(role: &str, connection: &Connection) -> Landing {
    Landing::At {
        role: role.into(),
        server: None,
        original: Some(connection.to),
        client: source(connection, connection.to),
        dialled: connection.to,
    }
}

/// It arrives at `reached`, where servers answer on all ports that are dialled; in the pod,
/// two of them are the sidecar's.
fn direct(connection: &Connection, reached: SocketAddr) -> Landing {
    let in_pod = reached.ip().is_loopback() || own().contains(&reached.ip());
    let role = match (in_pod, reached.port()) {
        (true, 15001) => return redirected("outbound", connection),
        (true, 15003) => return redirected("inbound", connection),
        (true, _) => "local",
        (false, _) => "remote",
    };
    Landing::At {
        role: role.into(),
        server: Some(reached),
        original: None,
        client: source(connection, connection.to),
        dialled: connection.to,
    }
}

/// The address that a connection comes from.
fn source(connection: &Connection, to: SocketAddr) -> IpAddr {
    if connection.who == Who::Outside {
        return outside(connection);
    }
    match to.ip() {
        IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        ip => own()[usize::from(ip.is_ipv6())],
    }
}

fn outside(connection: &Connection) -> IpAddr {
    OUTSIDE[usize::from(connection.to.is_ipv6())]
        .parse()
        .expect("an address of the outside")
}

fn own() -> [IpAddr; 2] {
    POD.map(|address| address.parse().expect("an address of the pod"))
}
