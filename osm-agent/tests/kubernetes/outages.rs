//! All goes wrong. Whatever does, no pod is lost by it.

use std::time::Duration;

use osm_agent::daemon::source::{Event, Membership::InMesh, kubernetes::Pace};
use rstest::rstest;
use serde_json::json;

use crate::{
    agent::{Agent, PACE, has, namespace, pod},
    server::{Instead, NAMESPACES, PODS, Server},
};

/// Pods `stays` and `goes`, both known to the agent, both collections watched.
fn scene() -> (Server, Agent) {
    scene_with(PACE)
}

fn scene_with(pace: Pace) -> (Server, Agent) {
    let server = Server::start();
    server.put(NAMESPACES, namespace(Some("enabled")));
    server.put(PODS, pod("goes"));
    server.put(PODS, pod("stays"));
    let agent = Agent::with_pace(&server, pace);
    agent.these(&[("goes", InMesh), ("stays", InMesh)]);
    server.wait_for_watch(PODS);
    server.wait_for_watch(NAMESPACES);
    (server, agent)
}

/// Waits until `goes` is gone and `new` is there; `stays` has to be there all the time.
fn see_the_change(agent: &Agent) {
    agent.pods(has("stays"), |pods| {
        has("stays")(pods) && has("new")(pods) && !pods.contains_key("uid-goes")
    });
}

fn change(server: &Server) {
    server.delete_unheard(PODS, "goes");
    server.put_unheard(PODS, pod("new"));
}

const GONE: &str = r#"{"kind":"Status","apiVersion":"v1","code":410,"reason":"Expired","message":"too old resource version"}"#;

#[test]
fn watch_that_is_told_410_amid_is_listed_again() {
    let (server, agent) = scene();
    change(&server);
    server.compact();
    server.say(PODS, &format!("{{\"type\":\"ERROR\",\"object\":{GONE}}}\n"));
    see_the_change(&agent);
    // It is a matter of course.
    assert_eq!(agent.errors(), 0);
    server.wait_for_request(&["/api/v1/pods", "resourceVersionMatch=NotOlderThan"]);
}

#[test]
fn watch_that_is_answered_410_is_listed_again() {
    let (server, agent) = scene();
    change(&server);
    // The first list after that is refused for its age, too.
    for _ in 0..3 {
        server.instead("GET /api/v1/pods", Instead::Answer(410, GONE.to_owned()));
    }
    server.cut(PODS, "");
    see_the_change(&agent);
}

#[test]
fn version_that_the_server_never_had_is_not_insisted_on() {
    let (server, agent) = scene();
    change(&server);
    let ahead =
        r#"{"kind":"Status","code":504,"reason":"Timeout","message":"Too large resource version"}"#;
    server.instead("NotOlderThan", Instead::Answer(504, ahead.to_owned()));
    server.cut(PODS, "");
    see_the_change(&agent);
    assert_eq!(server.count_requests("NotOlderThan"), 1);
}

#[test]
fn watch_that_is_cut_amid_a_line_misses_nothing() {
    let (server, agent) = scene();
    change(&server);
    server.cut(
        PODS,
        r#"{"type":"DELETED","object":{"metadata":{"uid":"uid-go"#,
    );
    see_the_change(&agent);
}

#[rstest]
#[case::no_json("<html>gateway</html>\n")]
#[case::another_shape("{\"type\":\"WHATEVER\",\"object\":[]}\n")]
#[case::a_line_of_another_server("[]\n")]
#[case::status_of_an_error("{\"kind\":\"Status\",\"code\":500,\"message\":\"etcd\"}\n")]
fn line_that_makes_no_sense_may_have_been_a_change(#[case] line: &str) {
    let (server, agent) = scene();
    change(&server);
    server.say(PODS, line);
    see_the_change(&agent);
    assert_eq!(agent.errors(), 1);
}

#[test]
fn connection_on_which_nothing_is_said_is_given_up() {
    let (server, agent) = scene_with(Pace {
        idle: Duration::from_millis(500),
        ..PACE
    });
    change(&server);
    see_the_change(&agent);
    assert_eq!(agent.errors(), 0);
    // It goes on from where it was.
    assert_eq!(server.count_requests("GET /api/v1/pods?&limit"), 0);
}

