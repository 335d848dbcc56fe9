//! The `MeshConfig` resource.

use std::time::Duration;

use osm_agent::{
    config::MeshConfig,
    daemon::source::{Event, Membership::InMesh, kubernetes::Pace},
};
use serde_json::json;

use crate::{
    agent::{Agent, PACE, mesh_config, namespace, pod},
    server::{Instead, MESHCONFIGS, NAMESPACES, PODS, Server},
};

fn scene() -> Server {
    let server = Server::start();
    server.state().has_meshconfigs = true;
    server.put(NAMESPACES, namespace(Some("enabled")));
    server.put(PODS, pod("a"));
    server.put(MESHCONFIGS, mesh_config(&json!([3306])));
    server
}

fn ports(mesh: Result<Box<MeshConfig>, String>) -> Vec<u16> {
    let lists = mesh.unwrap().lists;
    lists.outbound_ports_excluded.into_iter().collect()
}

fn is_mesh(event: &Event) -> bool {
    matches!(event, Event::Mesh(_))
}

#[test]
fn config_is_followed_in_the_version_that_the_server_has() {
    let server = scene();
    let agent = Agent::start(&server);
    assert_eq!(ports(agent.mesh()), [3306]);
    server.wait_for_watch(MESHCONFIGS);
    server.put(MESHCONFIGS, mesh_config(&json!([1, 2])));
    assert_eq!(ports(agent.mesh()), [1, 2]);

    // A value that is bad, a value that is none, and the good one again.
    server.put(MESHCONFIGS, mesh_config(&json!([70000])));
    let error = agent.mesh().unwrap_err();
    assert_eq!(
        error,
        "MeshConfig osm-system/osm-mesh-config: spec.traffic.outboundPortExclusionList[0] is \
         70000; expected a port from 1 to 65535"
    );
    let mut broken = mesh_config(&json!([]));
    broken["spec"] = json!("x");
    server.put(MESHCONFIGS, broken);
    assert!(agent.mesh().unwrap_err().contains("spec is \"x\""));
    server.put(MESHCONFIGS, mesh_config(&json!([1, 2])));
    assert_eq!(ports(agent.mesh()), [1, 2]);

    // Nothing new: nothing is said.
    server.put(MESHCONFIGS, mesh_config(&json!([1, 2])));
    agent.quiet(Duration::from_millis(300), is_mesh);

    server.delete(MESHCONFIGS, "osm-mesh-config");
    assert_eq!(agent.mesh().unwrap(), Box::default());
    assert_eq!(agent.errors(), 0);
}

#[test]
fn resource_that_is_missing_means_defaults_until_it_is_there() {
    let server = Server::start();
    server.put(NAMESPACES, namespace(Some("enabled")));
    server.put(PODS, pod("a"));
    let agent = Agent::start(&server);
    assert_eq!(agent.mesh().unwrap(), Box::default());
    // Pods do not wait for it.
    agent.these(&[("a", InMesh)]);
    agent.quiet(Duration::from_millis(300), is_mesh);
    assert_eq!(agent.errors(), 0);

    server.state().has_meshconfigs = true;
    server.put(MESHCONFIGS, mesh_config(&json!([3306])));
    assert_eq!(ports(agent.mesh()), [3306]);
}

#[test]
fn config_of_another_name_is_none() {
    let server = scene();
    server.delete(MESHCONFIGS, "osm-mesh-config");
    let mut other = mesh_config(&json!([9]));
    other["metadata"]["name"] = json!("other");
    server.put(MESHCONFIGS, other);
    let agent = Agent::start(&server);
    assert_eq!(agent.mesh().unwrap(), Box::default());
}

#[test]
fn resource_that_is_unknown_for_a_moment_keeps_what_was_known() {
    let server = scene();
    let agent = Agent::start(&server);
    assert_eq!(ports(agent.mesh()), [3306]);
    server.wait_for_watch(MESHCONFIGS);
    // As when an API server starts.
    server.state().has_meshconfigs = false;
    server.cut(MESHCONFIGS, "");
    agent.quiet(Duration::from_millis(500), is_mesh);
    server.state().has_meshconfigs = true;
    server.put(MESHCONFIGS, mesh_config(&json!([3307])));
    assert_eq!(ports(agent.mesh()), [3307]);
}

#[test]
fn resource_that_stays_unknown_means_defaults() {
    let server = scene();
    let pace = Pace {
        missing: Duration::from_millis(500),
        ..PACE
    };
    let agent = Agent::with_pace(&server, pace);
    assert_eq!(ports(agent.mesh()), [3306]);
    server.wait_for_watch(MESHCONFIGS);
    server.state().has_meshconfigs = false;
    server.cut(MESHCONFIGS, "");
    assert_eq!(agent.mesh().unwrap(), Box::default());
}

#[test]
fn trouble_with_the_config_stops_neither_it_nor_the_pods() {
    let server = scene();
    let forbidden = r#"{"kind":"Status","code":403,"message":"no"}"#.to_owned();
    // Which versions there are may be a secret: then they are tried.
    server.instead(
        "/apis/config.openservicemesh.io",
        Instead::Answer(403, forbidden),
    );
    server.instead("/meshconfigs", Instead::Answer(500, String::new()));
    server.instead("/apis/config.openservicemesh.io", Instead::Silence);
    let agent = Agent::start(&server);
    agent.these(&[("a", InMesh)]);
    assert_eq!(ports(agent.mesh()), [3306]);
    assert_eq!(agent.errors(), 2);
}
