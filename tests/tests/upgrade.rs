//! Another version of the agent takes over, with its maps laid out otherwise or alike.

mod mesh;

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use mesh::{Lists, Mesh, address, expect_direct, expect_inbound, expect_outbound};
use osm_tests::{Many, Need, Tally, agent, missing};

const REMOTE: &str = "198.51.100.10:80";
const EXCLUDED: &str = "198.51.100.11:81";
const LOCAL: &str = "10.77.1.2:8080";

const LISTS: Lists<'static> = Lists {
    excluded_ranges: "192.0.2.0/24",
    included_ranges: "",
    excluded_ports: "81",
    excluded_inbound_ports: "82",
};

/// The names of the version directories.
fn versions(mesh: &Mesh) -> Vec<String> {
    let entries = fs::read_dir(mesh.agent.state().path().join("versions")).expect("versions");
    let mut found: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

/// Connections to one address until told to stop, all of them through the sidecar.
fn load(mut client: osm_tests::Client, to: &str, stop: &AtomicBool) -> Tally {
    let mut total = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let tally = client.many(Many::to(to, 50).concurrency(4));
        total.succeeded += tally.succeeded;
        total.around += tally.around;
        total.wrong_peer += tally.wrong_peer;
        for (error, count) in tally.failed {
            *total.failed.entry(error).or_default() += count;
        }
    }
    total
}

