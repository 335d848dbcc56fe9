//! The objects of the tests, and what the agent says about them.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::Cluster;

/// The namespace of the pods, which is in the mesh.
pub const NAMESPACE: &str = "shop";

/// The node that the agent is on.
pub const NODE: &str = "node-1";

/// Where the pods are.
pub const PODS: &str = "/api/v1/namespaces/shop/pods";

/// Where the mesh's configuration is.
pub const MESH_CONFIGS: &str =
    "/apis/config.openservicemesh.io/v1alpha2/namespaces/osm-system/meshconfigs";

/// The mesh's configuration.
pub const MESH_CONFIG: &str =
    "/apis/config.openservicemesh.io/v1alpha2/namespaces/osm-system/meshconfigs/osm-mesh-config";

/// How long the agent may take before a test calls it broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What annotations of interception begin with.
const PREFIX: &str = "openservicemesh.io/";

/// The annotation for ranges that are left alone.
pub const EXCLUDED_RANGES: &str = "outbound-ip-range-exclusion-list";

/// A pod as the injector leaves it: an application and a sidecar.
pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "nodeName": NODE,
            "containers": [
                { "name": "app", "image": "app.invalid/app" },
                {
                    "name": "sidecar",
                    "image": "sidecar.invalid/sidecar",
                    "securityContext": { "runAsUser": 1500 },
                },
            ],
        },
    })
}

/// A `MeshConfig` with this for `spec.traffic`.
pub fn mesh_config(traffic: &Value) -> Value {
    json!({
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": { "name": "osm-mesh-config", "namespace": "osm-system" },
        "spec": { "traffic": traffic },
    })
}

/// A change to `spec.traffic`.
pub fn traffic(traffic: &Value) -> Value {
    json!({ "spec": { "traffic": traffic } })
}

/// A change to one annotation; null removes it.
pub fn annotation(name: &str, value: impl Into<Value>) -> Value {
    let value: Value = value.into();
    let name = format!("{PREFIX}{name}");
    json!({ "metadata": { "annotations": { name: value } } })
}

/// Makes the namespace of the pods, with injection switched on.
#[track_caller]
pub fn create_namespace(cluster: &Cluster) {
    let annotation = format!("{PREFIX}sidecar-injection");
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": NAMESPACE, "annotations": { annotation: "enabled" } },
    });
    let _ = cluster
        .create("/api/v1/namespaces", &namespace)
        .expect("a namespace");
}

/// An event, as far as tests ask.
#[derive(Debug)]
pub struct Event {
    /// `Warning` or `Normal`.
    pub kind: String,
    /// In one word.
    pub reason: String,
    /// In a sentence.
    pub note: String,
}

/// Waits for an event on this object whose sentence has `text` in it.
#[track_caller]
pub fn wait_for_event(cluster: &Cluster, kind: &str, name: &str, text: &str) -> Event {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = events(cluster, kind, name);
        if let Some(at) = found.iter().position(|event| event.note.contains(text)) {
            return found.swap_remove(at);
        }
        assert!(
            Instant::now() < deadline,
            "no event on {kind} {name} says {text:?}; there are {found:?}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// All events on an object.
#[track_caller]
pub fn events(cluster: &Cluster, kind: &str, name: &str) -> Vec<Event> {
    let list = cluster
        .get("/apis/events.k8s.io/v1/events")
        .expect("a list of events");
    let items = list["items"].as_array().expect("a list has items");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    items
        .iter()
        .filter(|event| event["regarding"]["kind"] == kind && event["regarding"]["name"] == name)
        .map(|event| Event {
            kind: text(&event["type"]),
            reason: text(&event["reason"]),
            note: text(&event["note"]),
        })
        .collect()
}
