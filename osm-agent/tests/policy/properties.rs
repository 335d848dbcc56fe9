//! Whatever the lists: a compiled policy decides as they do, and holds nothing in vain.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use osm_agent::{
    config::{ANNOTATIONS, Lists},
    policy::{Naive, Policy, View},
};
use osm_ebpf_common::{
    address::Address,
    decision::{self, Direction, Inbound, Outbound, Pod as _, RangeRule},
    maps::{PortPage, RangeEntry},
};
use proptest::{collection::vec, prelude::*, sample::select};

/// Few addresses, so that ranges meet and nest.
fn v4() -> impl Strategy<Value = Ipv4Addr> {
    let octets = || select(vec![0_u8, 1, 10, 127, 128, 224, 255]);
    prop_oneof![
        3 => [octets(), octets(), octets(), octets()].prop_map(Ipv4Addr::from),
        1 => any::<Ipv4Addr>(),
    ]
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    let near_v4 = (select(vec![0_u16, 0xfffe, 0xffff]), v4());
    prop_oneof![
        2 => near_v4.prop_map(|(word, v4)| Ipv6Addr::from((u128::from(word) << 32)
            | u128::from(v4.to_bits()))),
        2 => (select(vec![0_u16, 0xfd00, 0xffff]), select(vec![0_u16, 1, 0x8000]))
            .prop_map(|(first, last)| Ipv6Addr::new(first, 0, 0, 1, 0, 0, 0, last)),
        1 => any::<Ipv6Addr>(),
    ]
}

