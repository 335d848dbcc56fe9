//! What is made of one pod.

use osm_agent::daemon::source::{
    Membership::{self, InMesh, Outside},
    SidecarPlace,
    kubernetes::{Pod, judge},
};
use rstest::rstest;
use serde_json::{Value, json};

use crate::agent::pod;

fn read(pod: &Value) -> Pod {
    Pod::parse(&pod.to_string()).unwrap()
}

fn injection(pod: &mut Value, value: &str) {
    pod["metadata"]["annotations"] = json!({"openservicemesh.io/sidecar-injection": value});
}

#[rstest]
// pod, namespace → membership, reason of the complaint
#[case::nobody_asks(None, None, Outside, None)]
#[case::namespace_asks(None, Some("enabled"), InMesh, None)]
#[case::namespace_asks_in_capitals(None, Some("ENABLED"), InMesh, None)]
#[case::namespace_says_true(None, Some("true"), InMesh, None)]
#[case::namespace_says_yes(None, Some("Yes"), InMesh, None)]
#[case::namespace_refuses(None, Some("disabled"), Outside, None)]
#[case::namespace_says_false(None, Some("false"), Outside, None)]
#[case::namespace_says_no(None, Some("no"), Outside, None)]
#[case::pod_asks(Some("enabled"), None, InMesh, None)]
#[case::pod_asks_against_its_namespace(Some("enabled"), Some("disabled"), InMesh, None)]
#[case::pod_refuses_against_its_namespace(Some("disabled"), Some("enabled"), Outside, None)]
#[case::pod_is_unclear(Some("on"), None, InMesh, Some("InvalidInjection"))]
#[case::pod_is_unclear_against_its_namespace(
    Some(""),
    Some("disabled"),
    InMesh,
    Some("InvalidInjection")
)]
#[case::namespace_is_unclear(None, Some(" enabled"), InMesh, Some("InvalidInjection"))]
#[case::pod_is_clear_in_an_unclear_namespace(Some("no"), Some("maybe"), Outside, None)]
fn pod_with_sidecar_goes_by_its_annotation_then_by_its_namespace(
    #[case] of_pod: Option<&str>,
    #[case] of_namespace: Option<&str>,
    #[case] membership: Membership,
    #[case] reason: Option<&str>,
) {
    let mut pod = pod("a");
    if let Some(value) = of_pod {
        injection(&mut pod, value);
    }
    let (spec, complaint) = judge(&read(&pod), of_namespace);
    assert_eq!(spec.membership, membership);
    assert_eq!(complaint.map(|complaint| complaint.reason), reason);
}

#[rstest]
#[case::container(json!({"containers": [{"securityContext": {"runAsUser": 1500}}]}), true)]
#[case::no_user(json!({"containers": [{"name": "app"}, {"securityContext": {}}]}), false)]
#[case::another_user(json!({"containers": [{"securityContext": {"runAsUser": 1501}}]}), false)]
#[case::user_of_the_pod(
    json!({"securityContext": {"runAsUser": 1500}, "containers": [{"name": "app"}]}), true)]
#[case::user_of_the_pod_that_no_container_has(
    json!({"securityContext": {"runAsUser": 1500},
           "containers": [{"securityContext": {"runAsUser": 7}}]}), false)]
#[case::lasting_init_container(
    json!({"containers": [{}],
           "initContainers": [{"restartPolicy": "Always", "securityContext": {"runAsUser": 1500}}]}), true)]
#[case::passing_init_container(
    json!({"containers": [{}], "initContainers": [{"securityContext": {"runAsUser": 1500}}]}), false)]
fn sidecar_is_told_by_its_user(#[case] spec: Value, #[case] has_sidecar: bool) {
    let mut pod = pod("a");
    pod["spec"] = spec;
    let (judged, complaint) = judge(&read(&pod), Some("enabled"));
    let membership = if has_sidecar { InMesh } else { Outside };
    assert_eq!(judged.membership, membership);
    let reason = (!has_sidecar).then_some("NoSidecar");
    assert_eq!(complaint.map(|complaint| complaint.reason), reason);
}

#[rstest]
#[case::running(json!({"containers": [app(), sidecar()]}), "containerStatuses", "running", Some("4f2a"))]
#[case::lasting_init_container(
    json!({"containers": [app()], "initContainers": [lasting()]}), "initContainerStatuses", "running",
    Some("4f2a"))]
#[case::not_yet(json!({"containers": [app(), sidecar()]}), "containerStatuses", "waiting", None)]
#[case::no_more(json!({"containers": [app(), sidecar()]}), "containerStatuses", "terminated", None)]
#[case::one_of_two(
    json!({"containers": [{"name": "app", "securityContext": {"runAsUser": 1500}}, sidecar()]}),
    "containerStatuses", "running", None)]
fn sidecar_s_container_is_told_while_it_runs(
    #[case] spec: Value,
    #[case] list: &str,
    #[case] state: &str,
    #[case] expected: Option<&str>,
) {
    let mut pod = pod("a");
    pod["spec"] = spec;
    pod["status"] = json!({list: [
        {"name": "app", "containerID": "containerd://77", "state": {"running": {}}},
        {"name": "proxy", "containerID": "containerd://4f2a", "state": {state: {}}},
    ]});
    let (judged, _) = judge(&read(&pod), Some("enabled"));
    let expected = expected.map(|id| SidecarPlace::Container(id.into()));
    assert_eq!(judged.sidecar, expected);
}

