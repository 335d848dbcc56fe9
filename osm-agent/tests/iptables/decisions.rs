//! Whatever the lists: the rules decide as the decision function does.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use osm_agent::{
    config::Lists,
    iptables::{Family, RuleSet, Saved, transaction},
    policy::{Policy, View},
};
use osm_ebpf_common::{
    address::Address,
    decision::{self, Direction, Inbound, Outbound, Pod, RangeRule, Verdict},
    reason::Reason,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::interpreter::{Fate, Packet, Table};

/// Few addresses, so that ranges meet and nest.
fn address() -> impl Strategy<Value = IpAddr> {
    let octet = || select(vec![0_u8, 1, 10, 127, 128, 255]);
    let word = || select(vec![0_u16, 1, 0xfd00, 0x8000, 0xffff]);
    prop_oneof![
        [octet(), octet(), octet(), octet()].prop_map(|it| Ipv4Addr::from(it).into()),
        [word(), word(), word(), word()]
            .prop_map(|[a, b, c, d]| { Ipv6Addr::new(a, b, 0, 0, 0, 0, c, d).into() }),
    ]
}

fn range() -> impl Strategy<Value = IpNet> {
    (address(), 0..=128_u8).prop_map(|(address, length)| match address {
        IpAddr::V4(v4) => Ipv4Net::new_assert(v4, length % 33).trunc().into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, length).trunc().into(),
    })
}

fn port() -> impl Strategy<Value = u16> {
    select(vec![1, 80, 511, 512, 15001, 15003, 15010, 15904, 65535])
}

fn lists() -> impl Strategy<Value = Lists> {
    let ranges = |most| vec(range(), 0..most).prop_map(BTreeSet::from_iter);
    let ports = || vec(port(), 0..5).prop_map(BTreeSet::from_iter);
    (ranges(8), ranges(4), ports(), ports()).prop_map(|(excluded, included, outbound, inbound)| {
        Lists {
            outbound_ranges_excluded: excluded,
            outbound_ranges_included: included,
            outbound_ports_excluded: outbound,
            inbound_ports_excluded: inbound,
        }
    })
}

/// A pod by whose excluded interface the connection at hand comes or goes, or not.
struct ByInterface<'a> {
    view: View<'a>,
    is_excluded: bool,
}

impl Pod for ByInterface<'_> {
    fn is_dual_stack(&self) -> bool {
        self.view.is_dual_stack()
    }
    fn owns(&self, address: &Address) -> bool {
        self.view.owns(address)
    }
    fn range(&self, destination: &Address) -> RangeRule {
        self.view.range(destination)
    }
    fn excludes_port(&self, direction: Direction, port: u16) -> bool {
        self.view.excludes_port(direction, port)
    }
    fn leaves_by_excluded_interface(&self, _: &Address) -> bool {
        self.is_excluded
    }
    fn excludes_interface(&self, _: u32) -> bool {
        self.is_excluded
    }
    fn local_host_is_pod_address(&self) -> bool {
        self.view.local_host_is_pod_address()
    }
    fn guards_ports(&self) -> bool {
        self.view.guards_ports()
    }
}

fn fate(verdict: Verdict, own: IpAddr) -> Fate {
    match verdict {
        Verdict::Pass(_) => Fate::Direct,
        Verdict::Redirect(Direction::Outbound, _) => Fate::Redirected(15001),
        Verdict::Redirect(Direction::Inbound, _) => Fate::Redirected(15003),
        Verdict::ToPodAddress(_) => Fate::Translated(own),
    }
}

proptest! {
    #[test]
    fn rules_decide_as_the_decision_function_does(
        lists in lists(),
        asked in vec((address(), port(), any::<bool>(), any::<bool>(), address()), 24),
        dual_stack: bool,
        pod_ip: bool,
    ) {
        let own: [IpAddr; 2] = ["10.1.1.1", "fd00:1::1"].map(|it| it.parse().unwrap());
        let mut policy = Policy::compile(&lists, dual_stack)
            .with_excluded_interfaces(["eth1".to_owned()].into());
        if pod_ip {
            policy = policy.with_pod_ip();
        }
        let rules = RuleSet::new(&policy, &own).unwrap();
        let texts = Family::ALL.map(|family| {
            let rules = rules.of(family)?;
            transaction(family, &Saved::default(), Some(rules))
        });
        let tables = texts.each_ref().map(|text| Table::parse(text.as_deref().unwrap_or("")));
        let addresses = own.map(Address::from);

        let edges = policy.ranges().iter().flat_map(|range| {
            let first = u128::from_be_bytes(range.address().octets());
            let last = first | u128::MAX.checked_shr(range.length().into()).unwrap_or(0);
            [first, first.wrapping_sub(1), last, last.wrapping_add(1)]
                .map(|bits| Address::from_octets(bits.to_be_bytes()))
        });
        let edges: Vec<_> = edges.zip(asked.iter().cycle()).map(|(address, (_, port, a, b, other))| {
            (IpAddr::from(address), *port, *a, *b, *other)
        }).collect();
        let known = own.into_iter().chain(["127.0.0.1", "127.0.0.2", "::1"].map(|it| it.parse().unwrap()));
        let known = known.flat_map(|ip| [true, false].map(|by_sidecar| (ip, 80, by_sidecar, false, ip)));

        for (ip, port, by_sidecar, is_excluded, other) in asked.iter().copied().chain(edges).chain(known) {
            let destination = Address::from(ip);
            if destination.is_unspecified() {
                continue;
            }
            let index = usize::from(!destination.is_v4());
            let is_local = destination.is_loopback() || addresses.contains(&destination);
            let pod = ByInterface { view: View::new(&policy, &addresses), is_excluded };
            let interface = if is_excluded { "eth1" } else { "eth0" };
            let packet = Packet {
                destination: ip,
                port,
                uid: Some(if by_sidecar { 1500 } else { 1000 }),
                input: "",
                output: if is_local { "lo" } else { interface },
            };
            let verdict = decision::outbound(&pod, &Outbound { destination, port, by_sidecar });
            // Of these the kernel itself makes nothing.
            if verdict.reason() != Reason::PassUnroutable {
                let found = tables[index].decide("OUTPUT", &packet);
                prop_assert_eq!(found, fate(verdict, own[index]), "{:?} {:?}", packet, verdict);
            }

            let asked = Inbound { client: other.into(), destination, port, interface: None };
            if asked.is_local() || pod.owns(&asked.client) {
                // Never asks PREROUTING: OUTPUT has decided.
                continue;
            }
            let packet = Packet { uid: None, input: interface, output: "", ..packet };
            let verdict = decision::inbound(&pod, &asked);
            let found = tables[index].decide("PREROUTING", &packet);
            prop_assert_eq!(found, fate(verdict, own[index]), "{:?} {:?}", packet, verdict);
        }
    }
}
