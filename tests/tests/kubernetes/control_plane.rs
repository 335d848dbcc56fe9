//! The harness itself: the servers are real, and keep what they are told.

use serde_json::json;

use crate::cluster::Cluster;
use crate::objects::{
    MESH_CONFIG, MESH_CONFIGS, PODS, create_namespace, mesh_config, pod, traffic,
};

#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn api_server_killed_and_restarted_has_its_objects() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    create_namespace(&cluster);
    let created = cluster.create(PODS, &pod("web")).expect("a pod");
    let path = format!("{PODS}/web");
    cluster.kill_api_server();
    cluster.get(&path).expect_err("nobody is there to answer");
    cluster.restart_api_server();
    let found = cluster.get(&path).expect("the pod");
    assert_eq!(found["metadata"]["uid"], created["metadata"]["uid"]);
    cluster.delete(&path).expect("deleting it");
    cluster.get(&path).expect_err("it is gone at once");
}

#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn mesh_config_of_wrong_type_is_refused_by_the_schema_and_others_are_kept() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let good = json!({
        "outboundIPRangeExclusionList": ["198.51.100.10/32"],
        "outboundPortExclusionList": [5432],
        "somethingElse": { "kept": true },
    });
    let created = cluster
        .create(MESH_CONFIGS, &mesh_config(&good))
        .expect("it is valid");
    assert_eq!(created["spec"]["traffic"], good, "nothing is pruned");
    let refused = [
        json!({ "outboundPortExclusionList": ["5432"] }),
        json!({ "outboundPortExclusionList": [65536] }),
        json!({ "inboundPortExclusionList": [0] }),
        json!({ "outboundIPRangeExclusionList": "198.51.100.10/32" }),
        json!({ "outboundIPRangeInclusionList": [1] }),
        json!({ "networkInterfaceExclusionList": { "a": 1 } }),
        json!({ "interceptionMode": "tproxy" }),
    ];
    for change in refused {
        match cluster.patch(MESH_CONFIG, &traffic(&change)) {
            Err(kube::Error::Api(status)) => assert_eq!(status.code, 422, "{change}: {status:?}"),
            other => panic!("{change}: {other:?}"),
        }
    }
    let found = cluster.get(MESH_CONFIG).expect("the object");
    assert_eq!(found["spec"]["traffic"], good);
    // All versions show the same object.
    for version in ["v1alpha1", "v1alpha3"] {
        let path = MESH_CONFIG.replace("v1alpha2", version);
        let found = cluster.get(&path).expect("the object");
        assert_eq!(found["spec"]["traffic"], good, "{version}");
    }
}
