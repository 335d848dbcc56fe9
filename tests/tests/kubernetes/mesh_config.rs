//! The `MeshConfig` resource comes, changes and goes.

use serde_json::json;

use crate::objects::{MESH_CONFIG, MESH_CONFIGS, mesh_config, traffic, wait_for_event};
use crate::scene::{FIRST, Lands, SECOND, Scene};

#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn mesh_config_is_followed_and_a_bad_one_keeps_the_last_good_lists() {
    let Some(scene) = Scene::with_agent() else {
        return;
    };
    let cluster = &scene.cluster;
    let mut web = scene.create_pod("web");
    web.wait_until(FIRST, Lands::Outbound);

    let first = json!({ "outboundIPRangeExclusionList": ["198.51.100.10/32"] });
    cluster
        .create(MESH_CONFIGS, &mesh_config(&first))
        .expect("it is valid");
    let took = web.wait_until(FIRST, Lands::Direct);
    println!("a new MeshConfig was in force after {took:?}");
    web.expect(SECOND, Lands::Outbound);

    let second = json!({ "outboundIPRangeExclusionList": ["203.0.113.0/24"] });
    cluster
        .patch(MESH_CONFIG, &traffic(&second))
        .expect("it is valid");
    let took = web.wait_until(FIRST, Lands::Outbound);
    println!("a changed MeshConfig was in force after {took:?}");
    web.expect(SECOND, Lands::Direct);

    // No schema knows all that an address can't be.
    let bad = json!({ "outboundIPRangeExclusionList": ["198.51.100.10/32", "300.1.2.3/32"] });
    cluster
        .patch(MESH_CONFIG, &traffic(&bad))
        .expect("the schema takes it");
    let event = wait_for_event(cluster, "MeshConfig", "osm-mesh-config", "300.1.2.3/32");
    println!("{event:?}");
    assert_eq!(event.kind, "Warning");
    web.expect(FIRST, Lands::Outbound);
    web.expect(SECOND, Lands::Direct);

    // A pod that comes now has the last good lists as well.
    let mut late = scene.create_pod("late");
    late.wait_until(FIRST, Lands::Outbound);
    late.expect(SECOND, Lands::Direct);

    cluster.delete(MESH_CONFIG).expect("deleting it");
    let took = web.wait_until(SECOND, Lands::Outbound);
    println!("a deleted MeshConfig was forgotten after {took:?}");
    late.wait_until(SECOND, Lands::Outbound);
    web.expect(FIRST, Lands::Outbound);
}
