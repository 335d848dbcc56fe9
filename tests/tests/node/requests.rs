//! Init containers and the CNI plugin, and an agent that answers them.

use std::process::{Command, Stdio};

use osm_tests::{Cgroup, Netns, Node, Outcome, Pod, World, agent};
use rstest::rstest;
use serde_json::json;

use crate::{
    REMOTE,
    container::{Container, rules},
    mesh::{expect_outbound, expect_refused},
    mode,
};

const UID: &str = "1d0cd2a6-8b8e-4a55-9d3e-0f6b8b7b1c11";

/// `osm-agent init` in the pod.
pub fn init<'a>(node: &Node, pod: &'a Pod, mode: &str) -> Container<'a> {
    let socket = node.socket().display().to_string();
    let flags = ["--mode", mode, "--agent-socket", &socket];
    Container::new(pod, &[&flags[..], &["--agent-timeout", "20"]].concat())
}

/// The plugin, asked what becomes of a pod.
pub fn cni(node: &Node, command: &str, pod: &Pod) -> Outcome {
    cni_in(node, command, pod, &pod.netns)
}

fn cni_in(node: &Node, command: &str, pod: &Pod, netns: &Netns) -> Outcome {
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "test",
        "type": "osm-cni",
        "agentSocket": node.cni_socket(),
        "timeoutSeconds": 20,
        "prevResult": { "cniVersion": "1.0.0", "interfaces": [], "ips": [] },
    });
    let name = pod.name();
    let arguments = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME={name}");
    let child = Command::new(agent::binary().expect("there is one"))
        .arg("cni")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c0ffee")
        .env("CNI_NETNS", netns.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env("CNI_ARGS", arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("the plugin starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    serde_json::to_writer(&mut stdin, &network).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    output.into()
}

#[test]
fn init_container_of_a_pod_in_the_mesh_is_answered_when_it_is_intercepted() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    node.start();
    node.add_pod(pod, &[]);
    init(&node, pod, "ebpf")
        .run()
        .exited(0)
        .saying("intercepted by eBPF")
        .proving_all();
    assert!(!rules(pod, "iptables-nft-save").contains("PROXY"));
    // No sidecar yet: refused, and never around it.
    let _remote = world.outside.server("remote", &[REMOTE]);
    expect_refused(&mut pod.app(), REMOTE.into());
    let mut sidecar = pod.sidecar();
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
    assert!(node.metric("osm_requests_total{kind=\"init\",outcome=\"done\"}") > 0.5);
}

#[rstest]
#[case::not_in_the_mesh("disabled", "not in the mesh")]
#[case::bad_lists("enabled", "inbound-port-exclusion-list")]
fn init_container_of_another_pod_is_refused(#[case] injection: &str, #[case] words: &str) {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    node.start();
    let annotations = [
        ("sidecar-injection", injection),
        ("inbound-port-exclusion-list", "many"),
    ];
    node.add_pod(pod, &annotations);
    let _ = init(&node, pod, "ebpf")
        .run()
        .exited(1)
        .complaining(&["refuses", words]);
}

#[test]
fn node_that_falls_back_tells_the_init_container_so() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    node.mesh(&mode("iptables"));
    node.start();
    node.add_pod(&world.pod, &[]);
    let _ = init(&node, &world.pod, "ebpf")
        .run()
        .exited(1)
        .complaining(&["refuses", "iptables"]);
}

#[test]
fn without_a_source_pods_speak_for_themselves_and_stay_over_a_restart() {
    let (Some(world), Some(node)) = (World::new(), Node::without_source()) else {
        return;
    };
    let mut node = node.flag("--resync", "1");
    let kubepods = Cgroup::new();
    let pod = world.add_pod_in(kubepods.child(&format!("pod{UID}")));
    node.start();
    let _ = init(&node, &pod, "ebpf").run().exited(0);
    let mut sidecar = pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    node.kill();
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    node.start();
    node.wait("the pod is adopted", |node| {
        node.metric("osm_pods{state=\"intercepted\"}") > 0.5
    });
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    drop((sidecar, app));
    drop(pod);
    node.wait("it is let go when it is gone", |node| {
        node.state()
            .pins()
            .iter()
            .all(|pin| !pin.starts_with("pods"))
    });
}

#[test]
fn container_runtime_is_answered_when_the_pod_is_intercepted() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    let add = || cni(&node, "ADD", pod);
    let ended = add().failed();
    assert!(
        ended.stdout.contains("\"code\": 11") || ended.stdout.contains("\"code\":11"),
        "{ended}"
    );
    node.start();
    node.add_pod(pod, &[]);
    let ended = cni(&node, "ADD", pod).succeeded();
    assert!(ended.stdout.contains("interfaces"), "{ended}");
    let mut sidecar = pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE]);
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
    let _ = cni(&node, "CHECK", pod).succeeded();
    let _ = cni(&node, "DEL", pod).succeeded();
    // Its last moments are intercepted as well.
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
}

#[test]
fn container_runtime_that_asks_about_another_namespace_is_not_told_that_all_is_well() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let (pod, other) = (&world.pod, world.add_pod());
    node.start();
    node.add_pod(pod, &[]);
    node.wait_intercepted(pod);
    let _ = cni_in(&node, "ADD", pod, &pod.netns).succeeded();
    let _ = cni_in(&node, "CHECK", pod, &other.netns).failed();
    let ended = cni_in(&node, "ADD", pod, &other.netns).failed();
    assert!(
        ended.stdout.contains("another network namespace"),
        "{ended}"
    );
}
