//! What somebody else changes in the kernel is noticed and mended.

use std::{
    fs,
    path::{Path, PathBuf},
};

use osm_tests::{Need, Node, World, missing};
use rstest::rstest;

use crate::{
    REMOTE,
    mesh::{expect_inbound, expect_outbound},
    mode,
};

const OWN: &str = "10.77.1.2:8080";

/// What somebody does, in words and in fact.
type Damage = (String, Box<dyn Fn(&Node)>);

/// The directory of the one pod that is there.
fn links(node: &Node) -> PathBuf {
    let mut found = fs::read_dir(node.state().path().join("pods")).expect("there are pods");
    found
        .next()
        .expect("there is one")
        .expect("it can be read")
        .path()
}

/// The pin of a map, wherever it is.
fn map(node: &Node, name: &str) -> PathBuf {
    let pins = node.state().pins();
    let found = pins.iter().find(|pin| pin.ends_with(name));
    node.state().path().join(found.expect("it is pinned"))
}

fn bpftool(args: &[&str]) {
    let output = std::process::Command::new("bpftool")
        .args(args)
        .output()
        .expect("bpftool runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "bpftool {args:?}: {said}");
}

fn detach(link: &Path) {
    bpftool(&["link", "detach", "pinned", &link.display().to_string()]);
}

fn unpin(path: &Path) {
    fs::remove_file(path).expect("it was there");
}

fn forget(map: &Path, key: &[u8]) {
    let bytes: Vec<String> = key.iter().map(|byte| format!("{byte:#04x}")).collect();
    let path = map.display().to_string();
    let mut args = vec!["map", "delete", "pinned", &path, "key"];
    args.extend(bytes.iter().map(String::as_str));
    bpftool(&args);
}

#[test]
fn damage_to_a_pod_s_links_pins_and_entries_is_mended() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let (Some(world), Some(node)) = (World::new(), Node::new()) else {
        return;
    };
    let mut node = node.flag("--resync", "1");
    let pod = &world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE]);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let (mut app, mut client) = (pod.app(), world.outside.client());
    node.mesh("{traffic: {outboundIPRangeExclusionList: [192.0.2.0/24]}}");
    node.add_pod(pod, &[]);
    node.start();
    node.wait_ready();
    let directory = links(&node);
    let mut names: Vec<PathBuf> = fs::read_dir(&directory)
        .expect("there are links")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    names.sort();
    assert_eq!(names.len(), 12, "{names:?}");
    let cookie = pod.netns.cookie().to_ne_bytes();
    let mut damages: Vec<Damage> = Vec::new();
    for link in names {
        let name = link.file_name().expect("a name").display().to_string();
        let other = link.clone();
        // This one is no link.
        if name != "inbound_code" {
            damages.push((format!("{name} detached"), Box::new(move |_| detach(&link))));
        }
        damages.push((format!("{name} unpinned"), Box::new(move |_| unpin(&other))));
    }
    for name in ["PODS", "RANGES", "REMEMBERED", "connect4", "INBOUND_CODE"] {
        damages.push((
            format!("{name} unpinned"),
            Box::new(move |node| {
                let pins = node.state().pins();
                let shared = pins
                    .iter()
                    .find(|pin| pin.ends_with(name) && !pin.starts_with("pods"));
                unpin(&node.state().path().join(shared.expect("it is pinned")));
            }),
        ));
    }
    damages.push((
        "the pod's entry removed".into(),
        Box::new(move |node| forget(&map(node, "PODS"), &cookie)),
    ));
    for (what, damage) in damages {
        let before = node.metric("osm_drift_repaired_total{means=\"ebpf\"}");
        damage(&node);
        node.wait(&format!("it is mended: {what}"), |node| {
            node.metric("osm_drift_repaired_total{means=\"ebpf\"}") > before
        });
        expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
        expect_inbound(&mut sidecar, &client.connect(OWN), OWN);
        assert!(node.log().contains("DriftRepaired"), "{what}");
    }
    node.wait_ready();
}

#[rstest]
fn rules_that_somebody_removes_are_written_again(#[values("nft", "legacy")] tool: &str) {
    let program = format!("iptables-{tool}");
    if missing(&[Need::Program(if tool == "nft" {
        "iptables-nft"
    } else {
        "iptables-legacy"
    })]) {
        return;
    }
    let (Some(world), Some(node)) = (World::new(), Node::new()) else {
        return;
    };
    let mut node = node.flag("--resync", "1").flag("--iptables-backend", tool);
    let pod = &world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    node.mesh(&mode("iptables"));
    node.add_pod(pod, &[]);
    node.start();
    node.wait_ready();
    for damage in [
        &["-t", "nat", "-F", "PROXY_OUTPUT"][..],
        &["-t", "nat", "-F", "OUTPUT"],
        &["-t", "nat", "-D", "PROXY_REDIRECT", "1"],
    ] {
        let before = node.metric("osm_drift_repaired_total{means=\"iptables\"}");
        let output = pod.netns.command(&program, damage);
        assert!(output.status.success(), "{output:?}");
        node.wait(&format!("it is mended: {damage:?}"), |node| {
            node.metric("osm_drift_repaired_total{means=\"iptables\"}") > before
        });
        expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    }
}
