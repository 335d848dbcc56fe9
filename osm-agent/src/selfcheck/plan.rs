//! Which connections to make, and what has to become of them. Pure: the decision function
//! says what a policy does to a destination, and the network which destinations can be dialled.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use osm_ebpf_common::{
    address::Address,
    decision::{Direction, Outbound, Verdict, outbound},
    maps::{PolicyWord, RangeEntry},
    reason::Reason,
};

use crate::policy::{Policy, Range, View};

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever this process is, which is not the sidecar.
    App,
    /// The sidecar's user.
    Sidecar,
}

/// Where a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// At the sidecar's listener for that direction, which is told what was dialled.
    Redirected(Direction),
    /// Anywhere but at the sidecar's listeners.
    NotRedirected,
    /// At the listener that was dialled.
    Direct,
}

/// One connection to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What it shows.
    pub path: &'static str,
    /// Who makes it.
    pub caller: Caller,
    /// What is dialled.
    pub to: SocketAddr,
    /// What has to become of it.
    pub expected: Expected,
}

/// What can't be tried, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untried {
    /// What it would show.
    pub path: &'static str,
    /// The family.
    pub is_v6: bool,
    /// Why it is not tried.
    pub why: &'static str,
}

/// What the pod's network offers.
pub trait Network {
    /// The pod's own addresses, without loopback.
    fn own(&self) -> &[IpAddr];
    /// The interface by which connections leave for an address; none without a route.
    fn interface_towards(&self, to: IpAddr) -> Option<String>;
}

/// The port of the pod on which nobody but this check listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet(pub u16);

/// Destinations that belong to nobody (RFC 5737, 2544, 6598, 1112 and 3849, 9637, 6666). Those
/// that are intercepted are never reached; of the others one SYN leaves the pod.
const NOBODY_S: [IpAddr; 9] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(100, 127, 255, 1)),
    IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1)),
];

/// Ports to dial, of which the first that fits is taken.
const PORTS: [u16; 6] = [80, 443, 8080, 9090, 7, 9];

/// How many ranges of a list are looked at for a destination.
const RANGES_TRIED: usize = 256;

/// All that can be tried with connections of the pod's own, IPv4 first.
pub fn plan(policy: &Policy, network: &dyn Network, quiet: Quiet) -> (Vec<Case>, Vec<Untried>) {
    let own: Vec<Address> = network.own().iter().copied().map(Address::from).collect();
    let mut planner = Planner {
        policy,
        network,
        view: View::new(policy, &own),
        quiet,
        ports: ports(policy),
        is_v6: false,
        cases: Vec::new(),
        untried: Vec::new(),
    };
    planner.family();
    if policy.word(0).has(PolicyWord::DUAL_STACK) {
        planner.is_v6 = true;
        planner.family();
    }
    (planner.cases, planner.untried)
}

struct Planner<'a> {
    policy: &'a Policy,
    network: &'a dyn Network,
    view: View<'a>,
    quiet: Quiet,
    ports: Vec<u16>,
    is_v6: bool,
    cases: Vec<Case>,
    untried: Vec<Untried>,
}

