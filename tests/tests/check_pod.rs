//! `osm-agent check` beside pods in use: one proven from inside, and the programs of others.

mod mesh;

use std::process::Command;

use mesh::{Backend, Lists, Mesh, expect_outbound};
use osm_tests::{Cgroup, Need, Outcome, missing, sys::foreign::Program};
use rstest::rstest;
use serde_json::{Value, json};

const REMOTE: &str = "198.51.100.10:80";

const LISTS: Lists<'static> = Lists {
    excluded_ranges: "192.0.2.0/24",
    included_ranges: "",
    excluded_ports: "81",
    excluded_inbound_ports: "82",
};

/// `check` for a pod; the outside tries inbound connections.
#[track_caller]
fn run(mesh: &Mesh, flags: &[&str]) -> Outcome {
    let state = mesh.agent.state().path().display().to_string();
    let outside = mesh.world.outside.netns.path().display().to_string();
    let always = ["check", "--state-dir", &state, "--from", &outside];
    mesh.agent.run(&[&always[..], flags].concat())
}

#[track_caller]
fn by_name(mesh: &Mesh) -> Outcome {
    run(mesh, &["--pod", mesh.world.pod.name(), "-o", "json"])
}

/// What came out, by path.
#[track_caller]
fn outcome(said: &Outcome, path: &str) -> (String, String) {
    let json: Value = serde_json::from_str(&said.stdout).expect("JSON");
    let findings = json["findings"].as_array().expect("a list");
    let found = findings.iter().find(|it| it["path"] == path);
    let found = found.unwrap_or_else(|| panic!("nothing about {path}: {said}"));
    let text = |field: &str| found[field].as_str().expect("text").to_owned();
    (text("outcome"), text("detail"))
}

#[track_caller]
fn expect_code(said: &Outcome, code: i32) {
    assert_eq!(said.status.code(), Some(code), "{said}");
}

/// Nothing of the check's is left in the pod.
#[track_caller]
fn expect_nothing_left(mesh: &Mesh) {
    let pod = &mesh.world.pod;
    let below = std::fs::read_dir(pod.cgroup.path()).expect("the pod's cgroup");
    let names: Vec<_> = below.flatten().map(|it| it.file_name()).collect();
    let left = names
        .iter()
        .any(|it| it.to_string_lossy().contains("osm-check"));
    assert!(!left, "{names:?}");
    let sockets = pod.netns.command("ss", &["-Htln"]);
    let text = String::from_utf8_lossy(&sockets.stdout).into_owned();
    let others = text.lines().filter(|it| !it.contains(":1500"));
    assert_eq!(others.count(), 0, "{text}");
}

#[rstest]
fn pod_in_use_is_proven_and_not_disturbed(#[values(false, true)] one_by_one: bool) {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    if one_by_one {
        mesh.use_up_known_destinations();
    }
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    let live = app.connect(REMOTE);
    expect_outbound(&mut sidecar, &live, REMOTE, pod.ip4());
    let said = by_name(&mesh);
    expect_code(&said, 0);
    for path in [
        "outbound",
        "the sidecar's bypass",
        "the sidecar to its pod",
        "the app to its pod",
        "the sidecar to localhost",
        "the app to localhost",
        "an excluded range",
        "an excluded port",
        "inbound",
    ] {
        let (outcome, detail) = outcome(&said, path);
        assert_eq!(outcome, "proven", "{path}: {detail}");
    }
    let (_, detail) = outcome(&said, "outbound");
    assert!(
        detail.contains("198.51.100.1:80 arrived at the sidecar's 15001"),
        "{detail}"
    );
    assert!(!sidecar.drain().is_empty(), "the sidecar saw the check");
    assert_eq!(app.send(live.id, "still there").text, "still there");
    expect_nothing_left(&mesh);
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
}

#[test]
fn sidecar_that_takes_both_families_on_one_socket_is_proven() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let listen = ["--outbound", "[::]:15001", "--inbound", "[::]:15003"];
    let _sidecar = mesh.world.pod.sidecar_with(&listen);
    let said = by_name(&mesh);
    expect_code(&said, 0);
    assert_eq!(outcome(&said, "outbound").0, "proven", "{said}");
}

