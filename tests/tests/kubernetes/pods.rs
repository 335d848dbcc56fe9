//! Pods come, change and go; nobody types a command.

use serde_json::Value;

use crate::objects::{EXCLUDED_RANGES, pod, wait_for_event};
use crate::scene::{FIRST, Lands, SECOND, Scene};

#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn pod_that_is_created_is_intercepted_and_let_go_when_deleted() {
    let Some(scene) = Scene::with_agent() else {
        return;
    };
    scene.node.wait_until_ready();
    let mut web = scene.create_pod("web");
    let took = web.wait_until(FIRST, Lands::Outbound);
    println!("a new pod was intercepted after {took:?}");
    scene.node.wait_until_ready();

    // A pod of the same node that is in no mesh is left alone.
    let mut plain = pod("plain");
    plain["metadata"]["annotations"] =
        serde_json::json!({ "openservicemesh.io/sidecar-injection": "disabled" });
    let mut plain = scene.create_pod_as("plain", &plain);
    let mut other = scene.create_pod("other");
    other.wait_until(FIRST, Lands::Outbound);
    plain.expect(FIRST, Lands::Direct);

    scene.cluster.delete(&web.path).expect("deleting it");
    let took = web.wait_until(FIRST, Lands::Direct);
    println!("a deleted pod was let go after {took:?}");
    other.expect(FIRST, Lands::Outbound);
}

#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn annotation_that_changes_is_in_force_and_a_bad_one_keeps_the_last_good_lists() {
    let Some(scene) = Scene::with_agent() else {
        return;
    };
    let mut web = scene.create_pod("web");
    web.wait_until(FIRST, Lands::Outbound);

    scene.annotate(&web, EXCLUDED_RANGES, "198.51.100.10/32");
    let took = web.wait_until(FIRST, Lands::Direct);
    println!("an annotation was in force after {took:?}");
    web.expect(SECOND, Lands::Outbound);

    scene.annotate(&web, EXCLUDED_RANGES, "203.0.113.0/24,300.1.2.3/32");
    let event = wait_for_event(&scene.cluster, "Pod", "web", "300.1.2.3/32");
    println!("{event:?}");
    assert_eq!(event.kind, "Warning");
    web.expect(FIRST, Lands::Direct);
    web.expect(SECOND, Lands::Outbound);

    scene.annotate(&web, EXCLUDED_RANGES, Value::Null);
    let took = web.wait_until(FIRST, Lands::Outbound);
    println!("an annotation was gone after {took:?}");
    web.expect(SECOND, Lands::Outbound);
}

#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn pod_on_the_network_of_the_node_is_refused_with_an_event() {
    let Some(scene) = Scene::with_agent() else {
        return;
    };
    let mut object = pod("host");
    object["spec"]["hostNetwork"] = true.into();
    let mut host = scene.create_pod_as("host", &object);
    let event = wait_for_event(&scene.cluster, "Pod", "host", "hostNetwork");
    println!("{event:?}");
    assert_eq!((&*event.kind, &*event.reason), ("Warning", "Refused"));
    // The agent goes on with the others, and leaves this one alone.
    let mut web = scene.create_pod("web");
    web.wait_until(FIRST, Lands::Outbound);
    host.expect(FIRST, Lands::Direct);
}
