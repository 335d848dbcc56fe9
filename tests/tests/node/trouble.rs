//! Files that change in odd ways, and a pod that stays intercepted throughout.

use std::fs;

use osm_tests::{Actor, Client, Node, World};
use serde_json::json;

use crate::{
    REMOTE,
    mesh::{expect_outbound, expect_refused},
    mode,
};

const OTHER: &str = "198.51.100.10:5432";

/// A pod that an agent intercepts.
struct Scene {
    world: World,
    node: Node,
    sidecar: Actor,
    app: Client,
    _remote: Actor,
}

impl Scene {
    fn new() -> Option<Self> {
        let (world, mut node) = (World::new()?, Node::new()?);
        let (sidecar, app) = (world.pod.sidecar(), world.pod.app());
        let remote = world.outside.server("remote", &[REMOTE, OTHER]);
        node.add_pod(&world.pod, &[]);
        node.start();
        node.wait_intercepted(&world.pod);
        Some(Self {
            world,
            node,
            sidecar,
            app,
            _remote: remote,
        })
    }

    #[track_caller]
    fn expect_intercepted(&mut self, to: &str) {
        let connection = self.app.connect(to);
        expect_outbound(&mut self.sidecar, &connection, to, self.world.pod.ip4());
    }

    /// Waits until a list has the app reach that directly.
    #[track_caller]
    fn wait_direct(&mut self, to: &str) {
        let app = &mut self.app;
        self.node.wait("the list is in force", |_| {
            let connection = app.connect(to);
            connection.greeting().peer == connection.local()
        });
        let _ = self.sidecar.drain();
    }

    /// What the pod's file would say under another name.
    fn file(&self, annotations: &serde_json::Value) -> serde_json::Value {
        let pod = &self.world.pod;
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": pod.name(), "namespace": "test", "annotations": annotations },
            "osm": { "netns": pod.netns.path(), "cgroup": pod.cgroup.path() },
        })
    }
}

#[test]
fn lists_of_a_pod_whose_file_was_renamed_are_followed() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let excluded = |ports| json!({ "openservicemesh.io/outbound-port-exclusion-list": ports });
    scene
        .node
        .add_pod_file("renamed", &scene.file(&excluded("80")));
    scene.node.remove_pod(&scene.world.pod);
    scene.wait_direct(REMOTE);
    scene
        .node
        .add_pod_file("renamed", &scene.file(&excluded("5432")));
    scene.wait_direct(OTHER);
    scene.expect_intercepted(REMOTE);
    assert_eq!(scene.node.get("/readyz").0, 200);
}

#[test]
fn second_file_of_a_pod_takes_nothing_away_from_it() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let mut twin = scene.file(&json!({}));
    twin["metadata"]["name"] = "another".into();
    twin["osm"]["netns"] = "/run/netns/nobody".into();
    // By its name, it comes first.
    scene.node.add_pod_file("0", &twin);
    let shown = |node: &Node, name: &str, state: &str| {
        let status = node.status();
        let pods = status["pods"].as_array().cloned().unwrap_or_default();
        let mut pods = pods.iter();
        pods.any(|pod| pod["name"] == name && pod["state"] == state)
    };
    scene.node.wait("it is refused", |node| {
        shown(node, "test/another", "failed")
    });
    assert!(scene.node.log().contains("has the same cgroup"));
    scene.node.wait_intercepted(&scene.world.pod);
    scene.expect_intercepted(REMOTE);
    // Who came first, the next agent does not know: it takes nothing away either.
    scene.node.kill();
    scene.node.start();
    let name = format!("test/{}", scene.world.pod.name());
    scene
        .node
        .wait("one is refused", |node| shown(node, &name, "failed"));
    scene.expect_intercepted(REMOTE);
    scene.node.remove_pod_file("0");
    scene.node.wait_intercepted(&scene.world.pod);
    scene.expect_intercepted(REMOTE);
}

