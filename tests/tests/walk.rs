//! The walk of somebody who has never seen this: a pod is intercepted as README says, broken on purpose,
//! and the cause of each fault is found by one command.

mod mesh;

use mesh::{Lists, Mesh, expect_direct, expect_outbound, expect_refused};
use osm_tests::{Dial, Need, Node, Outcome, missing};

const REMOTE: &str = "198.51.100.10:80";
/// Where no agent is.
const NOBODY: &str = "http://127.0.0.1:9";

/// A pod as README attaches it.
fn attached() -> Option<Mesh> {
    Mesh::attached(&Lists {
        excluded_ports: "5432,6379",
        ..Lists::default()
    })
}

/// One command about the mesh's pod.
#[track_caller]
fn ask(mesh: &Mesh, command: &[&str]) -> Outcome {
    mesh.agent.ask(&mesh.world.pod, command)
}

#[track_caller]
fn expect_words(said: &Outcome, words: &[&str]) {
    for words in words {
        assert!(said.stdout.contains(words), "{words}: {said}");
    }
}

#[test]
fn pod_that_works_is_seen_to_work() {
    let Some(mesh) = attached() else { return };
    let mut sidecar = mesh.world.pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let connection = mesh.world.pod.app().connect(REMOTE);
    expect_outbound(&mut sidecar, &connection, REMOTE, mesh.world.pod.ip4());
    let status = ask(
        &mesh,
        &["status", "--agent-url", NOBODY, "--fail-on-problems"],
    );
    expect_words(
        &status.succeeded(),
        &["redirect-outbound", "2 outbound ports"],
    );
    let said = ask(&mesh, &["explain", "--to", REMOTE]).succeeded();
    expect_words(
        &said,
        &[
            "redirect (redirect-outbound)",
            "port 15001",
            "nothing excludes it",
        ],
    );
    assert_eq!(ask(&mesh, &["check"]).status.code(), Some(0));
}

#[test]
fn sidecar_that_is_stopped_is_found_by_each_command() {
    let Some(mesh) = attached() else { return };
    mesh.world.pod.sidecar().stop();
    let mut app = mesh.world.pod.app();
    // The symptom: connections are refused.
    expect_refused(&mut app, Dial::to(REMOTE));
    let status = ask(&mesh, &["status", "--agent-url", NOBODY]).succeeded();
    expect_words(&status, &["refuse-no-outbound-listener", "15001"]);
    let explained = ask(&mesh, &["explain", "--to", REMOTE]).succeeded();
    expect_words(
        &explained,
        &["refuse (", "the sidecar does not listen there"],
    );
    let checked = ask(&mesh, &["check"]);
    assert_eq!(checked.status.code(), Some(1), "{checked}");

    let state = mesh.agent.state().path().display().to_string();
    let monitor = [
        "monitor",
        "--verdict",
        "refuse",
        "--count",
        "1",
        "--duration",
        "20",
    ];
    let mut monitor = mesh
        .agent
        .start(&[&monitor[..], &["--state-dir", &state]].concat());
    let said = loop {
        // Until it listens, it tells nothing.
        expect_refused(&mut app, Dial::to(REMOTE));
        if monitor
            .wait(std::time::Duration::from_millis(200))
            .is_some()
        {
            break monitor.output().0;
        }
    };
    assert!(said.contains("refuse-no-outbound-listener"), "{said}");
    assert!(said.contains(REMOTE), "{said}");
}

#[test]
fn item_of_a_list_that_lets_too_much_pass_is_found() {
    let Some(mesh) = attached() else { return };
    let to = "198.51.100.10:5432";
    let mut sidecar = mesh.world.pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[to]);
    // The symptom: the sidecar sees nothing of it.
    let connection = mesh.world.pod.app().connect(to);
    expect_direct(&mut sidecar, &connection, "remote");
    let said = ask(&mesh, &["explain", "--to", to]).succeeded();
    let annotation = "openservicemesh.io/outbound-port-exclusion-list";
    expect_words(&said, &["pass (pass-excluded-port)", "5432", annotation]);
}

#[test]
fn link_that_is_detached_is_found_by_each_command() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = attached() else { return };
    let mut sidecar = mesh.world.pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    mesh.agent.state().detach_link("connect4");
    // The symptom: connections go around the sidecar.
    let connection = mesh.world.pod.app().connect(REMOTE);
    expect_direct(&mut sidecar, &connection, "remote");
    let status = ask(&mesh, &["status", "--agent-url", NOBODY]).succeeded();
    expect_words(&status, &["connect4 is detached"]);
    let explained = ask(&mesh, &["explain", "--to", REMOTE]).succeeded();
    expect_words(&explained, &["connect4 is detached"]);
    let checked = ask(&mesh, &["check"]);
    assert_eq!(checked.status.code(), Some(126), "{checked}");
    // The remedy that they name.
    let _ = mesh.attach(&Lists::default()).succeeded();
    let connection = mesh.world.pod.app().connect(REMOTE);
    expect_outbound(&mut sidecar, &connection, REMOTE, mesh.world.pod.ip4());
}

#[test]
fn wrong_list_and_agent_that_is_gone_are_found_in_the_status() {
    let Some((world, mut node)) =
        Node::intercepting("{traffic: {outboundPortExclusionList: [5432]}}")
    else {
        return;
    };
    node.mesh("{traffic: {outboundPortExclusionList: [70000]}}");
    node.wait("the wrong list is refused", |node| {
        !node.status()["mesh_problem"].is_null()
    });
    let status = |node: &Node, url: &str| {
        let asked = ["status", "--agent-url", url];
        node.agent().ask_all(&asked).succeeded()
    };
    let said = status(&node, &node.url());
    expect_words(&said, &["70000", "outboundPortExclusionList"]);
    let url = node.url();
    node.kill();
    let said = status(&node, &url);
    expect_words(&said, &["No node agent at", world.pod.name(), "ebpf"]);
}
