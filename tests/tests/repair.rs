//! What somebody took away is found and put back, while the rest goes on.

mod mesh;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use mesh::{Lists, Mesh, expect_direct, expect_inbound, expect_outbound};
use osm_tests::{Many, Need, missing};

const REMOTE: &str = "198.51.100.10:80";
const EXCLUDED: &str = "198.51.100.11:81";
const LOCAL: &str = "10.77.1.2:8080";

const LISTS: Lists<'static> = Lists {
    excluded_ranges: "192.0.2.0/24",
    included_ranges: "",
    excluded_ports: "81",
    excluded_inbound_ports: "82",
};

const LINKS: [&str; 11] = [
    "getsockopt",
    "getpeername4",
    "getpeername6",
    "getsockname4",
    "getsockname6",
    "bind4",
    "bind6",
    "socket_events",
    "connect4",
    "connect6",
    "inbound",
];

fn bpftool(args: &str) -> serde_json::Value {
    let output = Command::new("bpftool")
        .args(["--json"])
        .args(args.split_whitespace())
        .output()
        .expect("bpftool runs");
    assert!(output.status.success(), "bpftool {args}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn pod_directory(mesh: &Mesh) -> PathBuf {
    let cookie = mesh.world.pod.netns.cookie();
    mesh.agent
        .state()
        .path()
        .join(format!("pods/{cookie:016x}"))
}

/// The next attach says that it was so, and the one after it finds nothing.
#[track_caller]
fn expect_repaired(mesh: &Mesh, words: &str) {
    let outcome = mesh.attach(&LISTS).succeeded();
    assert!(outcome.stdout.contains("repaired"), "{words}: {outcome}");
    assert!(outcome.stdout.contains(words), "{words}: {outcome}");
    expect_nothing_wrong(mesh);
}

#[track_caller]
fn expect_nothing_wrong(mesh: &Mesh) {
    let outcome = mesh.attach(&LISTS).succeeded();
    assert!(outcome.stdout.contains("already"), "{outcome}");
}

#[track_caller]
fn expect_all_in_force(mesh: &Mesh) {
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE, EXCLUDED]);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let mut app = pod.app();
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    expect_direct(&mut sidecar, &app.connect(EXCLUDED), "remote");
    let inbound = mesh.world.outside.client().connect(LOCAL);
    expect_inbound(&mut sidecar, &inbound, LOCAL);
}

#[test]
fn links_detached_or_unpinned_are_put_back_in_place() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let ids = || LINKS.map(|link| id_of(&pod_directory(&mesh).join(link)));
    for link in LINKS {
        let pin = pod_directory(&mesh).join(link);
        let before = ids();
        bpftool(&format!("link detach pinned {}", pin.display()));
        expect_repaired(&mesh, &format!("{link} was detached"));
        fs::remove_file(&pin).expect("a pin");
        expect_repaired(&mesh, &format!("{link} was missing"));
        let after = ids();
        let others = LINKS.iter().zip(before.iter().zip(&after));
        for (other, (before, after)) in others {
            assert_eq!(before == after, *other != link, "{other} beside {link}");
        }
    }
    expect_all_in_force(&mesh);
}

fn id_of(pin: &std::path::Path) -> u64 {
    let link = bpftool(&format!("link show pinned {}", pin.display()));
    link["id"].as_u64().expect("an id")
}

#[test]
fn pins_of_maps_and_programs_are_put_back() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let mut pins = mesh.agent.state().pins();
    // The program of the shortcut is put back by an agent that has it open; without one, new connections
    // go by TCP once its map is made anew.
    let counts = |pin: &PathBuf| !pin.starts_with("pods") && !pin.ends_with("loopback");
    pins.retain(counts);
    assert_eq!(pins.len(), 7 + 20 + 12, "{pins:?}");
    for pin in &pins {
        // By these two it is known what all others are, and no program holds on to them.
        if pin.ends_with("STATE") || pin.ends_with("POD_RECORDS") {
            continue;
        }
        fs::remove_file(mesh.agent.state().path().join(pin)).expect("a pin");
        let _ = mesh.attach(&LISTS).succeeded();
        expect_nothing_wrong(&mesh);
        let mut now = mesh.agent.state().pins();
        now.retain(counts);
        assert_eq!(now, pins, "without {}", pin.display());
    }
    expect_all_in_force(&mesh);
}

