//! A compiled policy is in normal form.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use osm_agent::{
    config::{Lists, MeshConfig},
    policy::Policy,
};
use osm_ebpf_common::{
    address::Address,
    decision::Direction,
    maps::{Origin, PolicyWord, PortPage, RangeEntry},
};
use rstest::rstest;

mod properties;

const NAMES: [(RangeEntry, &str); 3] = [
    (RangeEntry::EXCLUDED, "excluded"),
    (RangeEntry::INCLUDED, "included"),
    (RangeEntry::NEUTRAL, "neutral"),
];

/// The entries of a policy as text, each `address/length rule`, in the 128-bit form.
fn entries(policy: &Policy) -> Vec<String> {
    let name = |entry| {
        let found = NAMES.iter().find(|(known, _)| *known == entry);
        found.unwrap().1
    };
    policy
        .ranges()
        .iter()
        .map(|range| {
            let (address, rule) = (range.address(), name(range.entry()));
            format!("{address}/{} {rule}", range.length())
        })
        .collect()
}

fn lists(excluded: &[&str], included: &[&str]) -> Lists {
    let ranges = |list: &[&str]| list.iter().map(|range| range.parse().unwrap()).collect();
    Lists {
        outbound_ranges_excluded: ranges(excluded),
        outbound_ranges_included: ranges(included),
        ..Lists::default()
    }
}

#[rstest]
#[case::nothing(&[], &[], &[])]
#[case::v4_is_mapped(&["10.0.0.0/8"], &[], &["10.0.0.0/104 excluded"])]
#[case::exclusion_in_exclusion(
    &["10.0.0.0/8", "10.1.0.0/16", "10.255.255.255/32"],
    &[],
    &["10.0.0.0/104 excluded"]
)]
#[case::inclusion_in_inclusion(
    &[],
    &["10.0.0.0/8", "10.1.0.0/16"],
    &["10.0.0.0/104 included"]
)]
#[case::inclusion_in_exclusion(
    &["10.0.0.0/8"],
    &["10.1.0.0/16", "11.0.0.0/8"],
    &["10.0.0.0/104 excluded", "11.0.0.0/104 included"]
)]
#[case::exclusion_in_inclusion(
    &["10.1.0.0/16"],
    &["10.0.0.0/8"],
    &["10.0.0.0/104 included", "10.1.0.0/112 excluded"]
)]
#[case::both_of_the_same(&["10.0.0.0/8"], &["10.0.0.0/8"], &["10.0.0.0/104 excluded"])]
#[case::by_turns(
    &["10.1.0.0/16", "10.1.1.1/32"],
    &["10.0.0.0/8", "10.1.1.0/24", "10.2.0.0/16"],
    &["10.0.0.0/104 included", "10.1.0.0/112 excluded"]
)]
#[case::neighbours(
    &["10.0.0.0/9", "10.128.0.0/9"],
    &[],
    &["10.0.0.0/105 excluded", "10.128.0.0/105 excluded"]
)]
#[case::all_of_v4(&["0.0.0.0/0", "1.1.1.1/32"], &[], &["0.0.0.0/96 excluded"])]
#[case::all_of_v6(
    &["::/0", "10.0.0.0/8", "fd00::/8"],
    &[],
    &["::/0 excluded", "0.0.0.0/96 neutral", "10.0.0.0/104 excluded"]
)]
#[case::all_of_both(&["::/0", "0.0.0.0/0"], &[], &["::/0 excluded", "0.0.0.0/96 excluded"])]
#[case::all_of_v6_excluded_all_of_v4_included(
    &["::/0"],
    &["0.0.0.0/0"],
    &["::/0 excluded", "0.0.0.0/96 included"]
)]
#[case::all_of_v6_included(&[], &["::/0"], &["::/0 included", "0.0.0.0/96 neutral"])]
#[case::barely_around_v4(
    &["::fffe:0:0/95"],
    &[],
    &["::fffe:0:0/95 excluded", "0.0.0.0/96 neutral"]
)]
#[case::barely_beside_v4(&["::fffe:0:0/96"], &[], &["::fffe:0:0/96 excluded"])]
#[case::written_as_v6(&["::ffff:10.0.0.0/104", "10.1.0.0/16"], &[], &["10.0.0.0/104 excluded"])]
#[case::host_bits(&["2.2.2.2/24", "2.2.2.3/24"], &[], &["2.2.2.0/120 excluded"])]
fn ranges_compile_to_normal_form(
    #[case] excluded: &[&str],
    #[case] included: &[&str],
    #[case] expected: &[&str],
) {
    let policy = Policy::compile(&lists(excluded, included), false);
    assert_eq!(entries(&policy), expected);
    let has = |flag| policy.word(7).has(flag);
    assert_eq!(has(PolicyWord::RANGES), !expected.is_empty());
    let of_v6 = |range: &&str| range.contains(':');
    assert_eq!(
        has(PolicyWord::INCLUSION_V4),
        included.iter().any(|range| !of_v6(range))
    );
    assert_eq!(has(PolicyWord::INCLUSION_V6), included.iter().any(of_v6));
    assert_eq!(policy.word(7).id(), 7);
}