#[test]
fn upgrade_to_another_layout_and_back_refuses_nothing_and_lets_nothing_around() {
    const ROUNDS: usize = 4;
    if missing(&[Need::NextAgent]) {
        return;
    }
    let Some(mut mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let builds = [agent::next_binary(), agent::binary()].map(|path| path.expect("a binary"));
    let first = versions(&mesh);
    let state = mesh.agent.state().path().to_owned();
    let second = mesh.world.add_pod();
    let _ = mesh.agent.attach(&second).run().succeeded();
    let mut sidecar = mesh.world.pod.sidecar_with(&["--quiet"]);
    let _remote = mesh.world.outside.server("remote", &[REMOTE, EXCLUDED]);
    let _local = mesh.world.pod.server("local", &["0.0.0.0:8080"]);
    let mut app = mesh.world.pod.app();
    let established = app.connect(REMOTE);
    let stop = AtomicBool::new(false);
    let (out_client, in_client) = (mesh.world.pod.app(), mesh.world.outside.client());
    let (outbound, inbound) = thread::scope(|scope| {
        let stop = &stop;
        let outbound = scope.spawn(move || load(out_client, REMOTE, stop));
        let inbound = scope.spawn(move || load(in_client, LOCAL, stop));
        let mut seen = vec![first.clone()];
        for round in 0..ROUNDS {
            mesh.agent.replace(builds[round % 2].clone());
            let outcome = mesh.attach(&LISTS).succeeded();
            assert!(outcome.stdout.contains("this version"), "{outcome}");
            // The other pod goes on with the programs of the version before.
            assert_eq!(versions(&mesh).len(), 2, "{outcome}");
            let _ = mesh.agent.attach(&second).run().succeeded();
            seen.push(versions(&mesh));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(seen.iter().all(|versions| versions.len() == 1), "{seen:?}");
        assert_ne!(seen[0], seen[1], "the builds differ");
        assert_eq!(seen[0], seen[2], "and back");
        (
            outbound.join().expect("the load outbound"),
            inbound.join().expect("the load inbound"),
        )
    });
    println!(
        "{} connections outbound, {} inbound during {ROUNDS} upgrades",
        outbound.succeeded, inbound.succeeded
    );
    for tally in [&outbound, &inbound] {
        assert!(tally.succeeded > 100, "{tally:?}");
        assert!(tally.failed.is_empty(), "{tally:?}");
        assert_eq!(tally.around, 0, "{tally:?}");
    }
    assert_eq!(outbound.wrong_peer, 0);
    // What was established before lives on, and neither end can tell.
    assert_eq!(app.send(established.id, "on").text, "on");
    assert_eq!(established.peer(), address(REMOTE));
    assert!(app.transfer(established.id, 100_000).intact);
    sidecar.drain();
    let _ = mesh.detach().succeeded();
    let _ = mesh.agent.detach(&second).succeeded();
    assert!(mesh.agent.state().pins().is_empty(), "{}", state.display());
}

#[test]
fn upgrade_keeps_lists_and_destinations() {
    if missing(&[Need::NextAgent]) {
        return;
    }
    let Some(mut mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let next = agent::next_binary().expect("a binary");
    mesh.agent.replace(next);
    let _ = mesh.attach(&LISTS).succeeded();
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

/// As if the version that is there had been built from other sources with the same layout.
#[test]
fn version_of_the_same_layout_shares_its_maps() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let state = mesh.agent.state().path().to_owned();
    let [ours] = versions(&mesh).try_into().expect("one version");
    fs::rename(
        state.join("versions").join(&ours),
        state.join("versions/00000000000000aa"),
    )
    .expect("a rename");
    let ids = |map: &str| {
        let pin = aya::maps::MapInfo::from_pin(mesh.agent.state().map(map)).expect("a map");
        pin.id()
    };
    let before = ["PODS", "RANGES", "META"].map(ids);
    let mut record = record(&mesh);
    record = record.with_version(0xaa);
    write_record(&mesh, &record);
    let outcome = mesh.attach(&LISTS).succeeded();
    assert!(outcome.stdout.contains("this version"), "{outcome}");
    assert_eq!(versions(&mesh), [ours]);
    assert_eq!(["PODS", "RANGES", "META"].map(ids), before);
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE, EXCLUDED]);
    let mut app = pod.app();
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    expect_direct(&mut sidecar, &app.connect(EXCLUDED), "remote");
}

/// A pod of an agent that did not know the hooks of bind() is whole, and gets them by the upgrade.
#[test]
fn version_from_before_a_hook_was_added_is_whole_without_it() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let state = mesh.agent.state().path().to_owned();
    let [ours] = versions(&mesh).try_into().expect("one version");
    let former = state.join("versions/00000000000000aa");
    fs::rename(state.join("versions").join(&ours), &former).expect("a rename");
    let record = record(&mesh).with_version(0xaa);
    write_record(&mesh, &record);
    let links = state.join(format!("pods/{:016x}", mesh.world.pod.netns.cookie()));
    for hook in ["bind4", "bind6"] {
        mesh.agent.state().detach_link(hook);
        fs::remove_file(former.join(hook)).expect("the program's pin");
        fs::remove_file(links.join(hook)).expect("the link's pin");
    }
    let mut app = mesh.world.pod.app();
    let listener = app.listen("0.0.0.0:15001");
    assert_eq!(listener.error, None, "nothing guards the port");
    app.close(listener.id);
    let state_dir = state.display().to_string();
    let nobody = "http://127.0.0.1:9";
    let status = ["status", "--agent-url", nobody, "--state-dir", &state_dir];
    let said = mesh.agent.run(&status).succeeded();
    assert!(!said.stdout.contains("missing"), "{said}");
    let outcome = mesh.attach(&LISTS).succeeded();
    assert!(outcome.stdout.contains("this version"), "{outcome}");
    assert!(!outcome.stdout.contains("missing"), "{outcome}");
    assert_eq!(versions(&mesh), [ours]);
    assert_eq!(app.listen("0.0.0.0:15001").error(), "EPERM");
    assert_eq!(app.listen("[::]:15001").error(), "EPERM");
}

type Records = aya::maps::HashMap<aya::maps::MapData, u64, osm_ebpf_common::maps::PodRecord>;

fn records(mesh: &Mesh) -> Records {
    let data = aya::maps::MapData::from_pin(mesh.agent.state().map("POD_RECORDS"));
    let map = aya::maps::Map::HashMap(data.expect("a map"));
    Records::try_from(map).expect("the records")
}

fn record(mesh: &Mesh) -> osm_ebpf_common::maps::PodRecord {
    let cookie = mesh.world.pod.netns.cookie();
    records(mesh).get(&cookie, 0).expect("a record")
}

fn write_record(mesh: &Mesh, record: &osm_ebpf_common::maps::PodRecord) {
    let cookie = mesh.world.pod.netns.cookie();
    records(mesh).insert(cookie, record, 0).expect("a record");
}