#[test]
fn code_that_no_pin_holds_lets_nothing_in_and_is_put_back() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let pins = [
        mesh.agent.state().map("INBOUND_CODE"),
        pod_directory(&mesh).join("inbound_code"),
    ];
    let pod = &mesh.world.pod;
    {
        let mut sidecar = pod.sidecar();
        let local = pod.server("local", &["0.0.0.0:8080"]);
        fs::remove_file(&pins[0]).expect("a pin");
        let mut client = mesh.world.outside.client();
        expect_inbound(&mut sidecar, &client.connect(LOCAL), LOCAL);
        // No process has it open, and the kernel empties it, before long.
        fs::remove_file(&pins[1]).expect("a pin");
        let refused = (0..1000).find_map(|_| {
            let connection = client.connect(LOCAL);
            if connection.error.is_none() {
                expect_inbound(&mut sidecar, &connection, LOCAL);
                thread::sleep(Duration::from_millis(5));
                return None;
            }
            connection.error
        });
        assert_eq!(refused.as_deref(), Some("ECONNREFUSED"));
        sidecar.expect_no_connection();
        local.stop();
    }
    expect_repaired(&mesh, "inbound_code was missing");
    expect_all_in_force(&mesh);
}

#[test]
fn map_entries_that_were_removed_are_put_back() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    for (map, words) in [
        ("PODS", "its entry in the map PODS was missing"),
        ("RANGES", "the range 192.0.2.0/"),
        ("PORT_PAGES", "ports from"),
    ] {
        delete_first(&mesh, map);
        expect_repaired(&mesh, words);
    }
    for map in ["POD_RECORDS", "POLICIES"] {
        delete_first(&mesh, map);
        let _ = mesh.attach(&LISTS).succeeded();
        expect_nothing_wrong(&mesh);
    }
    expect_all_in_force(&mesh);
}

#[test]
fn listener_that_was_forgotten_is_found_again() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let mut sidecar = mesh.world.pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    for _ in 0..2 {
        delete_first(&mesh, "LISTENERS");
    }
    expect_repaired(&mesh, "the sidecar's listener for");
    let pod = &mesh.world.pod;
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
}

fn delete_first(mesh: &Mesh, map: &str) {
    let pin = mesh.agent.state().map(map).display().to_string();
    let next = bpftool(&format!("map getnext pinned {pin}"));
    let key: Vec<&str> = next["next_key"]
        .as_array()
        .expect("a key")
        .iter()
        .filter_map(serde_json::Value::as_str)
        .collect();
    bpftool(&format!(
        "map delete pinned {pin} key hex {}",
        key.join(" ")
    ));
}

#[test]
fn passive_link_that_is_repaired_lets_no_connection_around() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let _sidecar = mesh.world.pod.sidecar_with(&["--quiet"]);
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = mesh.world.pod.app();
    let stop = AtomicBool::new(false);
    let (count, around) = thread::scope(|scope| {
        let stop = &stop;
        let load = scope.spawn(move || {
            let (mut count, mut around) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let tally = app.many(Many::to(REMOTE, 50).concurrency(4));
                assert!(tally.failed.is_empty(), "{tally:?}");
                count += tally.succeeded;
                around += tally.around;
            }
            (count, around)
        });
        for _ in 0..5 {
            let pin = pod_directory(&mesh).join("getsockname4");
            bpftool(&format!("link detach pinned {}", pin.display()));
            expect_repaired(&mesh, "getsockname4 was detached");
        }
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load")
    });
    assert!(count > 100, "{count} connections");
    assert_eq!(around, 0, "of {count} connections");
}

/// Without the map that knows the next policy's id, a new policy may get one that another had, of
/// which some destinations were found to be intercepted.
#[test]
fn policy_with_the_id_of_a_former_one_goes_by_its_own_ranges() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let key = "openservicemesh.io/outbound-ip-range-exclusion-list";
    let pod = mesh.world.add_pod();
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    let attach = |ranges| mesh.agent.attach(&pod).annotation(key, ranges).run();
    let _ = attach("192.0.2.0/24").succeeded();
    for _ in 0..2 {
        expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    }
    let _ = mesh.agent.detach(&pod).succeeded();
    fs::remove_file(mesh.agent.state().map("META")).expect("the pin goes");
    let _ = attach("198.51.100.0/24").succeeded();
    expect_direct(&mut sidecar, &app.connect(REMOTE), "remote");
    let _ = attach("192.0.2.0/24").succeeded();
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    let _ = attach("198.51.100.0/24").succeeded();
    expect_direct(&mut sidecar, &app.connect(REMOTE), "remote");
}
