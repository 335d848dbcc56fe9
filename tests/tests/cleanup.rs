//! `osm-agent cleanup`: all of ours goes, whoever made it.

mod mesh;

use std::{ffi::OsStr, fs, fs::File, process::Command};

use mesh::{Lists, Mesh, expect_direct};
use osm_tests::{Need, Outcome, missing};

const REMOTE: &str = "198.51.100.10:80";

fn cleanup(mesh: &Mesh) -> Outcome {
    let state = mesh.agent.state().path().as_os_str();
    mesh.agent
        .run(&[OsStr::new("cleanup"), OsStr::new("--state-dir"), state])
}

#[test]
fn cleanup_lets_go_of_every_pod_and_leaves_nothing() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let second = mesh.world.add_pod();
    let _ = mesh.agent.attach(&second).run().succeeded();
    let outcome = cleanup(&mesh).succeeded();
    assert!(outcome.stdout.contains("2 pods"), "{outcome}");
    assert!(mesh.agent.state().pins().is_empty());
    for directory in ["maps", "versions", "pods", "cgroups", "staging"] {
        assert!(!mesh.agent.state().path().join(directory).exists());
    }
    let outcome = cleanup(&mesh).succeeded();
    assert!(outcome.stdout.contains("0 pods"), "{outcome}");
    let mut sidecar = mesh.world.pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    expect_direct(
        &mut sidecar,
        &mesh.world.pod.app().connect(REMOTE),
        "remote",
    );
}

/// Programs without a version's directory, another version's, a directory of a former layout, a
/// pod that is half-made, no shared maps: nothing of it is understood, all of it goes.
#[test]
fn cleanup_removes_what_no_agent_understands_and_leaves_what_is_foreign() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let state = mesh.agent.state().path().to_owned();
    let cookie = format!("{:016x}", mesh.world.pod.netns.cookie());
    let version = fs::read_dir(state.join("versions")).expect("versions");
    let version = version.flatten().next().expect("a version").path();
    fs::create_dir(state.join("programs")).expect("a directory");
    fs::rename(version.join("connect4"), state.join("programs/connect4")).expect("a rename");
    fs::rename(version.join("PODS"), state.join("maps/PODS")).expect("a rename");
    fs::rename(&version, state.join("versions/00000000000000aa")).expect("a rename");
    fs::rename(
        state.join("pods").join(&cookie),
        state.join("staging").join(&cookie),
    )
    .expect("a rename");
    fs::rename(
        state.join("staging").join(&cookie).join("getsockopt"),
        state.join("staging").join(&cookie).join("of_another_name"),
    )
    .expect("a rename");
    fs::remove_file(state.join("maps/STATE")).expect("a pin");
    for place in ["theirs", "maps/theirs"] {
        let pin = state.join(place).display().to_string();
        let output = Command::new("bpftool")
            .args(["map", "create", &pin, "type", "array", "key", "4"])
            .args(["value", "4", "entries", "1", "name", "theirs"])
            .output();
        assert!(output.is_ok_and(|output| output.status.success()));
    }
    let outcome = cleanup(&mesh).succeeded();
    let left = mesh.agent.state().pins();
    assert_eq!(
        left,
        ["maps/theirs", "theirs"].map(std::path::PathBuf::from)
    );
    assert!(outcome.stderr.contains("maps/theirs"), "{outcome}");
    let mut sidecar = mesh.world.pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    expect_direct(
        &mut sidecar,
        &mesh.world.pod.app().connect(REMOTE),
        "remote",
    );
}

#[test]
fn cleanup_and_attach_refuse_while_an_agent_has_the_directory() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pins = mesh.agent.state().pins();
    let lock = File::open(mesh.agent.state().path()).expect("the directory");
    lock.lock().expect("a lock");
    let outcome = cleanup(&mesh).failed();
    assert!(outcome.stderr.contains("another agent runs"), "{outcome}");
    let outcome = mesh.attach(&Lists::default()).failed();
    assert!(
        outcome.stderr.contains("another osm-agent works"),
        "{outcome}"
    );
    assert_eq!(mesh.agent.state().pins(), pins);
}

/// It looks at every namespace there is: no other test of this program writes rules.
#[test]
fn cleanup_removes_rules_of_the_fallback_where_that_is_asked_for() {
    let Some(mesh) = Mesh::attached_by(mesh::Backend::Nft, &Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let rules = || {
        let saved = pod.netns.command("iptables-nft-save", &["-t", "nat"]);
        String::from_utf8_lossy(&saved.stdout).contains("-A PROXY_")
    };
    let _ = cleanup(&mesh).succeeded();
    assert!(rules(), "not without being asked to");
    let state = mesh.agent.state().path().as_os_str();
    let flags = ["cleanup", "--iptables", "--state-dir"].map(OsStr::new);
    let outcome = mesh.agent.run(&[&flags[..], &[state]].concat()).succeeded();
    assert!(
        !outcome.stdout.contains("from 0 network namespaces"),
        "{outcome}"
    );
    assert!(!rules());
    expect_direct(&mut sidecar, &pod.app().connect(REMOTE), "remote");
}
