//! Random lists around what is dialled, in the ways in which they are written.

use std::{collections::BTreeSet, fmt::Display, net::SocketAddr};

use fastrand::Rng;
use ipnet::IpNet;
use osm_agent::config::Lists;

/// Who answers outside.
pub const REMOTE: [&str; 4] = [
    "198.51.100.10",
    "198.51.100.11",
    "203.0.113.7",
    "2001:db8::10",
];
/// On which ports, outside and in the pods.
pub const PORTS: [u16; 4] = [80, 81, 443, 8080];

/// Ranges that hold some of them and not others.
const RANGES: [&str; 6] = [
    "198.51.100.0/24",
    "198.51.100.10/32",
    "203.0.113.0/24",
    "192.0.2.0/24",
    "2001:db8::/32",
    "0.0.0.0/0",
];

/// Any lists; every third time, none.
pub fn any(rng: &mut Rng) -> Lists {
    if rng.u8(0..3) == 0 {
        return Lists::default();
    }
    // Everything is included where there is none.
    let included = usize::from(rng.u8(0..3) == 0);
    Lists {
        outbound_ranges_excluded: ranges(rng, 2, 5),
        outbound_ranges_included: ranges(rng, included, 6),
        outbound_ports_excluded: ports(rng),
        inbound_ports_excluded: ports(rng),
    }
}

/// A destination outside.
pub fn remote(rng: &mut Rng) -> SocketAddr {
    let address = REMOTE[rng.usize(..REMOTE.len())];
    let address = address.parse().expect("an address of this file");
    SocketAddr::new(address, port(rng))
}

/// A port on which somebody answers.
pub fn port(rng: &mut Rng) -> u16 {
    PORTS[rng.usize(..PORTS.len())]
}

fn ranges(rng: &mut Rng, most: usize, of: usize) -> BTreeSet<IpNet> {
    let count = rng.usize(..=most);
    let range = |_| {
        RANGES[rng.usize(..of)]
            .parse()
            .expect("a range of this file")
    };
    (0..count).map(range).collect()
}

fn ports(rng: &mut Rng) -> BTreeSet<u16> {
    (0..rng.usize(..3)).map(|_| port(rng)).collect()
}

/// As a MeshConfig has them: the `spec`, in YAML's flow style.
pub fn spec(lists: &Lists) -> String {
    let fields = fields(lists).map(|(name, value)| format!("{name}: [{value}]"));
    format!("{{traffic: {{{}}}}}", fields.join(", "))
}

/// As a pod has them: annotations without their prefix.
pub fn annotations(lists: &Lists) -> Vec<(&'static str, String)> {
    let names = [
        "outbound-ip-range-exclusion-list",
        "outbound-ip-range-inclusion-list",
        "outbound-port-exclusion-list",
        "inbound-port-exclusion-list",
    ];
    let values = fields(lists).map(|(_, value)| value.replace('\'', ""));
    let both = names.into_iter().zip(values);
    both.filter(|(_, value)| !value.is_empty()).collect()
}

fn fields(lists: &Lists) -> [(&'static str, String); 4] {
    [
        (
            "outboundIPRangeExclusionList",
            quoted(&lists.outbound_ranges_excluded),
        ),
        (
            "outboundIPRangeInclusionList",
            quoted(&lists.outbound_ranges_included),
        ),
        (
            "outboundPortExclusionList",
            joined(&lists.outbound_ports_excluded),
        ),
        (
            "inboundPortExclusionList",
            joined(&lists.inbound_ports_excluded),
        ),
    ]
}

/// A colon means something in YAML.
fn quoted(items: &BTreeSet<IpNet>) -> String {
    let quoted: Vec<_> = items.iter().map(|item| format!("'{item}'")).collect();
    quoted.join(",")
}

fn joined(items: &BTreeSet<impl Display>) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(",")
}
