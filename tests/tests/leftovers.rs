//! What is left: nothing, at any time, of anything.

mod mesh;

use std::process::Command;

use aya::maps::{HashMap, Map, MapData};
use mesh::{Lists, Mesh, expect_outbound};
use osm_ebpf_common::{address::Address, maps::LocalKey};
use osm_tests::{Dial, Many, Need, missing};
use rstest::rstest;

const REMOTE: &str = "198.51.100.10:80";

#[rstest]
fn hundred_thousand_connections_leave_no_map_entry(#[values(false, true)] one_by_one: bool) {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let ours = ours(&mesh);
    assert!(
        ours.len() >= 15 + 8 + 9,
        "maps, programs and links: {ours:?}"
    );
    if one_by_one {
        mesh.use_up_known_destinations();
    }
    let (_, known_before) = mesh.agent.state().handshakes();
    let sidecar = pod.sidecar_with(&["--quiet"]);
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let tally = pod.app().many(Many::to(REMOTE, 100_000).concurrency(4));
    assert_eq!(tally.roles.get("remote"), Some(&100_000), "{tally:?}");
    assert_eq!(tally.wrong_peer, 0);
    let known = known_before + usize::from(!one_by_one);
    assert_eq!(mesh.agent.state().handshakes(), (0, known));
    assert_eq!(entries(&mesh, "LISTENERS"), 2);
    sidecar.stop();
    assert_eq!(entries(&mesh, "LISTENERS"), 0);
    let _ = mesh.detach().succeeded();
    assert_eq!(mesh.agent.state().pins(), Vec::<std::path::PathBuf>::new());
    let left = || {
        objects()
            .into_iter()
            .filter(|id| ours.contains(id))
            .collect::<Vec<_>>()
    };
    // The kernel frees programs and maps a moment after the last reference.
    eventually("programs, maps and links of ours are gone", || {
        left().is_empty()
    });
}

#[test]
fn failed_and_aborted_handshakes_leave_no_map_entry() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    mesh.use_up_known_destinations();
    let notes = || mesh.agent.state().handshakes().0;
    let pod = &mesh.world.pod;
    pod.netns.sysctl("net/core/somaxconn", "4");
    let mut sidecar = pod.sidecar();
    sidecar.process().signal(nix::sys::signal::Signal::SIGSTOP);
    let mut app = pod.app();
    let limit = std::time::Duration::from_millis(20);
    let sockets: Vec<_> = (0..40)
        .map(|_| {
            app.connect(Dial::to(REMOTE).no_greeting().nonblocking().timeout(limit))
                .id
        })
        .collect();
    assert!(notes() > 10, "the sidecar's queue is full");
    for id in sockets {
        app.close(id);
    }
    eventually("the notes of closed sockets are gone", || notes() == 0);
    sidecar.process().signal(nix::sys::signal::Signal::SIGCONT);
    sidecar.stop();
    let refused = app.many(Many::to(REMOTE, 100));
    assert_eq!(refused.failed.get("ECONNREFUSED"), Some(&100));
    assert_eq!(notes(), 0);
}

#[test]
fn detach_leaves_established_connections_alive() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let mut remote = mesh.world.outside.server("remote", &[REMOTE]);
    let _local = pod.server("local", &["127.0.0.1:8080"]);
    let (mut app, mut client) = (pod.app(), mesh.world.outside.client());
    let (outbound, inbound) = (app.connect(REMOTE), client.connect("10.77.1.2:8080"));
    expect_outbound(&mut sidecar, &outbound, REMOTE, pod.ip4());
    remote.next_accepted();
    let _ = mesh.detach().succeeded();
    assert_eq!(app.send(outbound.id, "on").text, "on");
    assert_eq!(client.send(inbound.id, "on").text, "on");
    assert!(app.transfer(outbound.id, 1_000_000).intact);
    // And new ones are nobody's business.
    let direct = app.connect(REMOTE);
    assert_eq!(remote.next_accepted().peer, direct.local());
}

#[test]
fn last_pod_detached_takes_maps_and_programs_with_it() {
    let Some(mesh) = Mesh::attached(&Lists {
        excluded_ports: "1,2,3",
        ..Lists::default()
    }) else {
        return;
    };
    let second = mesh.world.add_pod();
    let _ = mesh.agent.attach(&second).run().succeeded();
    // Known destinations go with their pod.
    assert_eq!(pod_dials(&mesh), 1);
    let _ = mesh.detach().succeeded();
    assert_eq!(mesh.agent.state().handshakes(), (0, 0));
    let pins = mesh.agent.state().pins();
    assert!(
        pins.iter()
            .any(|pin| pin.starts_with("versions") && pin.ends_with("connect4")),
        "{pins:?}"
    );
    assert_eq!(entries(&mesh, "PODS"), 1);
    assert_eq!(entries(&mesh, "PORT_PAGES"), 0);
    assert_eq!(entries(&mesh, "POLICIES"), 0);
    let _ = mesh.agent.detach(&second).succeeded();
    assert!(mesh.agent.state().pins().is_empty());
}