impl Planner<'_> {
    fn family(&mut self) {
        use Caller::{App, Sidecar};
        use Expected::{Direct, NotRedirected, Redirected};
        match self.find(|reason| reason == Reason::RedirectOutbound) {
            Some(to) => {
                self.case("outbound", App, to, Redirected(Direction::Outbound));
                self.case("the sidecar's bypass", Sidecar, to, NotRedirected);
            }
            None => self.without("outbound", "there is no route to what is intercepted"),
        }
        for (path, reason) in [
            ("an excluded range", Reason::PassExcludedRange),
            ("an excluded port", Reason::PassExcludedPort),
            ("outside of the included ranges", Reason::PassNotIncluded),
            ("an excluded interface", Reason::PassExcludedInterface),
        ] {
            let by_interface = reason == Reason::PassExcludedInterface;
            if by_interface && self.policy.excluded_interfaces().is_empty() {
                continue;
            }
            if let Some(to) = self.find(|it| it == reason) {
                self.case(path, App, to, NotRedirected);
            }
        }
        let localhost = if self.is_v6 {
            IpAddr::from(Ipv6Addr::LOCALHOST)
        } else {
            Ipv4Addr::LOCALHOST.into()
        };
        let quiet = |ip| SocketAddr::new(ip, self.quiet.0);
        let local = quiet(localhost);
        let own = self
            .network
            .own()
            .iter()
            .find(|ip| ip.is_ipv6() == self.is_v6);
        match own.copied().map(quiet) {
            Some(own) => {
                let redirected = Redirected(Direction::Inbound);
                self.case("the sidecar to its pod", Sidecar, own, redirected);
                self.case("the app to its pod", App, own, Direct);
            }
            None => self.without("the pod's own address", "it has none of this family"),
        }
        self.case("the sidecar to localhost", Sidecar, local, Direct);
        self.case("the app to localhost", App, local, Direct);
    }

    fn case(&mut self, path: &'static str, caller: Caller, to: SocketAddr, expected: Expected) {
        self.cases.push(Case {
            path,
            caller,
            to,
            expected,
        });
    }

    fn without(&mut self, path: &'static str, why: &'static str) {
        self.untried.push(Untried {
            path,
            is_v6: self.is_v6,
            why,
        });
    }

    /// A destination that can be dialled and is decided on for that reason.
    fn find(&self, is_wanted: impl Fn(Reason) -> bool) -> Option<SocketAddr> {
        self.addresses()
            .flat_map(|ip| {
                self.ports
                    .iter()
                    .map(move |port| SocketAddr::new(ip, *port))
            })
            .filter(|to| is_wanted(self.reason(*to, false)) || is_wanted(self.reason(*to, true)))
            .find(|to| {
                let interface = self.network.interface_towards(to.ip());
                interface.is_some_and(|name| {
                    let is_excluded = self.policy.excluded_interfaces().contains(&name);
                    is_wanted(self.reason(*to, is_excluded))
                })
            })
    }

    fn reason(&self, to: SocketAddr, by_excluded_interface: bool) -> Reason {
        let asked = Outbound {
            destination: to.ip().into(),
            port: to.port(),
            by_sidecar: false,
        };
        let reason = match outbound(&self.view, &asked) {
            Verdict::Pass(reason)
            | Verdict::Redirect(_, reason)
            | Verdict::ToPodAddress(reason) => reason,
        };
        // It comes before the lists.
        let is_remote = !matches!(
            reason,
            Reason::PassLocal | Reason::PassUnroutable | Reason::PassOtherFamily
        );
        if by_excluded_interface && is_remote {
            Reason::PassExcludedInterface
        } else {
            reason
        }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let listed = [RangeEntry::INCLUDED, RangeEntry::EXCLUDED];
        let listed = listed.into_iter().flat_map(|entry| {
            let ranges = self.policy.ranges().iter();
            let of_list = ranges.filter(move |range| range.entry() == entry);
            of_list.take(RANGES_TRIED).flat_map(hosts)
        });
        let all = NOBODY_S.into_iter().chain(listed);
        let is_v6 = self.is_v6;
        all.filter(move |ip| ip.is_ipv6() == is_v6 && !ip.is_unspecified())
    }
}

/// Ports to dial: some that are not excluded, if there are any, and one that is.
fn ports(policy: &Policy) -> Vec<u16> {
    let excluded: BTreeSet<u16> = policy.excluded_ports(Direction::Outbound).collect();
    let free = (1..=u16::MAX).find(|port| !excluded.contains(port));
    let one_excluded = excluded.first().copied();
    PORTS.into_iter().chain(free).chain(one_excluded).collect()
}

