//! What `iptables-save` prints, odd things too.

use osm_agent::{
    config::Lists,
    iptables::{Family, Jump, Saved, Unreadable},
};
use rstest::rstest;

use crate::{applied, rules, table, text};

const JUMP: &str = r#"-p tcp -m comment --comment "osm-agent: all TCP" -j PROXY_INBOUND"#;

#[rstest]
#[case::nothing("")]
#[case::comments("# Warning: iptables-legacy tables present, use iptables-legacy-save\n")]
#[case::empty_table(&text(&[]))]
#[case::other_table("*filter\n:PROXY_INBOUND - [0:0]\n-A FORWARD -j PROXY_INBOUND\n!odd\nCOMMIT\n")]
#[case::other_policies("*nat\n:PREROUTING DROP [0:0]\nCOMMIT\n")]
fn table_without_rules_is_empty(#[case] text: &str) {
    assert_eq!(Saved::parse(text), Ok(Saved::default()));
}

#[rstest]
#[case::rule("-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE")]
#[case::rule_without_target("-A OUTPUT -d 1.1.1.1/32")]
#[case::bare_rule("-A OUTPUT")]
#[case::chain(":DOCKER_OUTPUT - [0:0]")]
#[case::comment_that_looks_like_a_jump(
    r#"-A OUTPUT -m comment --comment "-j PROXY_OUTPUT" -j ACCEPT"#
)]
#[case::comment_without_quotes("-A OUTPUT -m comment --comment -jPROXY_OUTPUT -j ACCEPT")]
#[case::longer_name("-A OUTPUT -j PROXY_OUTPUT_2")]
#[case::shorter_name("-A OUTPUT -j PROXY")]
#[case::with_counters("[12:720] -A OUTPUT -p udp -j ACCEPT")]
fn rules_of_others_are_not_ours(#[case] line: &str) {
    let saved = table(&[line]);
    assert!(saved.has_others && !saved.has_ours(), "{saved:?}");
}

#[rstest]
#[case::plain(JUMP, "PREROUTING", "PROXY_INBOUND")]
#[case::goto("-s 1.1.1.1/32 -g PROXY_REDIRECT", "FOREIGN", "PROXY_REDIRECT")]
#[case::comment_with_quote(
    r#"-m comment --comment "say \"-j ACCEPT" -j PROXY_OUTPUT"#,
    "OUTPUT",
    "PROXY_OUTPUT"
)]
#[case::comment_that_is_an_option(
    "-m comment --comment -j -j PROXY_OUTPUT",
    "OUTPUT",
    "PROXY_OUTPUT"
)]
fn rule_that_leads_into_our_chains_is_a_jump(
    #[case] rule: &str,
    #[case] from: &str,
    #[case] to: &str,
) {
    let [from, to, rule] = [from, to, rule].map(str::to_owned);
    let saved = table(&[&format!("-A {from} {rule}")]);
    assert_eq!(saved.jumps, [Jump { from, to, rule }]);
    assert!(!saved.has_others && saved.has_ours());
}

#[rstest]
#[case::cut_off("*nat\n:PREROUTING ACCEPT [0:0]\n", Unreadable::Truncated)]
#[case::made_with_nft("# Table `nat' is incompatible, use 'nft' tool.\n", Unreadable::Native)]
#[case::unknown_command("*nat\n-I OUTPUT -j ACCEPT\nCOMMIT\n", Unreadable::Odd("-I OUTPUT -j ACCEPT".into()))]
#[case::declaration("*nat\n:OUTPUT\nCOMMIT\n", Unreadable::Odd(":OUTPUT".into()))]
#[case::counters("*nat\n[1:2\nCOMMIT\n", Unreadable::Odd("[1:2".into()))]
fn text_that_may_hide_rules_is_an_error(#[case] text: &str, #[case] error: Unreadable) {
    assert_eq!(Saved::parse(text), Err(error));
}

#[rstest]
#[case::every_protocol("-A OUTPUT -d 192.0.2.9/32 -j RETURN", true)]
#[case::tcp(
    "-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080",
    true
)]
#[case::all_but_udp("-A OUTPUT ! -p udp -j ACCEPT", true)]
#[case::chain_of_others("-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT", true)]
#[case::goto("-A OUTPUT -g FOREIGN", true)]
#[case::udp(
    "-A OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 192.0.2.1",
    false
)]
#[case::all_but_tcp("-A OUTPUT ! -p tcp -j ACCEPT", false)]
#[case::no_target("-A OUTPUT -d 192.0.2.9/32", false)]
#[case::goes_on("-A OUTPUT -j LOG --log-prefix \"-j ACCEPT\"", false)]
#[case::other_hook("-A POSTROUTING -j MASQUERADE", false)]
#[case::chain_of_its_own("-A FOREIGN -p tcp -j ACCEPT", false)]
fn rule_of_others_that_may_take_tcp_is_ahead_of_our_jump(
    #[case] line: &str,
    #[case] may_take: bool,
) {
    let jumps = ["PREROUTING", "OUTPUT"].map(|hook| {
        let chain = hook.replace("PREROUTING", "INBOUND");
        format!("-A {hook} -p tcp -m comment --comment \"osm-agent: all TCP\" -j PROXY_{chain}")
    });
    let [first, second] = jumps.each_ref().map(String::as_str);
    let ahead = |lines: &[&str]| {
        let rules = table(lines).ahead.into_iter();
        rules
            .map(|it| format!("-A {} {}", it.from, it.rule))
            .collect::<Vec<_>>()
    };
    let expected: &[&str] = if may_take { &[line] } else { &[] };
    assert_eq!(ahead(&[line, first, second]), expected);
    assert_eq!(ahead(&[line]), expected);
    assert!(ahead(&[first, second, line]).is_empty());
}

