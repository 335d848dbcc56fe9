//! The role of `deploy/manifests` is enough, as every other test shows, and no rule of it is idle.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{AGENT, AGENT_GROUPS, Cluster};
use crate::objects::PATIENCE;
use crate::scene::Scene;

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/osm-agent";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn agent_without_a_rule_of_its_role_is_not_ready_and_says_so() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let role = scene.cluster.get(ROLE).expect("the role");
    let rules = role["rules"].as_array().expect("a role has rules");
    for (group, resource) in [
        ("", "pods"),
        ("", "namespaces"),
        ("config.openservicemesh.io", "meshconfigs"),
    ] {
        let mut others = rules.clone();
        others.retain(|rule| rule["resources"] != json!([resource]));
        assert_eq!(others.len(), rules.len() - 1, "a rule for {resource}");
        set_rules(&scene.cluster, &others, group, resource, false);
        scene.node.start();
        scene
            .node
            .wait_for_log(&format!("cannot list resource \"{resource}\""));
        let (status, body) = scene.node.get("/readyz").expect("an answer");
        assert_eq!(status, 503, "without {resource}: {body}");

        set_rules(&scene.cluster, rules, group, resource, true);
        scene.node.wait_until_ready();
        scene.node.kill();
    }
}

/// Gives the role these rules and waits until the server goes by them.
#[track_caller]
fn set_rules(cluster: &Cluster, rules: &[Value], group: &str, resource: &str, is_allowed: bool) {
    cluster
        .patch(ROLE, &json!({ "rules": rules }))
        .expect("a change of the role");
    let groups: Vec<_> = AGENT_GROUPS.split(',').collect();
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": AGENT,
            "groups": groups,
            "resourceAttributes": { "verb": "list", "group": group, "resource": resource },
        },
    });
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = cluster.create(REVIEWS, &review).expect("a review");
        if answer["status"]["allowed"] == is_allowed {
            return;
        }
        assert!(Instant::now() < deadline, "{resource}: {answer}");
        thread::sleep(Duration::from_millis(20));
    }
}
