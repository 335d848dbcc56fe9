//! The manifests of `deploy/manifests`, which every test here installs.

use std::fs;
use std::path::{Path, PathBuf};

use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::cluster::{AGENT, Cluster};

/// All objects, in the order of applying.
#[track_caller]
pub fn all() -> Vec<DynamicObject> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests");
    let files = fs::read_dir(&directory).expect("the manifests");
    let mut files: Vec<PathBuf> = files.map(|it| it.expect("a file").path()).collect();
    // As kubectl goes through a directory.
    files.sort();
    let objects: Vec<_> = files.iter().flat_map(|path| in_file(path)).collect();
    assert!(!objects.is_empty(), "{} is empty", directory.display());
    objects
}

#[track_caller]
fn in_file(path: &Path) -> Vec<DynamicObject> {
    let text = fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What an object is called.
#[track_caller]
pub fn name(object: &DynamicObject) -> &str {
    object.metadata.name.as_deref().expect("a name")
}

#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn manifests_are_valid_to_the_last_field() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    for object in all() {
        let name = name(&object).to_owned();
        let taken = cluster.apply(&object, true);
        let taken = taken.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(taken["metadata"]["name"], name.as_str());
        // To see that a field which nobody knows would have been refused.
        let mut wrong = object;
        wrong.data["noSuchField"] = json!(1);
        match cluster.apply(&wrong, true) {
            Err(kube::Error::Api(status)) => {
                assert!(status.message.contains("noSuchField"), "{name}: {status:?}");
            }
            other => panic!("{name} with a field too many: {other:?}"),
        }
    }
}

/// The role is bound to whom the agent's pods run as, which is whom the agent of these tests is.
#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn agent_s_pods_run_as_the_account_that_has_the_role() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let get = |path: &str| {
        cluster
            .get(path)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let set = get("/apis/apps/v1/namespaces/osm-system/daemonsets/osm-agent");
    let account = &set["spec"]["template"]["spec"]["serviceAccountName"];
    let namespace = &set["metadata"]["namespace"];
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    let user = format!(
        "system:serviceaccount:{}:{}",
        text(namespace),
        text(account)
    );
    assert_eq!(user, AGENT);
    let binding = get("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/osm-agent");
    let subject = json!([{ "kind": "ServiceAccount", "name": account, "namespace": namespace }]);
    assert_eq!(binding["subjects"], subject);
    assert_eq!(binding["roleRef"]["name"], "osm-agent");
}
