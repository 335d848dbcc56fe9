//! Whether a compiled policy, and the rules that the fallback makes of it, say what the lists do.

use std::net::IpAddr;

use osm_agent::{
    config::{Lists, LocalProxyMode, MeshConfig},
    iptables::{Family, RuleSet, Saved, transaction},
    policy::{Naive, Policy, View},
};
use osm_ebpf_common::{
    address::Address,
    decision::{self, Inbound, Outbound},
};

/// How many ranges and ports of each list are tried, from both ends of it.
const TRIED: usize = 2;

/// The pod's own addresses.
const OWN: [&str; 2] = ["10.1.2.3", "fd00::3"];

/// Asks both for every edge of the lists.
pub fn check(mesh: &MeshConfig, pod: &Lists) {
    let own: Vec<IpAddr> = OWN.iter().filter_map(|it| it.parse().ok()).collect();
    for dual_stack in [false, true] {
        let policy = Policy::of_pod(mesh, pod, dual_stack);
        check_decisions(mesh, pod, &policy, dual_stack, &own);
        check_rules(&policy, &own);
    }
}

fn check_decisions(
    mesh: &MeshConfig,
    pod: &Lists,
    policy: &Policy,
    dual_stack: bool,
    own: &[IpAddr],
) {
    let own: Vec<Address> = own.iter().copied().map(Address::from).collect();
    let compiled = View::new(policy, &own);
    let naive = Naive {
        lists: mesh.lists.union(pod),
        own_addresses: own.clone(),
        dual_stack,
        pod_ip: mesh.local_proxy_mode == LocalProxyMode::PodIp,
        ..Naive::default()
    };
    let destinations = destinations(&naive.lists, &own);
    let ports = ports(&naive.lists);
    for destination in destinations.iter().copied() {
        for port in ports.iter().copied() {
            for by_sidecar in [false, true] {
                let asked = Outbound {
                    destination,
                    port,
                    by_sidecar,
                };
                let (fast, slow) = (
                    decision::outbound(&compiled, &asked),
                    decision::outbound(&naive, &asked),
                );
                assert_eq!(fast, slow, "{asked:?}");
            }
            let asked = Inbound {
                client: destination,
                destination: own[0],
                port,
                interface: Some(2),
            };
            let (fast, slow) = (
                decision::inbound(&compiled, &asked),
                decision::inbound(&naive, &asked),
            );
            assert_eq!(fast, slow, "{asked:?}");
        }
    }
}

/// What is fed to iptables-restore is what is there then, and leaves nothing to do.
fn check_rules(policy: &Policy, own: &[IpAddr]) {
    let Ok(rules) = RuleSet::new(policy, own) else {
        return;
    };
    for family in Family::ALL {
        let Some(rules) = rules.of(family) else {
            continue;
        };
        let text = transaction(family, &Saved::default(), Some(rules));
        let text = text.expect("there is nothing yet");
        let saved = Saved::parse(&text).expect("it is written as it is printed");
        assert!(saved.equals(rules), "{text}");
        assert!(saved.faults().is_empty(), "{text}");
        assert_eq!(transaction(family, &saved, Some(rules)), None, "{text}");
        for (chain, _) in rules.chains().take(3) {
            assert!(saved.chain_as_written(chain).is_some(), "{chain}: {text}");
        }
    }
}

/// The first and last address of every range that is tried, and their neighbours outside.
fn destinations(lists: &Lists, own: &[Address]) -> Vec<Address> {
    let bits = |address| u128::from_be_bytes(Address::from(address).octets());
    let mut found = own.to_vec();
    for list in [
        &lists.outbound_ranges_excluded,
        &lists.outbound_ranges_included,
    ] {
        for range in list.iter().take(TRIED).chain(list.iter().rev().take(TRIED)) {
            let (first, last) = (bits(range.network()), bits(range.broadcast()));
            let edges = [first, first.wrapping_sub(1), last, last.wrapping_add(1)];
            found.extend(edges.map(|bits| Address::from_octets(bits.to_be_bytes())));
        }
    }
    let others = ["1.1.1.1", "127.0.0.1", "224.0.0.1", "2001:db8::1", "::1"];
    let others = others.iter().filter_map(|it| it.parse::<IpAddr>().ok());
    found.extend(others.map(Address::from));
    found
}

fn ports(lists: &Lists) -> Vec<u16> {
    let mut found = vec![80, 15010];
    for list in [
        &lists.outbound_ports_excluded,
        &lists.inbound_ports_excluded,
    ] {
        for port in list.iter().take(1).chain(list.iter().rev().take(1)) {
            found.extend([*port, port.saturating_sub(1).max(1), port.saturating_add(1)]);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Lists of every kind.
pub fn some_lists() -> Lists {
    let ranges = |texts: &[&str]| texts.iter().filter_map(|it| it.parse().ok()).collect();
    Lists {
        outbound_ranges_excluded: ranges(&["10.0.0.0/8", "0.0.0.0/1", "fd00:1::/32"]),
        outbound_ranges_included: ranges(&["200.1.1.1/32", "fd00::/8"]),
        outbound_ports_excluded: (1..=16).collect(),
        inbound_ports_excluded: [9090].into(),
    }
}
