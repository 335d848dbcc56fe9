//! From what is there to what is wanted.

use osm_agent::{
    config::Lists,
    iptables::{Family, RuleSet, Saved, restoration, transaction},
};

use crate::{applied, rules, table};

fn other_rules() -> RuleSet {
    rules(&Lists {
        outbound_ports_excluded: [80].into(),
        ..Lists::default()
    })
}

/// The lines but for rules of our chains and comments.
fn frame(text: &str) -> Vec<&str> {
    let lines = text.lines();
    lines
        .filter(|line| !line.starts_with("-A PROXY_") && !line.starts_with('#'))
        .collect()
}

const DECLARED: [&str; 5] = [
    "*nat",
    ":PROXY_INBOUND - [0:0]",
    ":PROXY_IN_REDIRECT - [0:0]",
    ":PROXY_OUTPUT - [0:0]",
    ":PROXY_REDIRECT - [0:0]",
];
const JUMPS: [&str; 2] = [
    r#"-A PREROUTING -p tcp -m comment --comment "osm-agent: all TCP" -j PROXY_INBOUND"#,
    r#"-A OUTPUT -p tcp -m comment --comment "osm-agent: all TCP" -j PROXY_OUTPUT"#,
];

#[test]
fn right_rules_are_left_alone() {
    let wanted = other_rules();
    let now = applied(&wanted);
    assert_eq!(transaction(Family::V4, &now, wanted.of(Family::V4)), None);
    assert_eq!(transaction(Family::V4, &Saved::default(), None), None);
}

#[test]
fn right_jumps_stay_where_they_are() {
    let now = applied(&other_rules());
    let text = transaction(Family::V4, &now, rules(&Lists::default()).of(Family::V4)).unwrap();
    assert_eq!(frame(&text), [&DECLARED[..], &["COMMIT"]].concat());
}

#[test]
fn wrong_jumps_are_replaced_in_the_same_transaction() {
    let wanted = other_rules();
    let mut now = applied(&wanted);
    now.jumps.extend_from_within(..1);
    now.jumps.push(
        table(&["-A FOREIGN -p tcp -g PROXY_REDIRECT"])
            .jumps
            .remove(0),
    );
    let text = transaction(Family::V4, &now, wanted.of(Family::V4)).unwrap();
    let deleted = |jump: &str| jump.replacen("-A", "-D", 1);
    let [inbound, outbound] = JUMPS.map(deleted);
    let expected = [
        &DECLARED[..],
        &[
            &inbound,
            &outbound,
            &inbound,
            "-D FOREIGN -p tcp -g PROXY_REDIRECT",
        ],
        &JUMPS,
        &["COMMIT"],
    ];
    assert_eq!(frame(&text), expected.concat());
}

#[test]
fn removal_names_what_is_ours_only() {
    let now = table(&[
        ":FOREIGN - [0:0]",
        ":PROXY_OUTPUT - [0:0]",
        ":PROXY_REDIRECT - [0:0]",
        "-A OUTPUT -d 1.1.1.1/32 -j FOREIGN",
        "-A OUTPUT -p tcp -j PROXY_OUTPUT",
        "-A PROXY_OUTPUT -j PROXY_REDIRECT",
    ]);
    let expected = [
        "*nat",
        "-D OUTPUT -p tcp -j PROXY_OUTPUT",
        "-F PROXY_OUTPUT",
        "-F PROXY_REDIRECT",
        "-X PROXY_OUTPUT",
        "-X PROXY_REDIRECT",
        "COMMIT",
    ];
    let text = transaction(Family::V6, &now, None).unwrap();
    assert_eq!(frame(&text), expected);
    assert!(text.starts_with("# osm-agent: for ip6tables-restore"));
}

#[test]
fn restoration_brings_back_what_was() {
    let before = table(&[
        ":PROXY_OUTPUT - [0:0]",
        "-A OUTPUT -p tcp -j PROXY_OUTPUT",
        "-A PROXY_OUTPUT -p tcp -j ACCEPT",
    ]);
    let now = applied(&other_rules());
    assert_eq!(restoration(Family::V4, &now, &now), None);
    let text = restoration(Family::V4, &now, &before).unwrap();
    let [inbound, outbound] = JUMPS.map(|jump| jump.replacen("-A", "-D", 1));
    let expected = [
        "*nat",
        ":PROXY_OUTPUT - [0:0]",
        &inbound,
        &outbound,
        "-A PROXY_OUTPUT -p tcp -j ACCEPT",
        "-A OUTPUT -p tcp -j PROXY_OUTPUT",
        "-F PROXY_INBOUND",
        "-F PROXY_IN_REDIRECT",
        "-F PROXY_REDIRECT",
        "-X PROXY_INBOUND",
        "-X PROXY_IN_REDIRECT",
        "-X PROXY_REDIRECT",
        "COMMIT",
    ];
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, expected);
    // To nothing, it is the removal.
    let nothing = restoration(Family::V4, &now, &Saved::default());
    assert_eq!(nothing, transaction(Family::V4, &now, None));
}
