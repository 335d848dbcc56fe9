//! The text, line by line.

use osm_agent::{config::Lists, iptables::RuleSet, policy::Policy};
use rstest::rstest;

use crate::rules;

#[test]
fn rules_without_lists_are_the_documented_ones() {
    let expected = r#"# osm-agent: for iptables-restore --noflush
*nat
:PROXY_INBOUND - [0:0]
:PROXY_IN_REDIRECT - [0:0]
:PROXY_OUTPUT - [0:0]
:PROXY_REDIRECT - [0:0]
-A PROXY_INBOUND -p tcp -m multiport --dports 15010,15901,15902,15903,15904 -m comment --comment "osm-agent: probes and metrics" -j RETURN
-A PROXY_INBOUND -m comment --comment "osm-agent: all other inbound" -j PROXY_IN_REDIRECT
-A PROXY_IN_REDIRECT -p tcp -m comment --comment "osm-agent: to the inbound listener" -j REDIRECT --to-ports 15003
-A PROXY_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --uid-owner 1500 -m comment --comment "osm-agent: sidecar to its pod" -j PROXY_IN_REDIRECT
-A PROXY_OUTPUT -o lo -m owner ! --uid-owner 1500 -m comment --comment "osm-agent: inside the pod" -j RETURN
-A PROXY_OUTPUT -m owner --uid-owner 1500 -m comment --comment "osm-agent: sidecar" -j RETURN
-A PROXY_OUTPUT -d 127.0.0.1/32 -m comment --comment "osm-agent: localhost" -j RETURN
-A PROXY_OUTPUT -m comment --comment "osm-agent: all other outbound" -j PROXY_REDIRECT
-A PROXY_REDIRECT -p tcp -m comment --comment "osm-agent: to the outbound listener; rules 245a3839bf59 3bc76f1281d7 759775733722" -j REDIRECT --to-ports 15001
-A PREROUTING -p tcp -m comment --comment "osm-agent: all TCP" -j PROXY_INBOUND
-A OUTPUT -p tcp -m comment --comment "osm-agent: all TCP" -j PROXY_OUTPUT
COMMIT
"#;
    assert_eq!(rules(&Lists::default()).render(), expected);
}

/// What the rules of a chain match and where they lead, comments left out, of both families.
fn chain(policy: &Policy, name: &str) -> [Vec<String>; 2] {
    let addresses = ["10.1.1.1", "fd00::1"].map(|it| it.parse().unwrap());
    let text = RuleSet::new(policy, &addresses).unwrap().render();
    let (v4, v6) = text
        .split_once("# osm-agent: for ip6")
        .unwrap_or((&text, ""));
    [v4, v6].map(|text| {
        text.lines()
            .filter_map(|line| line.strip_prefix(&format!("-A {name} ")))
            .map(|rule| {
                let (matches, rest) = rule
                    .split_once("-m comment --comment \"osm-agent: ")
                    .unwrap();
                let (_, target) = rest.split_once("\" -j ").unwrap();
                format!("{matches}{target}")
            })
            .collect()
    })
}

fn lists(excluded: &[&str], included: &[&str], ports: &[u16]) -> Lists {
    let ranges = |list: &[&str]| list.iter().map(|range| range.parse().unwrap()).collect();
    Lists {
        outbound_ranges_excluded: ranges(excluded),
        outbound_ranges_included: ranges(included),
        outbound_ports_excluded: ports.iter().copied().collect(),
        inbound_ports_excluded: ports.iter().copied().collect(),
    }
}