fn some_lists() -> Lists {
    Lists {
        outbound_ranges_excluded: ["10.0.0.0/8", "0.0.0.0/1", "200.1.1.1/32"]
            .map(|it| it.parse().unwrap())
            .into(),
        outbound_ports_excluded: (1..=16).collect(),
        ..Lists::default()
    }
}

#[test]
fn what_was_applied_equals_what_is_wanted_and_nothing_else() {
    let wanted = rules(&some_lists());
    let saved = applied(&wanted);
    assert!(saved.equals(wanted.of(Family::V4).unwrap()));
    assert_eq!(saved.faults(), Vec::<String>::new());
    let other = rules(&Lists::default());
    assert!(!saved.equals(other.of(Family::V4).unwrap()));
    // Whatever the lists, that is no fault.
    assert_eq!(applied(&other).faults(), Vec::<String>::new());
}

/// As other versions print it: matches in another order, numbers for names, no quotes where
/// none are needed.
#[rstest]
#[case::protocol("-p tcp", "-p 6")]
#[case::order("! -d 127.0.0.1/32 -o lo", "-o lo ! -d 127.0.0.1/32")]
#[case::no_length("-d 200.1.1.1/32 ", "-d 200.1.1.1 ")]
#[case::loaded_match("-p tcp -m multiport", "-p tcp -m tcp -m multiport")]
#[case::comment_first(
    r#"-p tcp -m comment --comment "osm-agent: to the inbound listener""#,
    r#"-m comment --comment "osm-agent: to the inbound listener" -p tcp"#
)]
fn rules_printed_in_other_words_are_the_same(#[case] ours: &str, #[case] theirs: &str) {
    let wanted = rules(&some_lists());
    let mut saved = applied(&wanted);
    let mut count = 0;
    for rule in saved.chains.values_mut().flatten() {
        count += usize::from(rule.contains(ours));
        *rule = rule.replace(ours, theirs);
    }
    assert!(count > 0, "{ours} is not there");
    assert!(saved.equals(wanted.of(Family::V4).unwrap()));
    assert_eq!(saved.faults(), Vec::<String>::new());
}

fn chain<'a>(saved: &'a mut Saved, name: &str) -> &'a mut Vec<String> {
    saved.chains.get_mut(name).unwrap()
}

type Change = (fn(&mut Saved), &'static str);

const CHAINS_CHANGED: [Change; 7] = [
    (
        |it| chain(it, "PROXY_OUTPUT").swap(0, 1),
        "changed PROXY_OUTPUT",
    ),
    (
        |it| drop(chain(it, "PROXY_INBOUND").remove(0)),
        "changed PROXY_INBOUND",
    ),
    (
        |it| chain(it, "PROXY_IN_REDIRECT").push("-j RETURN".into()),
        "changed PROXY_IN_REDIRECT",
    ),
    (
        |it| {
            chain(it, "PROXY_INBOUND").clear();
            chain(it, "PROXY_OUTPUT").clear();
        },
        "changed PROXY_INBOUND and PROXY_OUTPUT",
    ),
    (
        |it| chain(it, "PROXY_REDIRECT").extend_from_within(..),
        "changed PROXY_REDIRECT",
    ),
    (
        |it| chain(it, "PROXY_REDIRECT")[0] = "-j ACCEPT".into(),
        "changed PROXY_REDIRECT",
    ),
    (
        |it| {
            let rule = &mut chain(it, "PROXY_OUTPUT")[0];
            *rule = rule.replace("! ", "");
        },
        "changed PROXY_OUTPUT",
    ),
];

const CHAINS_AND_JUMPS_CHANGED: [Change; 5] = [
    (
        |it| drop(it.chains.remove("PROXY_INBOUND")),
        "the chain PROXY_INBOUND was gone",
    ),
    (
        |it| drop(it.jumps.remove(0)),
        "jump from PREROUTING to PROXY_INBOUND was gone",
    ),
    (
        |it| it.jumps.extend_from_within(1..),
        "2 jumps from OUTPUT to PROXY_OUTPUT",
    ),
    (
        |it| it.jumps[0].rule.push_str(" -s 1.1.1.1/32"),
        "PREROUTING led to PROXY_INBOUND",
    ),
    (
        |it| {
            let mut jump = it.jumps[1].clone();
            jump.from = "FOREIGN".into();
            it.jumps.push(jump);
        },
        "FOREIGN led to PROXY_OUTPUT",
    ),
];

#[test]
fn what_somebody_else_changed_is_named() {
    for (change, expected) in CHAINS_CHANGED.iter().chain(&CHAINS_AND_JUMPS_CHANGED) {
        let wanted = rules(&some_lists());
        let mut saved = applied(&wanted);
        change(&mut saved);
        assert!(!saved.equals(wanted.of(Family::V4).unwrap()), "{expected}");
        let faults = saved.faults().join("; ");
        assert!(faults.contains(expected), "{faults}");
    }
}