#[test]
fn pod_is_found_by_its_namespace_and_lists_are_those_in_force() {
    let Some(mesh) = Mesh::attached(&Lists {
        excluded_ranges: "192.0.2.0/24,203.0.113.0/24",
        included_ranges: "198.51.100.0/24",
        ..LISTS
    }) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _sidecar = pod.sidecar();
    let netns = pod.netns.path().display().to_string();
    let said = run(&mesh, &["--netns", &netns]);
    expect_code(&said, 0);
    let first = format!("{}, by ebpf", pod.name());
    assert_eq!(said.stdout.lines().next(), Some(&first[..]), "{said}");
    for words in [
        "outbound: proven: 198.51.100.1:80",
        "an excluded range: proven: 192.0.2.1:80",
        "outside of the included ranges: proven: 198.18.0.1:80",
    ] {
        assert!(said.stdout.contains(words), "{words}: {said}");
    }
    expect_nothing_left(&mesh);
}

#[test]
fn nobody_outside_leaves_inbound_unproven() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let _sidecar = mesh.world.pod.sidecar();
    let state = mesh.agent.state().path().display().to_string();
    let pod = mesh.world.pod.name();
    let said = mesh
        .agent
        .run(&["check", "--state-dir", &state, "--pod", pod]);
    expect_code(&said, 0);
    let words = "inbound: not proven: nobody outside of the pod is there to try it";
    assert!(said.stdout.contains(words), "{said}");
}

#[rstest]
#[case("connect4", "outbound")]
#[case("inbound", "inbound")]
#[case("getpeername6", "what is pinned")]
fn detached_link_is_not_in_force(#[case] link: &str, #[case] path: &str) {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let _sidecar = mesh.world.pod.sidecar();
    mesh.agent.state().detach_link(link);
    let said = by_name(&mesh);
    expect_code(&said, 126);
    let (outcome, detail) = outcome(&said, path);
    assert_eq!(outcome, "wrong", "{detail}");
    let words = format!("the link {link} is detached");
    assert!(said.stderr.contains(&words), "{said}");
    expect_nothing_left(&mesh);
}

#[rstest]
#[case::both(&[], "15001")]
#[case::outbound_only(&["--inbound", "127.0.0.1:4711"], "15003")]
fn sidecar_that_does_not_listen_leaves_it_untold(#[case] flags: &[&str], #[case] port: &str) {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let pod = &mesh.world.pod;
    // The pod's namespace is found by this one.
    let _app = pod.app();
    let sidecar = (!flags.is_empty()).then(|| pod.sidecar_with(flags));
    let said = by_name(&mesh);
    expect_code(&said, 1);
    let words = format!("the sidecar does not listen on {port}");
    assert!(said.stderr.contains(&words), "{said}");
    let path = if port == "15001" {
        "outbound"
    } else {
        "inbound"
    };
    let (result, detail) = outcome(&said, path);
    assert_eq!(result, "not-proven", "{detail}");
    assert!(detail.contains("does not get around it"), "{detail}");
    assert_eq!(outcome(&said, "the app to localhost").0, "proven");
    drop(sidecar);
    // It has the ports as soon as it comes.
    let _sidecar = pod.sidecar();
    expect_code(&by_name(&mesh), 0);
}

#[test]
fn pod_that_nothing_intercepts_is_not_in_force() {
    let Some(mesh) = Mesh::new() else { return };
    let netns = mesh.world.pod.netns.path().display().to_string();
    let said = run(&mesh, &["--netns", &netns]);
    expect_code(&said, 126);
    let said = run(&mesh, &["--pod", "default/nobody"]);
    expect_code(&said, 2);
    assert!(said.stderr.contains("`osm-agent status` shows"), "{said}");
}

#[rstest]
fn pod_behind_iptables_is_proven(#[values(Backend::Nft, Backend::Legacy)] backend: Backend) {
    let Some(mesh) = Mesh::attached_by(backend, &LISTS) else {
        return;
    };
    let pod = &mesh.world.pod;
    let sidecar = pod.sidecar();
    let netns = pod.netns.path().display().to_string();
    let lists = [
        "--annotation",
        "openservicemesh.io/outbound-port-exclusion-list=81",
        "--annotation",
        "openservicemesh.io/outbound-ip-range-exclusion-list=192.0.2.0/24",
    ];
    let flags = [&["--netns", &netns, "-o", "json"][..], &lists].concat();
    let said = run(&mesh, &flags);
    expect_code(&said, 0);
    for path in [
        "outbound",
        "inbound",
        "the sidecar to its pod",
        "an excluded port",
    ] {
        let (outcome, detail) = outcome(&said, path);
        assert_eq!(outcome, "proven", "{path}: {detail}");
    }
    // Those of nobody are others.
    let said = run(&mesh, &["--netns", &netns]);
    expect_code(&said, 126);
    assert!(said.stderr.contains("--annotation"), "{said}");
    sidecar.stop();
    expect_code(&run(&mesh, &flags), 1);
}

