//! What people are told, by Kubernetes Events.

use std::time::Duration;

use osm_agent::daemon::source::{
    Membership::{self, InMesh},
    Notice,
};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, mesh_config, namespace, pod},
    server::{Instead, MESHCONFIGS, NAMESPACES, PODS, Server},
};

const EVENTS: &str = "POST /apis/events.k8s.io/v1/namespaces/shop/events";

fn scene() -> (Server, Agent) {
    let server = Server::start();
    server.put(NAMESPACES, namespace(Some("enabled")));
    server.put(PODS, pod("a"));
    let agent = Agent::start(&server);
    agent.these(&[("a", InMesh)]);
    (server, agent)
}

fn notice(text: &str) -> Notice {
    Notice {
        pod: Some("uid-a".to_owned()),
        is_warning: true,
        reason: "NotIntercepted",
        text: text.to_owned(),
    }
}

fn event(server: &Server, request: &str) -> Value {
    serde_json::from_str(&server.wait_for_request(&[request])).unwrap()
}

#[test]
fn notice_becomes_an_event_on_its_pod() {
    let (server, agent) = scene();
    agent.notices.send(notice("the kernel refuses")).unwrap();
    let event = event(&server, EVENTS);
    assert_eq!(event["kind"], "Event");
    assert_eq!(event["apiVersion"], "events.k8s.io/v1");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "NotIntercepted");
    assert_eq!(event["note"], "the kernel refuses");
    assert_eq!(event["action"], "Intercept");
    assert_eq!(event["reportingController"], "openservicemesh.io/osm-agent");
    assert_eq!(event["reportingInstance"], "node-1");
    assert_eq!(event["metadata"]["namespace"], "shop");
    assert_eq!(
        event["regarding"],
        json!({"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "a", "uid": "uid-a"})
    );
}

#[test]
fn notice_that_is_repeated_makes_one_event() {
    let (server, agent) = scene();
    for _ in 0..100 {
        agent.notices.send(notice("again")).unwrap();
    }
    agent.notices.send(notice("something else")).unwrap();
    agent
        .notices
        .send(Notice {
            pod: Some("uid-nobody".to_owned()),
            ..notice("x")
        })
        .unwrap();
    agent.notices.send(notice("the last")).unwrap();
    server.wait_for_request(&[EVENTS]);
    let start = std::time::Instant::now();
    while server.count_requests(EVENTS) < 3 && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(200));
    // Neither created nor counted on.
    assert_eq!(server.count_requests("/events.k8s.io/"), 3);
}

#[test]
fn notice_of_the_mesh_becomes_an_event_on_its_config() {
    let server = Server::start();
    server.state().has_meshconfigs = true;
    server.put(MESHCONFIGS, mesh_config(&json!([])));
    let agent = Agent::start(&server);
    agent.mesh().unwrap();
    agent
        .notices
        .send(Notice {
            pod: None,
            ..notice("bad value")
        })
        .unwrap();
    let event = event(
        &server,
        "POST /apis/events.k8s.io/v1/namespaces/osm-system/events",
    );
    assert_eq!(
        event["regarding"],
        json!({
            "apiVersion": "config.openservicemesh.io/v1alpha2", "kind": "MeshConfig",
            "namespace": "osm-system", "name": "osm-mesh-config", "uid": "m1",
        })
    );
}

#[test]
fn event_that_can_not_be_written_holds_nothing_up() {
    let (server, agent) = scene();
    server.wait_for_watch(PODS);
    server.instead("POST", Instead::Answer(500, String::new()));
    server.instead("POST", Instead::Silence);
    agent.notices.send(notice("one")).unwrap();
    agent.notices.send(notice("two")).unwrap();
    agent.notices.send(notice("three")).unwrap();
    server.put(PODS, pod("b"));
    agent.these(&[("a", InMesh), ("b", InMesh)]);
    let start = std::time::Instant::now();
    while server.count_requests(EVENTS) < 3 {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(agent.errors(), 2);
    // What was dropped may be said again, what was written not.
    agent.notices.send(notice("three")).unwrap();
    agent.notices.send(notice("one")).unwrap();
    let start = std::time::Instant::now();
    while server.count_requests(EVENTS) < 4 {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.count_requests(EVENTS), 4);
}

#[test]
fn owner_of_a_pod_without_sidecar_is_told_to_create_it_anew() {
    let (server, agent) = scene();
    server.wait_for_watch(PODS);
    let mut plain = pod("a");
    plain["spec"]["containers"] = json!([{"name": "app"}]);
    server.put(PODS, plain);
    agent.these(&[("a", Membership::Outside)]);
    let event = event(&server, EVENTS);
    assert_eq!(event["reason"], "NoSidecar");
    assert!(
        event["note"].as_str().unwrap().contains("create it anew"),
        "{event}"
    );
}

#[test]
fn note_that_is_too_long_is_cut_between_characters() {
    let (server, agent) = scene();
    agent
        .notices
        .send(notice(&format!("x{}", "ä".repeat(1000))))
        .unwrap();
    let event = event(&server, EVENTS);
    assert_eq!(
        event["note"].as_str().unwrap(),
        format!("x{}", "ä".repeat(511))
    );
}
