//! `--bpf-log`: what the programs log, and that they are what they would be without it where it is off.

mod mesh;

use std::{fs, process::Command, thread, time::Duration};

use mesh::Mesh;
use osm_tests::{Dial, Need, Node, missing, process::Process};

const OWN: &str = "10.77.1.2:8080";

/// The agent in the foreground, once the pod is intercepted; its state is its own.
fn foreground(mesh: &Mesh, flags: &[&str]) -> Process {
    let pod = &mesh.world.pod;
    let (netns, cgroup) = (pod.netns.path(), pod.cgroup.path());
    let (netns, cgroup) = (netns.display().to_string(), cgroup.display().to_string());
    let place = ["--netns", &netns, "--cgroup", &cgroup, "--pod", pod.name()];
    let own = ["attach", "--foreground", "--mode", "ebpf"];
    let mut agent = mesh.agent.start(&[&own, &place[..], flags].concat());
    let line = agent.line(Duration::from_secs(20));
    assert!(
        line.as_ref().is_some_and(|it| it.contains("intercepted")),
        "{line:?} {}",
        agent.stderr()
    );
    agent
}

/// Has all happen that is logged: listeners come, destinations are handed over, one is lost.
fn exercise(mesh: &Mesh) {
    let pod = &mesh.world.pod;
    let _sidecar = pod.sidecar_with(&["--quiet"]);
    let _ = pod.sidecar_client().connect(Dial::to(OWN).no_greeting());
    // An address that stands for no destination.
    let _ = pod
        .app()
        .connect(Dial::to("127.64.1.2:15001").no_greeting());
}

const RECORDS: [(&str, &str); 5] = [
    ("WARN", "does not know what was dialled from port"),
    ("INFO", "keeps the listener on port 15001"),
    ("INFO", "keeps the listener on port 15003"),
    ("DEBUG", "hands over [::ffff:10.77.1.2]:8080"),
    ("DEBUG", "takes over [::ffff:10.77.1.2]:8080"),
];

#[test]
fn programs_log_what_the_level_lets_through() {
    for (level, count) in [
        ("off", 0),
        ("error", 0),
        ("warn", 1),
        ("info", 3),
        ("trace", 5),
    ] {
        let Some(mesh) = Mesh::new() else {
            return;
        };
        let agent = foreground(&mesh, &["--bpf-log", level]);
        exercise(&mesh);
        let (wanted, unwanted) = RECORDS.split_at(count);
        for (name, words) in wanted {
            let is_there = || {
                let stderr = agent.stderr();
                let mut lines = stderr.lines();
                lines.any(|it| it.contains(name) && it.contains(words))
            };
            let found = (0..1000).any(|_| is_there() || wait());
            assert!(found, "{level}: no {words} in {}", agent.stderr());
        }
        // Those that were wanted came after these would have.
        for (_, words) in unwanted {
            assert!(
                !agent.stderr().contains(words),
                "{level}: {}",
                agent.stderr()
            );
        }
    }
}

#[test]
fn node_agent_has_the_records_in_its_log_from_one_restart_to_the_next() {
    let Some((world, mut node)) = Node::intercepting("{}") else {
        return;
    };
    let _ = node.stop();
    node = node.flag("--bpf-log", "info");
    node.start();
    node.wait_intercepted(&world.pod);
    let _sidecar = world.pod.sidecar_with(&["--quiet"]);
    let (level, words) = RECORDS[1];
    node.wait("the listener is told of", |node| {
        let log = node.log();
        log.lines()
            .any(|line| line.contains(level) && line.contains(words))
    });
}

/// For a while; false.
fn wait() -> bool {
    thread::sleep(Duration::from_millis(5));
    false
}

#[test]
fn level_is_part_of_the_version_and_off_costs_nothing() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::new() else {
        return;
    };
    let attach = |level: &str| {
        let attach = mesh.attach_without_lists().option("--bpf-log", level);
        let outcome = attach.run().succeeded();
        let versions = fs::read_dir(mesh.agent.state().path().join("versions"));
        let mut versions = versions.expect("versions").flatten();
        let version = versions.next().expect("a version").file_name();
        assert!(versions.next().is_none(), "{outcome}");
        (outcome.stdout, version)
    };
    let (_, off) = attach("off");
    let without = ["connect4", "connect6", "socket_events"].map(|name| size(&mesh, name));
    let (said, warn) = attach("warn");
    assert!(
        said.contains("moved to the programs of this version"),
        "{said}"
    );
    assert_ne!(off, warn);
    let with = ["connect4", "connect6", "socket_events"].map(|name| size(&mesh, name));
    println!("instructions without {without:?}, with records of warnings {with:?}");
    for (without, with) in without.iter().zip(with) {
        assert!(without + 100 < with, "{without} and {with} instructions");
    }
    let (said, again) = attach("off");
    assert!(
        said.contains("moved to the programs of this version"),
        "{said}"
    );
    assert_eq!(off, again);
    let (said, _) = attach("off");
    assert!(said.contains("already"), "{said}");
}

/// How many instructions of a program the verifier left.
fn size(mesh: &Mesh, program: &str) -> u64 {
    let mut pins = mesh.agent.state().pins_called(program);
    pins.retain(|pin| pin.components().any(|it| it.as_os_str() == "versions"));
    let output = Command::new("bpftool")
        .args(["--json", "prog", "show", "pinned"])
        .arg(pins.first().expect("a pin"))
        .output()
        .expect("bpftool runs");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    shown["bytes_xlated"].as_u64().expect("a size") / 8
}
