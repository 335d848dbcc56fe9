//! Lists of exclusions that no measured connection is on.

use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;

/// Which lists a pod goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lists {
    /// None.
    Empty,
    /// That many excluded ranges.
    Ranges(usize),
    /// That many excluded ports, outbound and inbound.
    Ports(usize),
}

impl fmt::Display for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no lists"),
            Self::Ranges(count) => write!(f, "ranges={count}"),
            Self::Ports(count) => write!(f, "ports={count}"),
        }
    }
}

/// The first port that is put on a list: the remote server's is below.
const FIRST_PORT: u16 = 1024;

/// Ports above that which the scene uses: the application's, and those kept for sidecars.
const USED_PORTS: [u16; 10] = [
    8080, 15000, 15001, 15003, 15010, 15901, 15902, 15903, 15904, 16000,
];

/// The first byte of networks that hold the scene's addresses, or none that can be dialled.
const USED_NETWORKS: [u8; 7] = [0, 10, 127, 169, 192, 198, 203];

impl Lists {
    /// These lists as a `MeshConfig`, with these lines in its `spec.sidecar`. The same seed makes the
    /// same lists.
    #[must_use]
    pub fn mesh_config(self, seed: u64, sidecar: &[&str]) -> String {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut text = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
                        metadata:\n  name: osm-mesh-config\nspec:\n  traffic:\n"
            .to_owned();
        let (ranges, ports) = match self {
            Self::Empty => (Vec::new(), Vec::new()),
            Self::Ranges(count) => (ranges(&mut rng, count), Vec::new()),
            Self::Ports(count) => (Vec::new(), ports(&mut rng, count)),
        };
        let fields = [
            ("outboundIPRangeExclusionList", &ranges),
            ("outboundPortExclusionList", &ports),
            ("inboundPortExclusionList", &ports),
        ];
        for (field, items) in fields {
            text.extend(["    ", field, ": [", &items.join(", "), "]\n"]);
        }
        if !sidecar.is_empty() {
            text += "  sidecar:\n";
        }
        for line in sidecar {
            text.extend(["    ", line, "\n"]);
        }
        text
    }
}

/// Different ranges of 1 to 256 addresses, anywhere but near the scene's.
fn ranges(rng: &mut fastrand::Rng, count: usize) -> Vec<String> {
    let mut seen = HashSet::with_capacity(count);
    let mut ranges = Vec::with_capacity(count);
    while ranges.len() < count {
        let [first, second, third, fourth] = rng.u32(..).to_be_bytes();
        if first >= 224 || USED_NETWORKS.contains(&first) {
            continue;
        }
        let length = rng.u32(24..=32);
        let address = u32::from_be_bytes([first, second, third, fourth]);
        let network = address & (u32::MAX << (32 - length));
        if seen.insert((network, length)) {
            ranges.push(format!("{}/{length}", Ipv4Addr::from(network)));
        }
    }
    ranges
}

/// Different ports, as many of `count` as there are.
fn ports(rng: &mut fastrand::Rng, count: usize) -> Vec<String> {
    let mut ports: Vec<u16> = (FIRST_PORT..=u16::MAX)
        .filter(|port| !USED_PORTS.contains(port))
        .collect();
    rng.shuffle(&mut ports);
    ports.iter().take(count).map(u16::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items<'a>(config: &'a str, field: &str) -> Vec<&'a str> {
        let line = config.lines().find(|line| line.contains(field));
        let list = line.and_then(|line| line.split(['[', ']']).nth(1));
        let list = list.expect("the field is a list");
        list.split(", ").filter(|item| !item.is_empty()).collect()
    }

    #[test]
    fn lists_have_as_many_different_items_as_asked_for() {
        let cases = [
            (Lists::Empty, 0, 0),
            (Lists::Ranges(10_000), 10_000, 0),
            (Lists::Ports(60_000), 0, 60_000),
        ];
        for (lists, ranges, ports) in cases {
            let config = lists.mesh_config(1, &[]);
            let count = |field| {
                items(&config, field)
                    .into_iter()
                    .collect::<HashSet<_>>()
                    .len()
            };
            assert_eq!(count("IPRangeExclusion"), ranges, "{lists}");
            assert_eq!(count("outboundPortExclusion"), ports, "{lists}");
            assert_eq!(count("inboundPortExclusion"), ports, "{lists}");
        }
    }

    #[test]
    fn ranges_never_hold_an_address_of_the_scene() {
        let config = Lists::Ranges(50_000).mesh_config(7, &[]);
        for range in items(&config, "IPRangeExclusion") {
            let (network, length) = range.split_once('/').expect("a CIDR");
            let network = u32::from(network.parse::<Ipv4Addr>().expect("an address"));
            let mask = u32::MAX << (32 - length.parse::<u32>().expect("a length"));
            for used in ["198.51.100.10", "10.77.1.2", "127.0.0.1", "10.77.200.1"] {
                let used = u32::from(used.parse::<Ipv4Addr>().expect("an address"));
                assert_ne!(used & mask, network, "{range} holds {used:x}");
            }
        }
    }

    #[test]
    fn same_seed_makes_same_lists_and_another_one_others() {
        let config = |seed| Lists::Ranges(100).mesh_config(seed, &["shortcut: true"]);
        assert_eq!(config(3), config(3));
        assert_ne!(config(3), config(4));
        assert!(config(3).ends_with("  sidecar:\n    shortcut: true\n"));
    }
}
