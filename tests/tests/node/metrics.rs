//! What Prometheus reads of a node, and what dashboard and alerts make of it.

use std::{collections::BTreeSet, fs, path::Path};

use aya::sys::{Stats, enable_stats};
use osm_tests::{Dial, Node, World};

use crate::{
    REMOTE,
    mesh::{expect_outbound, expect_refused},
};

/// Every name that a text mentions of metrics as ours are called.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("osm_") || word.starts_with("process_"));
    ours.map(String::from).collect()
}

/// A node with one pod, of which connections were redirected and refused.
fn used() -> Option<(World, Node)> {
    Node::intercepting("{traffic: {outboundPortExclusionList: [5432, 6379]}}")
}

#[test]
fn verdicts_listeners_and_lists_are_counted_and_survive_the_agent() {
    let Some((world, mut node)) = used() else {
        return;
    };
    let name = world.pod.name().to_owned();
    let pod = format!("pod_namespace=\"test\",pod_name=\"{name}\"");
    let verdicts = |verdict: &str, reason: &str| {
        format!("osm_verdicts_total{{{pod},verdict=\"{verdict}\",reason=\"{reason}\"}}")
    };
    let refused = verdicts("refuse", "refuse-no-outbound-listener");
    let redirected = verdicts("redirect", "redirect-outbound");
    let listeners = format!("osm_sidecar_listeners{{{pod},direction=\"outbound\"}}");
    let mut app = world.pod.app();
    expect_refused(&mut app, Dial::to(REMOTE));
    let seen = |node: &Node, name: &str, wanted: f64| {
        let value = node.metric(name);
        assert!(
            (value - wanted).abs() < 0.1,
            "{name} is {value}, not {wanted}"
        );
    };
    seen(&node, &refused, 1.0);
    seen(&node, &redirected, 1.0);
    seen(&node, &listeners, 0.0);

    let mut sidecar = world.pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE]);
    for _ in 0..3 {
        let connection = app.connect(REMOTE);
        expect_outbound(&mut sidecar, &connection, REMOTE, world.pod.ip4());
    }
    seen(&node, &redirected, 4.0);
    seen(&node, &listeners, 1.0);
    let (_, text) = node.get("/metrics");
    let has_ports =
        |line: &str| line.starts_with("osm_policy_items{") && line.ends_with(",list=\"ports\"} 2");
    assert!(text.lines().any(has_ports), "{text}");

    node.kill();
    node.start();
    node.wait_intercepted(&world.pod);
    seen(&node, &redirected, 4.0);
    seen(&node, &refused, 1.0);
}

#[test]
fn reading_that_fails_is_counted_and_said_and_ends_no_scrape() {
    let Some((_world, node)) = used() else {
        return;
    };
    let failed = |node: &Node| node.metric("osm_scrape_errors_total");
    assert!(failed(&node) < 0.5, "{}", node.log());
    let pin = node.state().path().join("maps/COUNTERS");
    let aside = pin.with_file_name("aside");
    fs::rename(&pin, &aside).expect("it was there");
    let (_, text) = node.get("/metrics");
    assert!(text.contains("osm_scrape_errors_total 1"), "{text}");
    assert!(text.contains("osm_pods{state=\"intercepted\"} 1"), "{text}");
    assert!(!text.contains("osm_policy_items{"), "{text}");
    node.wait("it is said", |node| {
        node.log().contains("not all of the metrics can be read")
    });
    fs::rename(&aside, &pin).expect("nobody else makes it anew so soon");
    let (_, text) = node.get("/metrics");
    assert!(text.contains("osm_scrape_errors_total 1"), "{text}");
    assert!(text.contains("osm_policy_items{"), "{text}");
    assert!(node.log().contains("can be read again"), "{}", node.log());
}

#[test]
fn dashboard_and_alerts_ask_for_what_there_is() {
    // As long as this is open, the kernel counts how long programs run.
    let Ok(_statistics) = enable_stats(Stats::RunTime) else {
        panic!("the kernel does not count how long programs run");
    };
    let Some((world, node)) = used() else {
        return;
    };
    expect_refused(&mut world.pod.app(), Dial::to(REMOTE));
    let (_, text) = node.get("/metrics");
    let there = names(&text);
    assert!(there.contains("osm_bpf_runs_total"), "{text}");
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    for file in ["grafana-dashboard.json", "alerts.yaml", "rules_test.yaml"] {
        let asked = fs::read_to_string(monitoring.join(file)).expect("it is there");
        let asked = names(&asked);
        assert!(!asked.is_empty(), "{file} asks for nothing");
        let missing: Vec<_> = asked.difference(&there).collect();
        assert!(
            missing.is_empty(),
            "{file} asks for {missing:?}, which there is not"
        );
    }
}