/// The second and the first address of a range.
fn hosts(range: &Range) -> Vec<IpAddr> {
    let first = range.address();
    let mut octets = first.octets();
    octets[15] |= 1;
    let second = Address::from_octets(octets);
    if range.length() > 127 || second == first {
        return vec![first.into()];
    }
    vec![second.into(), first.into()]
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;
    use crate::config::Lists;

    struct Eth0(Vec<IpAddr>);

    impl Network for Eth0 {
        fn own(&self) -> &[IpAddr] {
            &self.0
        }

        fn interface_towards(&self, to: IpAddr) -> Option<String> {
            let name = if to == IpAddr::from([198, 51, 100, 1]) {
                "eth1"
            } else {
                "eth0"
            };
            Some(name.into())
        }
    }

    fn cases(lists: &Lists, dual: bool, interfaces: &[&str]) -> Vec<(&'static str, String)> {
        let names = interfaces.iter().map(|name| (*name).to_owned()).collect();
        let policy = Policy::compile(lists, dual).with_excluded_interfaces(names);
        let network = Eth0(vec![[10, 0, 0, 2].into(), Ipv6Addr::LOCALHOST.into()]);
        let (cases, _) = plan(&policy, &network, Quiet(4711));
        cases
            .into_iter()
            .filter(|case| !case.to.ip().is_loopback())
            .filter(|case| case.to.port() != 4711)
            .map(|case| (case.path, case.to.to_string()))
            .collect()
    }

    fn ranges(texts: &[&str]) -> BTreeSet<IpNet> {
        let read = |text: &&str| text.parse().expect("a range");
        texts.iter().map(read).collect()
    }

    #[test]
    fn without_lists_a_test_address_is_dialled() {
        let bypass = ("the sidecar's bypass", "192.0.2.1:80".to_owned());
        assert_eq!(
            cases(&Lists::default(), false, &[]),
            [("outbound", "192.0.2.1:80".to_owned()), bypass]
        );
    }

    #[test]
    fn every_list_has_its_case() {
        let lists = Lists {
            outbound_ranges_excluded: ranges(&["192.0.2.0/24", "10.9.0.0/16"]),
            outbound_ranges_included: ranges(&["10.0.0.0/8"]),
            outbound_ports_excluded: [80, 5432].into(),
            ..Lists::default()
        };
        let found = cases(&lists, false, &[]);
        for case in [
            ("outbound", "10.0.0.1:443"),
            ("an excluded range", "192.0.2.1:80"),
            ("an excluded port", "198.51.100.1:80"),
            ("outside of the included ranges", "198.51.100.1:443"),
        ] {
            assert!(
                found.contains(&(case.0, case.1.into())),
                "{case:?} {found:?}"
            );
        }
    }

    #[test]
    fn all_excluded_leaves_nothing_to_redirect() {
        let lists = Lists {
            outbound_ranges_excluded: ranges(&["0.0.0.0/0"]),
            ..Lists::default()
        };
        let found = cases(&lists, false, &[]);
        assert_eq!(found, [("an excluded range", "192.0.2.1:80".to_owned())]);
        let lists = Lists {
            outbound_ports_excluded: (1..=u16::MAX).collect(),
            ..Lists::default()
        };
        let found = cases(&lists, false, &[]);
        assert_eq!(found, [("an excluded port", "192.0.2.1:80".to_owned())]);
    }

    #[test]
    fn excluded_interface_is_not_expected_to_redirect() {
        let lists = Lists {
            outbound_ranges_included: ranges(&["198.51.100.0/24"]),
            ..Lists::default()
        };
        let found = cases(&lists, false, &["eth1"]);
        assert!(found.contains(&("an excluded interface", "198.51.100.1:80".into())));
        assert!(found.contains(&("outbound", "198.51.100.0:80".into())));
    }

    #[test]
    fn dual_stack_has_both_families() {
        let found = cases(&Lists::default(), true, &[]);
        assert!(found.contains(&("outbound", "192.0.2.1:80".into())));
        assert!(found.contains(&("outbound", "[2001:db8::1]:80".into())));
    }
}