/// The programs of others for a pod at the hook of our sockops program.
#[track_caller]
fn others(mesh: &Mesh, pod: &str) -> Vec<Value> {
    let said = run(mesh, &["-o", "json"]).succeeded();
    let json: Value = serde_json::from_str(&said.stdout).expect("JSON");
    let all = json["attached"].as_array().expect("a list").iter();
    let of_pod = all.filter(|it| it["pod"] == pod && it["hook"] == "socket_events");
    let (ours, others): (Vec<_>, Vec<_>) = of_pod.cloned().partition(|it| it["owner"] == "ours");
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert_eq!(ours[0]["order"], Value::Null);
    others
}

#[test]
fn programs_of_others_are_listed_in_the_order_in_which_they_run() {
    let Some(mesh) = Mesh::new() else { return };
    let above = Cgroup::new();
    let pod = mesh.world.add_pod_in(above.child("pod"));
    let own = pod.cgroup.path().to_owned();
    let foreign = Program::asks_for_state_changes();
    let before = foreign.attach(&own).expect("a foreign program");
    let _ = mesh
        .agent
        .attach(&pod)
        .option("--mode", "ebpf")
        .run()
        .succeeded();
    let _after = foreign.attach(&own).expect("a foreign program");
    let _above = foreign.attach(above.path()).expect("a foreign program");
    let found: Vec<_> = others(&mesh, pod.name())
        .iter()
        .map(|it| json!([it["at"], it["order"], it["type"], it["owner"]]))
        .collect();
    let (own, above_path) = (
        own.display().to_string(),
        above.path().display().to_string(),
    );
    assert_eq!(
        found[..3],
        [
            json!([own, "before-ours", "sock_ops", "other"]),
            json!([own, "after-ours", "sock_ops", "other"]),
            json!([above_path, "after-ours", "sock_ops", "other"]),
        ]
    );
    let text = run(&mesh, &[]).succeeded().stdout;
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    assert!(text.contains("PROGRAM OF OTHERS"), "{text}");
    assert!(
        text.contains("before ours: ours sees what it made of the call"),
        "{text}"
    );
    drop(before);
    let left = others(&mesh, pod.name());
    assert!(
        left.iter().all(|it| it["order"] == "after-ours"),
        "{left:?}"
    );
    drop(pod);
}

#[test]
fn machine_is_described() {
    let Some(mesh) = Mesh::new() else { return };
    let said = run(&mesh, &["-o", "json"]).succeeded();
    let json: Value = serde_json::from_str(&said.stdout).expect("JSON");
    let system = json["system"].as_array().expect("a list");
    let value = |name: &str| {
        let found = system.iter().find(|it| it["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}"))["value"].to_string()
    };
    let release = Command::new("uname")
        .arg("-r")
        .output()
        .expect("uname runs");
    let release = String::from_utf8_lossy(&release.stdout).trim().to_owned();
    for (name, words) in [
        ("agent", "layout "),
        ("kernel", release.as_str()),
        ("privileges", "enough"),
        ("cgroups", "version 2 at /"),
        ("bpffs", "/"),
    ] {
        assert!(value(name).contains(words), "{name}: {}", value(name));
    }
    for name in [
        "seccomp",
        "kubelet",
        "lsm",
        "lockdown",
        "unprivileged_bpf_disabled",
        "bpf_jit_enable",
        "memlock",
    ] {
        assert!(value(name).len() > 2, "{name}");
    }
    let yaml = run(&mesh, &["-o", "yaml"]).succeeded().stdout;
    let yaml: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    // Other tests mount and attach meanwhile.
    for field in ["mode", "reason"] {
        assert_eq!(yaml[field], json[field]);
    }
    assert_eq!(yaml["system"][1], json["system"][1]);
}
