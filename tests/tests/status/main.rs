//! `osm-agent status`: what is pinned, with and without an agent, and what is wrong with it.

#[path = "../mesh/mod.rs"]
mod mesh;

mod agent;
mod looks;

use std::fs;

use mesh::{Lists, Mesh, expect_outbound, expect_refused};
use osm_tests::{Dial, Need, Outcome, missing};
use serde_json::{Value, json};

const REMOTE: &str = "198.51.100.10:80";
/// Where no agent is.
const NOBODY: &str = "http://127.0.0.1:9";

const LISTS: Lists<'static> = Lists {
    excluded_ranges: "192.0.2.0/24",
    included_ranges: "",
    excluded_ports: "81,82",
    excluded_inbound_ports: "83",
};

/// `status` without an agent.
#[track_caller]
fn run(mesh: &Mesh, flags: &[&str]) -> Outcome {
    let command = ["status", "--agent-url", NOBODY];
    mesh.agent.ask_all(&[&command[..], flags].concat())
}

#[track_caller]
fn table(mesh: &Mesh, flags: &[&str]) -> String {
    let text = run(mesh, flags).succeeded().stdout;
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    assert!(!text.contains('\u{1b}'), "{text:?}");
    text
}

#[track_caller]
fn report(mesh: &Mesh) -> Value {
    let text = run(mesh, &["-o", "json"]).succeeded().stdout;
    serde_json::from_str(&text).expect("JSON")
}

/// Everything that is said to be wrong with the first pod.
fn problems(report: &Value) -> String {
    report["pods"][0]["problems"].to_string()
}

#[test]
fn pods_are_shown_without_an_agent() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    let before = report(&mesh)["pods"][0]["connections"].clone();
    for _ in 0..3 {
        expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    }
    let said = report(&mesh);
    assert_eq!(said["agent"]["is_running"], false);
    assert_eq!(said["problems"], json!([]));
    let it = &said["pods"][0];
    assert_eq!(it["name"], pod.name());
    assert_eq!(it["mode"], "ebpf");
    assert_eq!(it["state"], Value::Null);
    assert_eq!(it["problems"], json!([]));
    assert_eq!(it["listeners"], json!({"outbound": true, "inbound": true}));
    assert_eq!(it["netns_cookie"], pod.netns.cookie());
    assert_eq!(it["cgroup_path"], pod.cgroup.path().display().to_string());
    assert_eq!(it["sidecar_uid"], 1500);
    for (field, count) in [("ranges", 1), ("outbound_ports", 2), ("inbound_ports", 1)] {
        assert_eq!(it["policy"][field], count, "{it}");
    }
    let redirected = |of: &Value| of["redirected"].as_u64().expect("a number");
    assert_eq!(redirected(&it["connections"]), redirected(&before) + 3);
    assert_eq!(
        it["counters"]["redirect-outbound"],
        it["connections"]["redirected"]
    );

    expect_shown(&mesh, it);
}

/// People see the same.
#[track_caller]
fn expect_shown(mesh: &Mesh, it: &Value) {
    let pod = &mesh.world.pod;
    let digest = &it["policy"]["digest"].as_str().expect("lists")[..8];
    let text = table(mesh, &[]);
    assert!(
        text.starts_with("No node agent at http://127.0.0.1:9: "),
        "{text}"
    );
    assert!(text.contains("`osm-agent run`"), "{text}");
    let row = text.lines().find(|line| line.starts_with(pod.name()));
    let row: Vec<&str> = row.expect("its row").split_whitespace().collect();
    let expected = [
        pod.name(),
        "ok",
        "ebpf",
        digest,
        "1r",
        "3p",
        "both",
        "3",
        "3",
        "0",
    ];
    assert_eq!(row, expected, "{text}");
    let detail = table(mesh, &["--pod", pod.name()]);
    for words in [
        "redirect-outbound",
        "1 ranges, 2 outbound ports",
        "10.77.1.2",
    ] {
        assert!(detail.contains(words), "{words}: {detail}");
    }
}