#[test]
fn pod_whose_file_is_broken_stays_intercepted_over_a_restart() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let directory = scene.node.pod_files();
    let path = directory.join(format!("{}.json", scene.world.pod.name()));
    fs::write(path, "{ broken").expect("it can be written");
    scene.node.kill();
    scene.node.start();
    scene.node.wait("the broken file is shown", |node| {
        let status = node.status();
        let pods = status["pods"].as_array();
        pods.is_some_and(|pods| pods.iter().any(|pod| pod["state"] == "failed"))
    });
    scene.expect_intercepted(REMOTE);
    assert_eq!(scene.node.get("/readyz").0, 503);
}

#[test]
fn pod_is_kept_that_is_not_found_for_a_while() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let pod = &scene.world.pod;
    pod.netns.ip(&["addr flush dev eth0"]);
    let mut file = scene.file(&json!({}));
    file["metadata"]["name"] = "another-name".into();
    scene.node.add_pod_file(pod.name(), &file);
    scene.node.wait("it is waited for", |node| {
        let status = node.status();
        let pods = status["pods"].as_array().cloned().unwrap_or_default();
        pods.iter().any(|pod| pod["state"] != "intercepted")
    });
    pod.netns
        .ip(&[format!("addr add {}/24 dev eth0", pod.ip4())]);
    pod.netns.ip(&["route replace default via 10.77.1.1"]);
    scene.expect_intercepted(REMOTE);
}

#[test]
fn state_that_is_removed_under_the_agent_is_made_again() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.node.kill();
    let node = scene.node.flag("--resync", "1");
    scene.node = node;
    scene.node.start();
    scene.node.wait_intercepted(&scene.world.pod);
    fs::remove_dir_all(scene.node.state().path().join("pods")).expect("it was there");
    let before = scene.node.metric("osm_passes_total");
    scene.node.wait("a resync has passed", |node| {
        node.metric("osm_passes_total") > before + 1.5 && node.get("/readyz").0 == 200
    });
    scene.expect_intercepted(REMOTE);
}

#[test]
fn mesh_config_that_was_never_good_changes_no_means() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.node.mesh(&mode("iptables"));
    let pod = &scene.world.pod;
    scene.node.wait("iptables", |node| {
        node.pod(pod).is_some_and(|it| it["detail"] == "iptables")
    });
    scene.node.kill();
    scene.node.mesh("{traffic: {interceptionMode: maybe}}");
    scene.node.start();
    scene.node.wait_intercepted(pod);
    assert_eq!(
        scene.node.pod(pod).expect("it is shown")["detail"],
        "iptables"
    );
    scene.expect_intercepted(REMOTE);
}

#[test]
fn namespace_that_is_a_pipe_holds_up_nobody() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let pipe = scene.node.pod_files().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let second = scene.world.add_pod();
    let mut file = scene.file(&json!({}));
    file["metadata"]["name"] = "piped".into();
    file["osm"] = json!({ "netns": pipe, "cgroup": second.cgroup.path() });
    scene.node.add_pod_file("piped", &file);
    scene
        .node
        .wait("it is shown", |node| node.get("/readyz").0 == 503);
    let _ = scene.node.stop().succeeded();
}

#[test]
fn without_its_sidecar_the_pod_s_connections_are_refused_whatever_happens() {
    let Some(scene) = Scene::new() else { return };
    let Scene {
        world,
        mut node,
        sidecar,
        mut app,
        _remote,
    } = scene;
    sidecar.stop();
    for round in 0..3 {
        expect_refused(&mut app, REMOTE.into());
        node.mesh("{traffic: {outboundPortExclusionList: [1]}}");
        expect_refused(&mut app, REMOTE.into());
        node.kill();
        expect_refused(&mut app, REMOTE.into());
        node.start();
        if round == 2 {
            node.wait_intercepted(&world.pod);
        }
    }
    expect_refused(&mut app, REMOTE.into());
}