#[rstest]
#[case::exclusion_then_ports(
    lists(&["10.0.0.0/8", "fd00::/8"], &[], &[80, 443]),
    &["-d 10.0.0.0/8 RETURN", "-p tcp -m multiport --dports 80,443 RETURN", "PROXY_REDIRECT"],
    &["-d fd00::/8 RETURN", "-p tcp -m multiport --dports 80,443 RETURN", "PROXY_REDIRECT"],
)]
#[case::ports_then_inclusion(
    lists(&["10.1.0.0/16"], &["10.0.0.0/8"], &[1]),
    &[
        "-d 10.1.0.0/16 RETURN",
        "-p tcp -m multiport --dports 1 RETURN",
        "-d 10.0.0.0/8 PROXY_REDIRECT",
        "RETURN",
    ],
    // Inclusions limit their own family only.
    &["-p tcp -m multiport --dports 1 RETURN", "PROXY_REDIRECT"],
)]
#[case::everything(
    lists(&["0.0.0.0/0"], &["::/0"], &[]),
    &["-d 0.0.0.0/0 RETURN", "PROXY_REDIRECT"],
    &["-d ::/0 PROXY_REDIRECT", "RETURN"],
)]
#[case::inclusion_that_is_excluded_as_a_whole(
    lists(&["10.0.0.0/8"], &["10.1.0.0/16"], &[]),
    &["-d 10.0.0.0/8 RETURN", "RETURN"],
    &["PROXY_REDIRECT"],
)]
#[case::inclusion_of_v6_only(
    lists(&[], &["fd00::/8"], &[]),
    &["PROXY_REDIRECT"],
    &["-d fd00::/8 PROXY_REDIRECT", "RETURN"],
)]
#[case::inclusion_of_each(
    lists(&[], &["10.0.0.0/8", "fd00::/8"], &[]),
    &["-d 10.0.0.0/8 PROXY_REDIRECT", "RETURN"],
    &["-d fd00::/8 PROXY_REDIRECT", "RETURN"],
)]
#[case::v4_written_as_v6_and_a_neighbour(
    lists(&["::ffff:10.0.0.0/104", "::fffe:0:0/95"], &[], &[]),
    &["-d 10.0.0.0/8 RETURN", "PROXY_REDIRECT"],
    &["-d ::fffe:0:0/95 RETURN", "PROXY_REDIRECT"],
)]
#[case::sixteen_ports(
    lists(&[], &[], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 65535]),
    &[
        "-p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 RETURN",
        "-p tcp -m multiport --dports 65535 RETURN",
        "PROXY_REDIRECT",
    ],
    &[
        "-p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 RETURN",
        "-p tcp -m multiport --dports 65535 RETURN",
        "PROXY_REDIRECT",
    ],
)]
fn output_lists_come_in_the_order_of_the_spec(
    #[case] lists: Lists,
    #[case] v4: &[&str],
    #[case] v6: &[&str],
) {
    let [v4_rules, v6_rules] = chain(&Policy::compile(&lists, true), "PROXY_OUTPUT");
    let localhost = |address| {
        [
            format!("! -d {address} -o lo -m owner --uid-owner 1500 PROXY_IN_REDIRECT"),
            "-o lo -m owner ! --uid-owner 1500 RETURN".into(),
            "-m owner --uid-owner 1500 RETURN".into(),
            format!("-d {address} RETURN"),
        ]
    };
    assert_eq!(v4_rules[..4], localhost("127.0.0.1/32"));
    assert_eq!(v6_rules[..4], localhost("::1/128"));
    assert_eq!(v4_rules[4..], *v4);
    assert_eq!(v6_rules[4..], *v6);
}

#[test]
fn interfaces_come_after_inbound_ports_and_before_outbound_lists() {
    let lists = lists(&["10.0.0.0/8"], &[], &[80]);
    let names = ["eth1", "net.7@x"].map(str::to_owned).into();
    let policy = Policy::compile(&lists, false).with_excluded_interfaces(names);
    let [inbound, none] = chain(&policy, "PROXY_INBOUND");
    assert_eq!(
        inbound,
        [
            "-p tcp -m multiport --dports 80 RETURN",
            "-i eth1 RETURN",
            "-i net.7@x RETURN",
            "-p tcp -m multiport --dports 15010,15901,15902,15903,15904 RETURN",
            "PROXY_IN_REDIRECT",
        ]
    );
    assert!(none.is_empty(), "IPv6 is not asked for");
    let [output, _] = chain(&policy, "PROXY_OUTPUT");
    assert_eq!(
        output[4..],
        [
            "-o eth1 RETURN",
            "-o net.7@x RETURN",
            "-d 10.0.0.0/8 RETURN",
            "-p tcp -m multiport --dports 80 RETURN",
            "PROXY_REDIRECT",
        ]
    );
}

#[rstest]
#[case::wildcard("eth+", "plus sign")]
#[case::option("-x", "can't be written")]
#[case::negation("!", "can't be written")]
#[case::quote("a\"b", "can't be written")]
#[case::escape("a\\b", "can't be written")]
fn interface_that_iptables_would_misread_is_refused(#[case] name: &str, #[case] problem: &str) {
    let policy = Policy::compile(&Lists::default(), false)
        .with_excluded_interfaces([name.to_owned()].into());
    let error = RuleSet::new(&policy, &[]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let error = error.to_string();
    assert!(error.contains("networkInterfaceExclusionList"), "{error}");
    assert!(error.contains(problem), "{error}");
}

#[test]
fn pod_ip_comes_first_and_needs_an_address() {
    let policy = Policy::compile(&Lists::default(), true).with_pod_ip();
    let [v4, v6] = chain(&policy, "PROXY_OUTPUT");
    assert_eq!(
        v4[0],
        "-d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1500 DNAT --to-destination 10.1.1.1"
    );
    assert_eq!(
        v6[0],
        "-d ::1/128 -o lo -p tcp -m owner --uid-owner 1500 DNAT --to-destination fd00::1"
    );
    let error = RuleSet::new(&policy, &[]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--pod-address"), "{error}");
}

#[test]
fn thousands_of_ranges_and_ports_are_all_there() {
    let lists = Lists {
        outbound_ranges_excluded: (0..5000_u32)
            .map(|i| {
                format!("172.16.{}.{}/32", i / 250, i % 250)
                    .parse()
                    .unwrap()
            })
            .collect(),
        outbound_ports_excluded: (20_000..25_000).collect(),
        ..Lists::default()
    };
    let [output, _] = chain(&Policy::compile(&lists, false), "PROXY_OUTPUT");
    let ranges = output.iter().filter(|rule| rule.starts_with("-d 172.16."));
    assert_eq!(ranges.count(), 5000);
    let ports = output
        .iter()
        .filter_map(|rule| rule.strip_prefix("-p tcp -m multiport --dports "));
    let ports: Vec<&str> = ports
        .flat_map(|rule| rule[..rule.len() - 7].split(','))
        .collect();
    assert_eq!(ports.len(), 5000);
    assert!(output.iter().all(|rule| rule.split(',').count() <= 15));
}