#[test]
fn nothing_pinned_is_told() {
    let Some(mesh) = Mesh::new() else { return };
    let text = table(&mesh, &["--fail-on-problems"]);
    assert!(text.contains("\n0 pods.\n"), "{text}");
}

#[test]
fn what_somebody_took_away_is_a_problem() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let _sidecar = mesh.world.pod.sidecar();
    let state = mesh.agent.state();
    let unpin = |name: &str| {
        let pins = state.pins_called(name);
        let pin = pins
            .iter()
            .find(|pin| pin.starts_with(state.path().join("pods")));
        fs::remove_file(pin.expect("a pin")).expect("it was there");
    };
    let damage: [(&str, &dyn Fn(), &str); 4] = [
        (
            "link",
            &|| state.detach_link("connect4"),
            "connect4 is detached",
        ),
        ("pin", &|| unpin("inbound"), "inbound is missing"),
        (
            "map",
            &|| fs::remove_file(state.map("RANGES")).expect("it was there"),
            "RANGES",
        ),
        (
            "record",
            &|| fs::remove_file(state.map("POD_RECORDS")).expect("it was there"),
            "its record in the map POD_RECORDS is missing",
        ),
    ];
    for (what, damage, words) in damage {
        damage();
        let said = report(&mesh);
        assert!(problems(&said).contains(words), "{what}: {said}");
        let todo = &said["pods"][0]["problems"][0]["todo"];
        assert!(todo.to_string().contains("osm-agent "), "{what}: {said}");
        let text = table(&mesh, &[]);
        let problems = text.find("PROBLEMS").expect("a heading");
        assert!(problems < text.find("POD ").expect("a table"), "{text}");
        let outcome = run(&mesh, &["--fail-on-problems"]).failed();
        assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    }
}

#[test]
fn sidecar_that_does_not_listen_is_a_problem() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let pod = &mesh.world.pod;
    let sidecar = pod.sidecar();
    assert_eq!(report(&mesh)["pods"][0]["problems"], json!([]));
    sidecar.stop();
    expect_refused(&mut pod.app(), Dial::to(REMOTE));
    let said = report(&mesh);
    let problems = problems(&said);
    for words in [
        "does not listen on 15001: outbound connections are refused",
        "does not listen on 15003",
        "osm-agent check --pod",
    ] {
        assert!(problems.contains(words), "{words}: {said}");
    }
    assert_eq!(said["pods"][0]["connections"]["refused"], 1, "{said}");
    let one = pod.sidecar_with(&["--inbound", "127.0.0.1:4711"]);
    let text = table(&mesh, &[]);
    assert!(text.contains("does not listen on 15003"), "{text}");
    assert!(!text.contains("does not listen on 15001"), "{text}");
    one.stop();
}

#[test]
fn longest_name_stays_in_the_table_and_is_whole_in_json() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let name = format!("{}/{}", "n".repeat(63), "p".repeat(253));
    let ports: Vec<String> = (1..=15_000).map(|port| port.to_string()).collect();
    let ranges: Vec<String> = (0..2000)
        .map(|n| format!("10.{}.{}.0/24", n / 250, n % 250))
        .collect();
    let attach = mesh.agent.attach_as(pod, &name);
    // An argument has at most 128 KiB.
    let attach = attach
        .annotation(
            "openservicemesh.io/outbound-port-exclusion-list",
            &ports.join(","),
        )
        .annotation(
            "openservicemesh.io/outbound-ip-range-exclusion-list",
            &ranges.join(","),
        );
    let _ = attach.run().succeeded();
    let text = table(&mesh, &[]);
    assert!(text.contains("nnn…ppp"), "{text}");
    assert!(text.contains(" 2000r 15000p"), "{text}");
    let detail = table(&mesh, &["--pod", &name]);
    assert!(
        detail.contains("2000 ranges, 15000 outbound ports"),
        "{detail}"
    );
    assert_eq!(report(&mesh)["pods"][0]["name"], name);
}

#[test]
fn json_and_yaml_hold_the_same() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let yaml = run(&mesh, &["-o", "yaml"]).succeeded().stdout;
    let yaml: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(yaml, report(&mesh));
    assert_eq!(yaml["pods"][0]["mode"], "ebpf");
}
