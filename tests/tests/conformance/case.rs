//! Random policies, and connections that fall at their edges.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use osm_agent::config::Lists;
use proptest::{collection::vec, prelude::*, sample::select};

/// How many connections are made under each policy.
pub const CONNECTIONS: usize = 20;

/// Remote hosts: each of them answers on all of [`PORTS`].
pub const REMOTE: [&str; 6] = [
    "198.51.100.10",
    "198.51.100.11",
    "203.0.113.7",
    "192.0.2.20",
    "2001:db8::10",
    "2001:db8::11",
];
/// The pod's own addresses.
pub const POD: [&str; 2] = ["10.77.1.2", "fd77:1::2"];
/// The ports that are dialled.
pub const PORTS: [u16; 14] = [
    1, 80, 81, 443, 8080, 15000, 15001, 15003, 15010, 15011, 15901, 15904, 65534, 65535,
];

/// A policy, and connections under it.
#[derive(Clone, Debug)]
pub struct Case {
    pub policy: Policy,
    pub connections: Vec<Connection>,
}

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub lists: Lists,
    pub dual: bool,
    pub pod_ip: bool,
    /// Whether the sidecar is known by its cgroup too.
    pub by_cgroup: bool,
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    App,
    Sidecar,
    /// An application that runs as the sidecar's user.
    Stranger,
    Outside,
}

/// A connection to be made.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub who: Who,
    pub to: SocketAddr,
    /// From an IPv6 socket, also to IPv4.
    pub v6_socket: bool,
}

/// Any case.
pub fn any() -> impl Strategy<Value = Case> {
    (policy(), vec(connection(), 1..=CONNECTIONS)).prop_map(|(policy, connections)| Case {
        policy,
        connections,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let ports = || vec(select(PORTS.to_vec()), 0..4);
    let lists = (vec(range(), 0..5), vec(range(), 0..4), ports(), ports());
    (lists, any_bool(3), any_bool(4), any_bool(2)).prop_map(
        |((excluded, included, outbound, inbound), dual, pod_ip, by_cgroup)| Policy {
            lists: Lists {
                outbound_ranges_excluded: excluded.into_iter().collect(),
                outbound_ranges_included: included.into_iter().collect(),
                outbound_ports_excluded: outbound.into_iter().collect(),
                inbound_ports_excluded: inbound.into_iter().collect(),
            },
            dual,
            pod_ip,
            by_cgroup,
        },
    )
}

/// True once in so many times.
fn any_bool(times: u32) -> impl Strategy<Value = bool> {
    prop_oneof![times - 1 => Just(false), 1 => Just(true)]
}

/// A range around a host that is dialled, of any length, or one that is beside it.
fn range() -> impl Strategy<Value = IpNet> {
    let hosts: Vec<IpAddr> = REMOTE.iter().chain(&POD).map(|host| ip(host)).collect();
    (select(hosts), 0..=128_u8, any_bool(4)).prop_map(|(host, length, beside)| {
        let (most, length) = match host {
            IpAddr::V4(_) => (32, length % 33),
            IpAddr::V6(_) => (128, length),
        };
        let net = IpNet::new(host, length)
            .expect("a length of that family")
            .trunc();
        if !beside || length == 0 {
            return net;
        }
        // The neighbour of the same length: one bit differs.
        let bit = most - length;
        let address = match net.network() {
            IpAddr::V4(v4) => IpAddr::from((u32::from(v4) ^ (1 << bit)).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from((u128::from(v6) ^ (1 << bit)).to_be_bytes()),
        };
        IpNet::new(address, length)
            .expect("a length of that family")
            .trunc()
    })
}

fn connection() -> impl Strategy<Value = Connection> {
    let inside = (
        select(vec![Who::App, Who::App, Who::Sidecar, Who::Stranger]),
        prop_oneof![
            4 => select(REMOTE.to_vec()),
            1 => select(POD.to_vec()),
            1 => select(vec!["127.0.0.1", "127.0.0.1", "127.0.0.2", "::1"]),
        ],
    );
    let outside = (Just(Who::Outside), select(POD.to_vec()));
    let from_and_to = prop_oneof![3 => inside, 1 => outside];
    (from_and_to, select(PORTS.to_vec()), proptest::bool::ANY).prop_map(|((who, to), port, v6)| {
        Connection {
            who,
            to: SocketAddr::new(ip(to), port),
            v6_socket: v6,
        }
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of this file")
}
