//! All goes well.

use std::time::Duration;

use osm_agent::daemon::source::{Event, Membership::InMesh, Membership::Outside};

use crate::{
    agent::{Agent, namespace, pod},
    server::{Instead, NAMESPACES, PODS, Server},
};

fn shop() -> Server {
    let server = Server::start();
    server.put(NAMESPACES, namespace(Some("enabled")));
    server.put(PODS, pod("a"));
    server.put(PODS, pod("b"));
    server
}

#[test]
fn pods_come_change_and_go_with_what_the_server_says() {
    let server = shop();
    let agent = Agent::start(&server);
    agent.these(&[("a", InMesh), ("b", InMesh)]);
    server.wait_for_watch(PODS);

    server.put(PODS, pod("c"));
    agent.these(&[("a", InMesh), ("b", InMesh), ("c", InMesh)]);

    let mut changed = pod("b");
    changed["metadata"]["annotations"] = serde_json::json!({
        "openservicemesh.io/outbound-port-exclusion-list": "3306",
        "team": "shop",
    });
    server.put(PODS, changed);
    agent.pods(
        |_| true,
        |pods| {
            let annotations = &pods["uid-b"].annotations;
            annotations.len() == 1
                && annotations["openservicemesh.io/outbound-port-exclusion-list"] == "3306"
        },
    );

    server.delete(PODS, "a");
    agent.these(&[("b", InMesh), ("c", InMesh)]);
    assert_eq!(agent.errors(), 0);
}

#[test]
fn namespace_that_changes_its_mind_changes_its_pods() {
    let server = shop();
    let agent = Agent::start(&server);
    agent.these(&[("a", InMesh), ("b", InMesh)]);
    server.wait_for_watch(NAMESPACES);
    server.put(NAMESPACES, namespace(Some("disabled")));
    agent.these(&[("a", Outside), ("b", Outside)]);
    server.put(NAMESPACES, namespace(Some("yes")));
    agent.these(&[("a", InMesh), ("b", InMesh)]);
    server.put(NAMESPACES, namespace(None));
    agent.these(&[("a", Outside), ("b", Outside)]);
}

#[test]
fn pods_are_not_told_before_namespaces_are_known() {
    let server = shop();
    server.instead("/api/v1/namespaces", Instead::Silence);
    let agent = Agent::start(&server);
    server.wait_for_watch(PODS);
    agent.quiet(Duration::from_millis(300), |event| {
        matches!(event, Event::Pods(_))
    });
    agent.these(&[("a", InMesh), ("b", InMesh)]);
    assert_eq!(agent.errors(), 1);
}

#[test]
fn change_that_does_not_concern_us_is_not_told() {
    let server = shop();
    let agent = Agent::start(&server);
    agent.these(&[("a", InMesh), ("b", InMesh)]);
    server.wait_for_watch(PODS);
    let mut changed = pod("a");
    changed["status"]["podIP"] = "10.0.0.9".into();
    server.put(PODS, changed);
    agent.quiet(Duration::from_millis(300), |event| {
        matches!(event, Event::Pods(_))
    });
}

#[test]
fn pod_that_is_over_goes_when_its_containers_have_ended() {
    let server = shop();
    let agent = Agent::start(&server);
    agent.these(&[("a", InMesh), ("b", InMesh)]);
    server.wait_for_watch(PODS);
    let mut evicted = pod("a");
    evicted["status"] = serde_json::json!({
        "phase": "Failed",
        "containerStatuses": [{"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
    });
    server.put(PODS, evicted.clone());
    agent.quiet(Duration::from_millis(200), |event| {
        matches!(event, Event::Pods(_))
    });
    evicted["status"]["containerStatuses"][0]["state"] =
        serde_json::json!({"terminated": {"exitCode": 137}});
    server.put(PODS, evicted);
    agent.these(&[("b", InMesh)]);
}

#[test]
fn server_is_asked_for_this_node_for_metadata_and_in_pages() {
    let server = shop();
    let agent = Agent::start(&server);
    agent.these(&[("a", InMesh), ("b", InMesh)]);
    server.wait_for_request(&[
        "GET /api/v1/pods?",
        "fieldSelector=spec.nodeName%3Dnode-1",
        "limit=50",
    ]);
    server.wait_for_request(&[
        "GET /api/v1/pods?",
        "watch=true",
        "fieldSelector=spec.nodeName%3Dnode-1",
        "allowWatchBookmarks=true",
        "timeoutSeconds=",
    ]);
}

#[test]
fn list_in_pages_is_taken_whole() {
    let server = shop();
    let page = |pod, next: &str| {
        let metadata = serde_json::json!({"resourceVersion": "3", "continue": next});
        serde_json::json!({"metadata": metadata, "items": [pod]}).to_string()
    };
    server.instead("/api/v1/pods", Instead::Answer(200, page(pod("a"), "more")));
    server.instead("continue=more", Instead::Answer(200, page(pod("z"), "")));
    let agent = Agent::start(&server);
    agent.these(&[("a", InMesh), ("z", InMesh)]);
}