#[rstest]
#[case::none(Lists::default(), false, 0)]
#[case::dual_stack(Lists::default(), true, PolicyWord::DUAL_STACK)]
#[case::outbound(
    Lists { outbound_ports_excluded: [80].into(), ..Lists::default() },
    false,
    PolicyWord::OUTBOUND_PORTS
)]
#[case::inbound(
    Lists { inbound_ports_excluded: [80].into(), ..Lists::default() },
    true,
    PolicyWord::INBOUND_PORTS | PolicyWord::DUAL_STACK
)]
#[case::inclusion_all_excluded(
    lists(&["10.0.0.0/8"], &["10.1.0.0/16"]),
    false,
    PolicyWord::RANGES | PolicyWord::INCLUSION_V4
)]
#[case::v6_inclusion_all_excluded(
    lists(&["fd00::/8"], &["fd00:1::/32"]),
    false,
    PolicyWord::RANGES | PolicyWord::INCLUSION_V6
)]
#[case::inclusion_around_v4_is_of_v6(
    lists(&[], &["::/0", "::fffe:0:0/95"]),
    false,
    PolicyWord::RANGES | PolicyWord::INCLUSION_V6
)]
#[case::inclusion_written_as_v6_is_of_v4(
    lists(&[], &["::ffff:0:0/96", "::ffff:10.1.2.3/104"]),
    false,
    PolicyWord::RANGES | PolicyWord::INCLUSION_V4
)]
#[case::inclusions_of_both(
    lists(&[], &["10.0.0.0/8", "fd00::/8"]),
    false,
    PolicyWord::RANGES | PolicyWord::INCLUSION_V4 | PolicyWord::INCLUSION_V6
)]
fn flags_say_what_there_is_to_look_up(
    #[case] lists: Lists,
    #[case] dual_stack: bool,
    #[case] flags: u32,
) {
    assert_eq!(Policy::compile(&lists, dual_stack).flags(), flags);
}

#[test]
fn ports_compile_to_pages_of_their_direction() {
    let lists = Lists {
        outbound_ports_excluded: [1, 511, 512, 65535].into(),
        inbound_ports_excluded: [1023].into(),
        ..Lists::default()
    };
    let page = |ports: &[u16]| {
        let mut page = PortPage::EMPTY;
        for port in ports {
            page.insert(*port, Origin::MESH);
        }
        page
    };
    let policy = Policy::compile(&lists, false);
    let pages: Vec<_> = policy
        .port_pages()
        .map(|(d, p, bits)| (d, p, *bits))
        .collect();
    assert_eq!(
        pages,
        [
            (Direction::Outbound, 0, page(&[1, 511])),
            (Direction::Outbound, 512, page(&[512])),
            (Direction::Outbound, 65024, page(&[65535])),
            (Direction::Inbound, 512, page(&[1023])),
        ]
    );
}

#[test]
fn items_say_whose_list_they_are_on() {
    let mesh = Lists {
        outbound_ports_excluded: [1, 2].into(),
        ..lists(&["10.0.0.0/8", "192.0.2.0/24"], &["172.16.0.0/12"])
    };
    let pod = Lists {
        outbound_ports_excluded: [2, 3].into(),
        // The first is inside one of the mesh's, the last excludes what the mesh includes.
        ..lists(
            &["10.1.0.0/16", "192.0.2.0/24", "172.16.0.0/12"],
            &["198.51.100.0/24"],
        )
    };
    let mesh = MeshConfig {
        lists: mesh,
        ..MeshConfig::default()
    };
    let policy = Policy::of_pod(&mesh, &pod, false);
    let both = Origin::MESH.and(Origin::POD);
    let ranges = policy.ranges().iter().map(|range| {
        let stored = range.stored();
        assert_eq!(stored.kind(), range.entry());
        (range.address().to_string(), stored.origin())
    });
    let wanted = [
        ("10.0.0.0", Origin::MESH),
        ("172.16.0.0", Origin::POD),
        ("192.0.2.0", both),
        ("198.51.100.0", Origin::POD),
    ];
    let wanted = wanted.map(|(address, origin)| (address.to_owned(), origin));
    assert_eq!(ranges.collect::<Vec<_>>(), wanted);
    let (_, _, page) = policy.port_pages().next().unwrap();
    let origins = [1, 2, 3, 4].map(|port| page.origin(port));
    assert_eq!(origins, [Origin::MESH, both, Origin::POD, Origin::NONE]);
    assert_eq!(page.len(), 3);
}

#[test]
fn digest_is_the_same_everywhere() {
    let lists = Lists {
        outbound_ports_excluded: [80].into(),
        inbound_ports_excluded: [443].into(),
        ..lists(&["10.1.0.0/16"], &["10.0.0.0/8", "::/0"])
    };
    let digest = Policy::compile(&lists, true).digest();
    let hex = digest.map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(
        hex,
        "9213d39c78c2a3fd29c4508f394f57be37b3c1e2051f91ec61b324bb5b060285"
    );
}

#[test]
fn hundred_thousand_ranges_compile_and_are_found() {
    let net = |n: u32| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::from_bits(n << 8), 24));
    let host = |n: u32| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::from_bits(n << 8), 32));
    let lists = Lists {
        outbound_ranges_included: (0..50_000).map(net).collect(),
        outbound_ranges_excluded: (0..50_000).map(host).collect(),
        ..Lists::default()
    };
    let policy = Policy::compile(&lists, false);
    assert_eq!(policy.ranges().len(), 100_000);
    let found = |n: u32| policy.longest_match(&Address::from(IpAddr::from(Ipv4Addr::from_bits(n))));
    assert_eq!(found(49_999 << 8).unwrap().entry(), RangeEntry::EXCLUDED);
    assert_eq!(
        found((49_999 << 8) + 1).unwrap().entry(),
        RangeEntry::INCLUDED
    );
    assert_eq!(found(50_000 << 8), None);
}