fn app() -> Value {
    json!({"name": "app"})
}

fn sidecar() -> Value {
    json!({"name": "proxy", "securityContext": {"runAsUser": 1500}})
}

fn lasting() -> Value {
    let mut container = sidecar();
    container["restartPolicy"] = json!("Always");
    container
}

#[test]
fn sidecar_is_told_by_the_label_of_the_injector() {
    let mut pod = pod("a");
    pod["spec"]["containers"] = json!([{"name": "app"}]);
    pod["metadata"]["labels"] = json!({"osm-proxy-uuid": "6c0f"});
    assert_eq!(judge(&read(&pod), Some("enabled")).0.membership, InMesh);
}

#[rstest]
#[case::wanted(Some("enabled"), true)]
#[case::unclear(Some("?"), true)]
#[case::unwanted(Some("disabled"), false)]
#[case::not_asked_for(None, false)]
fn host_network_is_refused_where_it_is_wanted(
    #[case] namespace: Option<&str>,
    #[case] is_refused: bool,
) {
    let mut pod = pod("a");
    pod["spec"]["hostNetwork"] = json!(true);
    let (spec, complaint) = judge(&read(&pod), namespace);
    assert_eq!(
        matches!(spec.membership, Membership::Refused(_)),
        is_refused
    );
    // The loop tells its owner.
    assert_eq!(complaint, None);
}

const DIGEST: &str = "0123456789abcdef0123456789abcdef";

#[rstest]
#[case::ordinary(json!({}), "uid-a")]
#[case::static_pod(json!({"kubernetes.io/config.mirror": DIGEST, "kubernetes.io/config.hash": DIGEST}), DIGEST)]
#[case::static_pod_without_hash(json!({"kubernetes.io/config.mirror": DIGEST}), DIGEST)]
#[case::hash_of_a_pod_that_is_not_static(json!({"kubernetes.io/config.hash": DIGEST}), "uid-a")]
#[case::uid_of_somebody_else(
    json!({"kubernetes.io/config.mirror": "8f14e45f-ceea-467f-a8b8-0d2b1a1f6a11"}), "uid-a")]
#[case::way_out_of_the_hierarchy(json!({"kubernetes.io/config.mirror": "../../../../../../../../../../.."}), "uid-a")]
fn cgroup_of_a_static_pod_has_the_name_that_the_kubelet_gave(
    #[case] annotations: Value,
    #[case] uid: &str,
) {
    let mut pod = pod("a");
    pod["metadata"]["annotations"] = annotations;
    let pod = read(&pod);
    assert_eq!(pod.key, "uid-a");
    assert_eq!(judge(&pod, None).0.uid.as_deref(), Some(uid));
}

#[rstest]
#[case::running(json!({"phase": "Running"}), false)]
#[case::succeeded(json!({"phase": "Succeeded"}), true)]
#[case::failed(json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {}}}]}), true)]
#[case::failed_and_still_running(json!({"phase": "Failed", "containerStatuses": [{"state": {"running": {}}}]}), false)]
#[case::failed_with_a_lasting_init_container(
    json!({"phase": "Failed", "initContainerStatuses": [{"state": {"running": {}}}]}), false)]
#[case::failed_with_a_debugger(
    json!({"phase": "Failed", "ephemeralContainerStatuses": [{"state": {"running": {}}}]}), false)]
#[case::rejected(json!({"phase": "Failed", "reason": "OutOfcpu"}), true)]
#[case::unknown(json!({"phase": "Unknown"}), false)]
#[case::new(json!({}), false)]
#[case::nothing(Value::Null, false)]
fn pod_is_over_when_nothing_of_it_runs(#[case] status: Value, #[case] is_over: bool) {
    let mut pod = pod("a");
    pod["status"] = status;
    assert_eq!(read(&pod).is_over, is_over);
}

#[test]
fn annotations_that_are_lists_are_kept_misspelt_ones_too() {
    let mut pod = pod("a");
    pod["metadata"]["annotations"] = json!({
        "openservicemesh.io/outbound-port-exclusion-list": "1",
        "openservicemesh.io/outbond-port-exclusion-list": "2",
        "openservicemesh.io/sidecar-injection": "enabled",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
        "example.com/some-list": "3",
    });
    let annotations = read(&pod).annotations;
    let keys: Vec<_> = annotations.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "openservicemesh.io/outbond-port-exclusion-list",
            "openservicemesh.io/outbound-port-exclusion-list"
        ]
    );
}

#[rstest]
#[case::no_uid("/metadata/uid", Value::Null, "uid")]
#[case::no_containers("/spec/containers", json!("x"), "sequence")]
#[case::user("/spec/containers/1/securityContext/runAsUser", json!("root"), "i64")]
#[case::host_network("/spec/hostNetwork", json!("yes"), "boolean")]
fn pod_that_is_none_is_an_error(#[case] path: &str, #[case] value: Value, #[case] text: &str) {
    let mut pod = pod("a");
    pod["spec"]["hostNetwork"] = json!(false);
    match path {
        "/metadata/uid" => {
            pod["metadata"].as_object_mut().unwrap().remove("uid");
        }
        _ => *pod.pointer_mut(path).unwrap() = value,
    }
    let error = Pod::parse(&pod.to_string()).unwrap_err();
    assert!(error.contains(text), "{error}");
}