fn range() -> impl Strategy<Value = IpNet> {
    let v4_length = prop_oneof![select(vec![0_u8, 1, 8, 31, 32]), 0..=32_u8];
    let v6_length = prop_oneof![select(vec![0_u8, 1, 80, 95, 96, 97, 127, 128]), 0..=128_u8];
    prop_oneof![
        (v4(), v4_length).prop_map(|(v4, length)| Ipv4Net::new_assert(v4, length).into()),
        (v6(), v6_length).prop_map(|(v6, length)| Ipv6Net::new_assert(v6, length).into()),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    let edges = vec![1, 63, 64, 511, 512, 15010, 15904, 65535];
    prop_oneof![select(edges), 1..=65535_u16]
}

fn any_lists() -> impl Strategy<Value = Lists> {
    let ranges = || vec(range(), 0..12).prop_map(BTreeSet::from_iter);
    let ports = || vec(port(), 0..6).prop_map(BTreeSet::from_iter);
    (ranges(), ranges(), ports(), ports()).prop_map(|(excluded, included, outbound, inbound)| {
        Lists {
            outbound_ranges_excluded: excluded,
            outbound_ranges_included: included,
            outbound_ports_excluded: outbound,
            inbound_ports_excluded: inbound,
        }
    })
}

fn any_address() -> impl Strategy<Value = Address> {
    prop_oneof![v4().prop_map(IpAddr::from), v6().prop_map(IpAddr::from)].prop_map(Address::from)
}

/// The first and last address of every range, and their neighbours outside.
fn edges(lists: &Lists) -> Vec<Address> {
    let bits = |address| u128::from_be_bytes(Address::from(address).octets());
    lists
        .outbound_ranges_excluded
        .iter()
        .chain(&lists.outbound_ranges_included)
        .flat_map(|range| {
            let (first, last) = (bits(range.network()), bits(range.broadcast()));
            [first, first.wrapping_sub(1), last, last.wrapping_add(1)]
        })
        .map(|bits| Address::from_octets(bits.to_be_bytes()))
        .collect()
}

/// The lists as a pod might write them: in any order, with repetitions.
fn rewritten(lists: &Lists, turn: usize) -> Lists {
    fn text<T: ToString>(items: &BTreeSet<T>, turn: usize) -> String {
        let mut items: Vec<String> = items.iter().map(T::to_string).collect();
        let at = turn % items.len().max(1);
        items.rotate_left(at);
        items.extend_from_within(..at);
        items.reverse();
        items.join(", ")
    }
    let values = [
        text(&lists.outbound_ranges_excluded, turn),
        text(&lists.outbound_ranges_included, turn),
        text(&lists.outbound_ports_excluded, turn),
        text(&lists.inbound_ports_excluded, turn),
    ];
    let written = ANNOTATIONS.iter().zip(values);
    Lists::from_annotations(written.filter(|(_, value)| !value.is_empty())).unwrap()
}

proptest! {
    #[test]
    fn compiled_policy_decides_as_its_lists_do(
        lists in any_lists(),
        own_addresses in vec(any_address(), 0..3),
        others in vec(any_address(), 8),
        ports in vec(port(), 3),
        dual_stack: bool,
    ) {
        let policy = Policy::compile(&lists, dual_stack);
        let compiled = View::new(&policy, &own_addresses);
        let ports: BTreeSet<u16> = lists
            .outbound_ports_excluded
            .iter()
            .chain(&lists.inbound_ports_excluded)
            .copied()
            .chain(ports)
            .collect();
        let destinations: Vec<Address> = [edges(&lists), own_addresses.clone(), others].concat();
        let naive = Naive { lists, own_addresses: own_addresses.clone(), dual_stack, ..Naive::default() };
        for (index, destination) in destinations.iter().copied().enumerate() {
            for port in ports.iter().copied() {
                for by_sidecar in [false, true] {
                    let asked = Outbound { destination, port, by_sidecar };
                    prop_assert_eq!(
                        decision::outbound(&compiled, &asked),
                        decision::outbound(&naive, &asked),
                        "{:?}", asked
                    );
                }
                let client = destinations[destinations.len() - 1 - index];
                let asked = Inbound { client, destination, port, interface: Some(2) };
                prop_assert_eq!(
                    decision::inbound(&compiled, &asked),
                    decision::inbound(&naive, &asked),
                    "{:?}", asked
                );
            }
        }
    }

    #[test]
    fn inclusions_say_nothing_of_the_other_family(
        lists in any_lists(),
        others in vec(any_address(), 8),
    ) {
        let v4: Ipv6Net = "::ffff:0:0/96".parse().unwrap();
        let is_v4 = |range: &IpNet| match range {
            IpNet::V4(_) => true,
            IpNet::V6(range) => v4.contains(range),
        };
        let both = Policy::compile(&lists, true);
        let destinations = [edges(&lists), others].concat();
        for family in [true, false] {
            let mut own = lists.clone();
            own.outbound_ranges_included.retain(|range| is_v4(range) == family);
            let is_limited = !own.outbound_ranges_included.is_empty();
            let own = Policy::compile(&own, true);
            for destination in destinations.iter().filter(|it| it.is_v4() == family) {
                let rule = View::new(&both, &[]).range(destination);
                prop_assert_eq!(rule, View::new(&own, &[]).range(destination), "{:?}", destination);
                prop_assert!(is_limited || rule != RangeRule::NotIncluded, "{:?}", destination);
            }
        }
    }

    #[test]
    fn policy_is_the_same_however_its_lists_are_written(lists in any_lists(), turn: usize) {
        let (one, other) = (lists.clone(), rewritten(&lists, turn));
        let (one, other) = (Policy::compile(&one, true), Policy::compile(&other, true));
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(one.digest(), other.digest());
    }

    #[test]
    fn digest_differs_where_policies_do(one in any_lists(), other in any_lists(), dual: bool) {
        let policies = [
            Policy::compile(&one, dual),
            Policy::compile(&one, !dual),
            Policy::compile(&other, dual),
            Policy::compile(&one.union(&other), dual),
            // The same ports for the other direction.
            Policy::compile(&Lists {
                outbound_ports_excluded: one.inbound_ports_excluded.clone(),
                inbound_ports_excluded: one.outbound_ports_excluded.clone(),
                ..one.clone()
            }, dual),
            // The same ranges the other way round.
            Policy::compile(&Lists {
                outbound_ranges_excluded: one.outbound_ranges_included.clone(),
                outbound_ranges_included: one.outbound_ranges_excluded.clone(),
                ..one
            }, dual),
        ];
        for a in &policies {
            for b in &policies {
                prop_assert_eq!(a == b, a.digest() == b.digest());
            }
        }
    }

    #[test]
    fn excluded_ports_are_those_of_the_lists(lists in any_lists()) {
        let policy = Policy::compile(&lists, false);
        for (direction, list) in [
            (Direction::Outbound, &lists.outbound_ports_excluded),
            (Direction::Inbound, &lists.inbound_ports_excluded),
        ] {
            prop_assert!(policy.excluded_ports(direction).eq(list.iter().copied()));
        }
        prop_assert!(policy.port_pages().all(|(.., page)| *page != PortPage::EMPTY));
    }

    #[test]
    fn every_entry_differs_from_the_one_around_it(lists in any_lists()) {
        let policy = Policy::compile(&lists, false);
        let nets: Vec<(Ipv6Net, RangeEntry)> = policy
            .ranges()
            .iter()
            .map(|range| {
                let address = Ipv6Addr::from(range.address().octets());
                (Ipv6Net::new_assert(address, range.length()), range.entry())
            })
            .collect();
        prop_assert!(nets.is_sorted_by_key(|(net, _)| (net.network(), net.prefix_len())));
        let v4: Ipv6Net = "::ffff:0:0/96".parse().unwrap();
        for (net, entry) in &nets {
            prop_assert_eq!(net.trunc(), *net, "host bits");
            let around = nets
                .iter()
                .filter(|(other, _)| other != net && other.contains(net))
                .max_by_key(|(other, _)| other.prefix_len());
            let is_needed = match around {
                // Between the families anything may be, and nothing is inherited.
                _ if *net == v4 => *entry != RangeEntry::NEUTRAL || around.is_some(),
                None => *entry != RangeEntry::NEUTRAL,
                Some((_, RangeEntry::INCLUDED)) => *entry == RangeEntry::EXCLUDED,
                Some((_, around)) => {
                    *around == RangeEntry::NEUTRAL && *entry != RangeEntry::NEUTRAL
                }
            };
            prop_assert!(is_needed, "{} {:?} in {:?}", net, entry, around);
        }
        let distinct: BTreeSet<Ipv6Net> = nets.iter().map(|(net, _)| *net).collect();
        prop_assert_eq!(distinct.len(), nets.len());
    }
}
