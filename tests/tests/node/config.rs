//! Wrong values, second agents, changes of mode.

use osm_tests::{Actor, Client, Node, SIDECAR_UID, World, actor::Place};

use crate::{
    REMOTE,
    mesh::{expect_direct, expect_outbound},
    mode,
};

const OTHER: &str = "198.51.100.10:5432";

#[test]
fn bad_mesh_config_leaves_the_last_good_lists_in_force() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE, OTHER]);
    let mut app = pod.app();
    node.mesh("{traffic: {outboundPortExclusionList: [5432]}}");
    node.add_pod(pod, &[]);
    node.start();
    node.wait_intercepted(pod);
    expect_direct(&mut sidecar, &app.connect(OTHER), "remote");

    node.mesh("{traffic: {outboundPortExclusionList: [70000]}}");
    node.wait("the problem is shown", |node| {
        node.status()["mesh_problem"].is_string()
    });
    let problem = node.status()["mesh_problem"].to_string();
    assert!(
        problem.contains("outboundPortExclusionList[0]") && problem.contains("70000"),
        "{problem}"
    );
    assert!(node.log().contains("what is in force stays"));
    assert!(node.metric("osm_config_errors_total{what=\"mesh\"}") > 0.0);
    expect_direct(&mut sidecar, &app.connect(OTHER), "remote");
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());

    // Neither does an agent that has never seen a good one.
    node.kill();
    node.start();
    node.wait_intercepted(pod);
    expect_direct(&mut sidecar, &app.connect(OTHER), "remote");

    node.mesh("{traffic: {outboundPortExclusionList: [1]}}");
    node.wait("the problem is over", |node| {
        node.status()["mesh_problem"].is_null()
    });
    node.wait("the new list is in force", |_| {
        let connection = app.connect(OTHER);
        let is_direct = connection.greeting().peer == connection.local();
        if !is_direct {
            sidecar.accepted_from(connection.local());
        }
        !is_direct
    });
}

#[test]
fn guard_of_the_sidecar_s_ports_is_switched_under_running_pods() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let mut app = world.pod.app();
    node.mesh("{traffic: {outboundPortExclusionList: [5432]}}");
    node.add_pod(&world.pod, &[]);
    node.start();
    node.wait_intercepted(&world.pod);
    assert_eq!(app.listen("0.0.0.0:15001").error(), "EPERM");
    for (guard, error) in [("false", None), ("true", Some("EPERM"))] {
        node.mesh(&format!("{{traffic: {{reservedPortGuard: {guard}}}}}"));
        node.wait("the guard is switched", |_| {
            let listener = app.listen("0.0.0.0:15001");
            if listener.error.is_none() {
                app.close(listener.id);
            }
            listener.error.as_deref() == error
        });
    }
}

/// Its container starts anew, in another cgroup of that name, and the agent at another time.
#[test]
fn sidecar_that_is_known_by_its_cgroup_starts_anew() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    let mut stranger = pod.stranger();
    let _remote = world.outside.server("remote", &[REMOTE]);
    let path = pod.cgroup.path().join("proxy");
    node.mesh("{sidecar: {identity: uid-and-cgroup}}");
    node.add_pod_with_sidecar(pod, &path);
    node.start();
    node.wait_intercepted(pod);
    for round in 0..3 {
        // A kubelet takes longer to start a container again.
        let cgroup = pod.cgroup.child("proxy");
        node.wait("the sidecar is known", |node| {
            sidecar_cgroup(node) == Some(cgroup.id())
        });
        let place = Place {
            netns: &pod.netns,
            cgroup: Some(&cgroup),
            uid: Some(SIDECAR_UID),
        };
        let mut sidecar = Actor::start("sidecar", &place, &["sidecar"]);
        expect_outbound(&mut sidecar, &stranger.connect(REMOTE), REMOTE, pod.ip4());
        let mut owner = Client::start("owner", &place);
        expect_direct(&mut sidecar, &owner.connect(REMOTE), "remote");
        if round == 1 {
            node.kill();
            node.start();
            node.wait_intercepted(pod);
            assert_eq!(sidecar_cgroup(&node), Some(cgroup.id()));
            expect_outbound(&mut sidecar, &stranger.connect(REMOTE), REMOTE, pod.ip4());
        }
        drop(owner);
        sidecar.stop();
        drop(cgroup);
        node.wait("the former one does not count any more", |node| {
            sidecar_cgroup(node).is_none()
        });
    }
}

