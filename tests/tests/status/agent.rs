//! Beside a running agent, and after it.

use osm_tests::{Need, Node, Outcome, World, missing};
use serde_json::{Value, json};

use crate::{LISTS, NOBODY, mesh::Mesh, problems};

/// `status` beside a running agent.
#[track_caller]
fn beside(node: &Node, flags: &[&str]) -> Outcome {
    let state = node.state().path().display().to_string();
    let url = node.url();
    let always = ["status", "--agent-url", &url, "--state-dir", &state];
    node.agent().run(&[&always[..], flags].concat())
}

#[track_caller]
fn reported(node: &Node) -> Value {
    let text = beside(node, &["-o", "json"]).succeeded().stdout;
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn agent_s_word_and_what_is_pinned_are_joined() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let (pod, second) = (&world.pod, world.add_pod());
    let _sidecars = [pod.sidecar(), second.sidecar()];
    node.add_pod(pod, &[("outbound-port-exclusion-list", "81")]);
    node.start();
    node.wait_intercepted(pod);
    node.wait_ready();
    let said = reported(&node);
    assert_eq!(said["agent"]["is_running"], true);
    let it = &said["pods"][0];
    assert_eq!(it["name"], format!("test/{}", pod.name()));
    assert_eq!(it["state"], "intercepted");
    assert_eq!(it["mode"], "ebpf");
    assert_eq!(it["policy"]["outbound_ports"], 1);
    assert_eq!(it["problems"], json!([]), "{said}");

    // Wrong lists: the last good ones stand.
    node.add_pod(pod, &[("outbound-port-exclusion-list", "70000")]);
    node.wait("the lists are refused", |node| {
        node.pod(pod)
            .is_some_and(|it| it["lists_problem"].is_string())
    });
    let said = reported(&node);
    let it = &said["pods"][0];
    assert!(it["lists_problem"].to_string().contains("70000"), "{said}");
    assert!(
        problems(&said).contains("the last good ones are in force"),
        "{said}"
    );
    assert_eq!(it["policy"]["outbound_ports"], 1, "{said}");
    let text = beside(&node, &[]).succeeded().stdout;
    assert!(text.contains(" 1p!"), "{text}");

    // One that it waits for.
    node.add_pod_file(
        "later",
        &json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "later", "namespace": "test"},
            "osm": {"netns": "/run/netns/osm-not-there", "cgroup": "/sys/fs/cgroup/osm-not-there"},
        }),
    );
    node.wait("it waits", |node| {
        node.status().to_string().contains("waiting")
    });
    let said = reported(&node);
    assert_eq!(said["pods"][1]["state"], "waiting", "{said}");
    assert_eq!(said["pods"][1]["mode"], "none", "{said}");

    node.kill();
    let state = node.state().path().display().to_string();
    let flags = ["status", "--agent-url", NOBODY, "--state-dir", &state];
    let text = node.agent().run(&flags).succeeded().stdout;
    assert!(text.contains("pods stay intercepted; start it"), "{text}");
    assert!(text.contains(" ebpf "), "{text}");
}

#[test]
fn pod_that_the_agent_does_not_know_is_a_problem() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let Some(mut node) = Node::new() else { return };
    node.start();
    node.wait_ready();
    let url = node.url();
    let state = mesh.agent.state().path().display().to_string();
    let flags = ["status", "--agent-url", &url, "--state-dir", &state];
    let text = mesh.agent.run(&flags).succeeded().stdout;
    assert!(text.contains("the node agent does not know it"), "{text}");
    assert!(text.contains("osm-agent detach --pod"), "{text}");
}

#[test]
fn pod_behind_iptables_is_known_by_the_agent_alone() {
    if missing(&[Need::Program("iptables-nft-restore")]) {
        return;
    }
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let _sidecar = world.pod.sidecar();
    node.mesh("{traffic: {interceptionMode: iptables}}");
    node.add_pod(&world.pod, &[]);
    node.start();
    node.wait_intercepted(&world.pod);
    let said = reported(&node);
    assert_eq!(said["pods"][0]["mode"], "iptables", "{said}");
    assert_eq!(said["pods"][0]["problems"], json!([]), "{said}");
    node.kill();
    let state = node.state().path().display().to_string();
    let flags = ["status", "--agent-url", NOBODY, "--state-dir", &state];
    let text = node.agent().run(&flags).succeeded().stdout;
    assert!(text.contains("Pods behind iptables"), "{text}");
}