#[test]
fn foreground_ends_with_its_process_even_when_killed() {
    use nix::sys::signal::Signal::{SIGINT, SIGKILL};
    for (signal, says_so) in [(SIGINT, true), (SIGKILL, false)] {
        let Some(mesh) = Mesh::new() else { return };
        let pod = &mesh.world.pod;
        let mut sidecar = pod.sidecar();
        let mut remote = mesh.world.outside.server("remote", &[REMOTE]);
        let mut app = pod.app();
        let netns = pod.netns.path().display().to_string();
        let cgroup = pod.cgroup.path().display().to_string();
        let mut agent = mesh.agent.start(&[
            "attach",
            "--foreground",
            "--netns",
            &netns,
            "--cgroup",
            &cgroup,
        ]);
        let line = agent
            .line(std::time::Duration::from_secs(30))
            .expect("it says that it is in force");
        assert!(line.contains("intercepted"), "{line}");
        expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
        remote.next_accepted();
        agent.signal(signal);
        let status = agent
            .wait(std::time::Duration::from_secs(10))
            .expect("it ends");
        assert_eq!(status.success(), says_so);
        eventually("the app is let go of", || {
            let direct = app.connect(REMOTE);
            remote.next_accepted().peer == direct.local()
        });
        sidecar.drain();
    }
}

/// Every id of a program, map or link that is pinned, and of the programs of the links.
fn ours(mesh: &Mesh) -> Vec<String> {
    let state = mesh.agent.state();
    let mut ids = Vec::new();
    for pin in state.pins() {
        let mut parts = pin.iter().filter_map(|it| it.to_str());
        let is_map = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let kind = match (parts.next(), parts.next_back()) {
            (Some("maps"), _) => "map",
            (Some("versions"), Some(name)) if is_map(name) => "map",
            (Some("versions"), _) => "prog",
            (Some("pods"), _) => "link",
            _ => continue,
        };
        let output = Command::new("bpftool")
            .args([kind, "show", "--json", "pinned"])
            .arg(state.path().join(&pin))
            .output();
        let output = output.expect("bpftool runs");
        let object: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("bpftool prints JSON");
        ids.push(format!("{kind} {}", object["id"]));
        if kind == "link" {
            ids.push(format!("prog {}", object["prog_id"]));
        }
    }
    ids
}

/// Every id of a program, map or link that bpftool knows.
fn objects() -> Vec<String> {
    ["prog", "map", "link"]
        .into_iter()
        .flat_map(|kind| {
            let output = Command::new("bpftool")
                .args([kind, "show", "--json"])
                .output();
            let output = output.expect("bpftool runs");
            let objects: serde_json::Value =
                serde_json::from_slice(&output.stdout).expect("bpftool prints JSON");
            let ids: Vec<_> = objects
                .as_array()
                .into_iter()
                .flatten()
                .map(|object| format!("{kind} {}", object["id"]))
                .collect();
            ids
        })
        .collect()
}

#[test]
fn address_of_a_pod_that_nothing_else_knows_of_is_removed() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    // As an agent leaves it that is killed while it describes a pod, where one of another layout
    // then removes the pod's record.
    let own = locals(&mesh);
    let pin = MapData::from_pin(mesh.agent.state().map("LOCALS")).expect("the map");
    let mut map: HashMap<_, LocalKey, u32> = Map::from_map_data(pin)
        .and_then(HashMap::try_from)
        .expect("a hash map");
    let key = LocalKey::new(u64::MAX, Address::LOCALHOST_V4);
    map.insert(key, 1, 0).expect("there is room");
    assert_eq!(locals(&mesh), own + 1);
    let _ = mesh.attach(&Lists::default()).succeeded();
    assert_eq!(locals(&mesh), own);
}

/// How many addresses of pods are known beyond the first ones.
fn locals(mesh: &Mesh) -> usize {
    let pin = MapData::from_pin(mesh.agent.state().map("LOCALS")).expect("the map");
    let map: HashMap<_, LocalKey, u32> = Map::from_map_data(pin)
        .and_then(HashMap::try_from)
        .expect("a hash map");
    map.keys().count()
}

/// How many destinations of the pod are known after it dialled one.
fn pod_dials(mesh: &Mesh) -> usize {
    let refused = mesh.world.pod.app().connect(REMOTE);
    assert_eq!(refused.error(), "ECONNREFUSED");
    mesh.agent.state().handshakes().1
}

/// How many entries a map has.
fn entries(mesh: &Mesh, map: &str) -> usize {
    let path = mesh.agent.state().map(map);
    let output = Command::new("bpftool")
        .args(["map", "dump", "--json", "pinned"])
        .arg(&path)
        .output()
        .expect("bpftool runs");
    let entries: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("bpftool can't read {}: {output:?}", path.display()));
    entries.as_array().map_or(0, Vec::len)
}

#[track_caller]
fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !happens() {
        assert!(start.elapsed().as_secs() < 20, "not yet: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