fn sidecar_cgroup(node: &Node) -> Option<u64> {
    let state = node.state().path().display().to_string();
    let args = ["status", "-o", "json", "--agent-url", "http://127.0.0.1:9"];
    let said = node
        .agent()
        .run(&[&args[..], &["--state-dir", &state]].concat());
    let report: serde_json::Value = serde_json::from_str(&said.succeeded().stdout).expect("JSON");
    report["pods"][0]["sidecar_cgroup"].as_u64()
}

#[test]
fn bad_annotation_leaves_the_last_good_lists_in_force_and_new_pods_to_the_mesh_s() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    let second = world.add_pod();
    let (mut sidecar, mut second_sidecar) = (pod.sidecar(), second.sidecar());
    let _remote = world.outside.server("remote", &[REMOTE, OTHER]);
    let mut app = pod.app();
    node.add_pod(pod, &[("outbound-port-exclusion-list", "5432")]);
    node.start();
    node.wait_intercepted(pod);
    expect_direct(&mut sidecar, &app.connect(OTHER), "remote");

    node.add_pod(pod, &[("outbound-port-exclusion-list", "5432,,")]);
    node.add_pod(&second, &[("outbound-port-exclusion-list", "no")]);
    node.wait("both problems are shown", |node| {
        [pod, &second].iter().all(|pod| {
            node.pod(pod)
                .is_some_and(|it| it["lists_problem"].is_string())
        })
    });
    node.wait_intercepted(&second);
    expect_direct(&mut sidecar, &app.connect(OTHER), "remote");
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    let connection = second.app().connect(OTHER);
    expect_outbound(&mut second_sidecar, &connection, OTHER, second.ip4());
    let problem = node.pod(pod).expect("it is shown")["lists_problem"].to_string();
    assert!(
        problem.contains("outbound-port-exclusion-list") && problem.contains("item 2"),
        "{problem}"
    );
}

#[test]
fn second_agent_of_a_state_directory_ends_with_one_clear_error() {
    let Some(mut node) = Node::new() else { return };
    node.start();
    node.wait_ready();
    let ended = node.run_to_end().failed();
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    let directory = node.state().path().display().to_string();
    assert!(
        ended.stderr.contains(&directory) && ended.stderr.contains("another"),
        "{ended}"
    );
    assert_eq!(node.get("/healthz").0, 200, "the first one goes on");
    // The other commands don't wait for it for ever either.
    let state = node.state().path().to_owned();
    let detach = [
        "detach".as_ref(),
        "--pod".as_ref(),
        "none".as_ref(),
        "--state-dir".as_ref(),
        state.as_os_str(),
    ];
    let ended = node.agent().run(&detach).failed();
    assert!(ended.stderr.contains(&directory), "{ended}");
}

#[test]
fn change_of_mode_reaches_every_pod() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    node.add_pod(pod, &[]);
    node.start();
    for wanted in ["iptables", "ebpf", "iptables", "none", "auto"] {
        node.mesh(&mode(wanted));
        let shown = match wanted {
            "auto" => "ebpf",
            other => other,
        };
        node.wait("the mode is in force", |node| {
            let state = node.pod(pod);
            match wanted {
                "none" => state.is_none(),
                _ => state.is_some_and(|it| it["detail"] == shown),
            }
        });
        let connection = app.connect(REMOTE);
        if wanted == "none" {
            expect_direct(&mut sidecar, &connection, "remote");
        } else {
            expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
        }
    }
}

#[test]
fn directory_of_pods_that_is_not_there_is_wrong_usage() {
    let Some(node) = Node::new() else { return };
    let ended = node.flag("--pods", "/nonexistent").run_to_end().failed();
    assert_eq!(ended.status.code(), Some(2), "{ended}");
    assert!(ended.stderr.contains("/nonexistent"), "{ended}");
}

#[test]
fn mesh_config_that_comes_late_is_waited_for_with_pods_intercepted() {
    let (Some(world), Some(node)) = (World::new(), Node::new()) else {
        return;
    };
    let mut node = node.flag("--config", "/nonexistent/mesh.yaml");
    let pod = &world.pod;
    node.add_pod(pod, &[]);
    node.start();
    node.wait_intercepted(pod);
    let mut sidecar = pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE]);
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
    assert!(node.status()["mesh_problem"].is_string());
}