#[test]
fn bookmark_is_where_the_next_watch_goes_on() {
    let (server, agent) = scene_with(Pace {
        idle: Duration::from_millis(500),
        ..PACE
    });
    let version = server.next_version().to_string();
    let bookmark = json!({"type": "BOOKMARK", "object": {
        "kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": version},
    }});
    server.say(PODS, &format!("{bookmark}\n"));
    let part = format!("resourceVersion={version}");
    server.wait_for_request(&["/api/v1/pods", "watch=true", &part]);
    drop(agent);
}

#[rstest]
#[case::overloaded(Instead::Answer(429, "slow down".to_owned()))]
#[case::broken(Instead::Answer(500, r#"{"kind":"Status","code":500}"#.to_owned()))]
#[case::not_ready(Instead::Answer(503, String::new()))]
#[case::not_allowed(Instead::Answer(403, r#"{"kind":"Status","code":403}"#.to_owned()))]
#[case::unknown(Instead::Answer(404, "404 page not found".to_owned()))]
#[case::no_json(Instead::Answer(200, "<html>gateway</html>".to_owned()))]
#[case::cut_off(Instead::Answer(200, r#"{"items":[{"metadata":{"#.to_owned()))]
#[case::no_items(Instead::Answer(200, r#"{"metadata":{"resourceVersion":"9"}}"#.to_owned()))]
#[case::no_version(Instead::Answer(200, r#"{"items":[]}"#.to_owned()))]
#[case::hanging(Instead::Silence)]
fn answer_that_is_no_list_changes_nothing(#[case] instead: Instead) {
    let (server, agent) = scene();
    change(&server);
    // The watch is not answered either: else it would go on without a list.
    server.instead("GET /api/v1/pods", Instead::Answer(500, String::new()));
    server.instead("GET /api/v1/pods", instead);
    server.cut(PODS, "");
    see_the_change(&agent);
    assert!(agent.errors() >= 2, "{}", agent.errors());
}

#[test]
fn object_that_can_not_be_read_does_not_stop_the_others() {
    let (server, agent) = scene();
    let mut broken = pod("stays");
    broken["spec"]["containers"] = json!("none");
    broken["metadata"]["annotations"] = json!({"openservicemesh.io/sidecar-injection": "disabled"});
    server.put(PODS, broken);
    server.put(PODS, pod("other"));
    // It stays what it was.
    agent.pods(has("stays"), |pods| {
        has("other")(pods) && has("stays")(pods)
    });
    assert_eq!(agent.errors(), 0);

    // The same in a list.
    change(&server);
    server.compact();
    server.cut(PODS, "");
    see_the_change(&agent);
}

#[test]
fn list_with_an_object_that_nobody_can_tell_removes_nothing() {
    let (server, agent) = scene();
    server.delete_unheard(PODS, "goes");
    let nameless = json!({"metadata": {"name": "nameless"}, "spec": 7});
    server.put_unheard(PODS, nameless);
    server.put_unheard(PODS, pod("new"));
    server.compact();
    server.cut(PODS, "");
    agent.pods(has("goes"), |pods| has("new")(pods) && has("goes")(pods));
    // Once it is gone the list counts again.
    server.delete_unheard(PODS, "nameless");
    server.wait_for_watch(PODS);
    server.compact();
    server.cut(PODS, "");
    see_the_change(&agent);
}

#[test]
fn server_that_dies_takes_no_pod_along() {
    let (mut server, agent) = scene();
    server.die();
    change(&server);
    agent.wait_for_error();
    agent.quiet(Duration::from_secs(1), |_| true);
    server.come_up();
    see_the_change(&agent);
}

#[test]
fn server_that_lost_its_past_is_believed_when_it_is_back() {
    let (mut server, agent) = scene();
    server.die();
    change(&server);
    server.compact();
    server.come_up();
    see_the_change(&agent);
}

#[test]
fn agent_that_starts_without_a_server_waits_for_it() {
    let mut server = Server::down();
    server.put(NAMESPACES, namespace(Some("enabled")));
    server.put(PODS, pod("a"));
    let agent = Agent::start(&server);
    agent.wait_for_error();
    agent.quiet(Duration::from_millis(500), |event| {
        matches!(event, Event::Pods(_))
    });
    server.come_up();
    agent.these(&[("a", InMesh)]);
}
