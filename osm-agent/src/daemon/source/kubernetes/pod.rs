//! What is kept of a pod.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{super::PodKey, membership::INJECTION};

/// The user of every sidecar.
const SIDECAR_USER: i64 = 1500;
/// What the injector of the mesh puts on a pod that it changed.
const INJECTED: &str = "osm-proxy-uuid";
/// Says of a pod that the kubelet runs it from a file, and what the kubelet calls it.
const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";

/// What the agent has to know of a pod; a fraction of what Kubernetes does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Manifest")]
pub struct Pod {
    /// Its UID.
    pub key: PodKey,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node that it is bound to.
    pub node: Option<String>,
    /// By which UID the kubelet names its cgroup.
    pub cgroup_uid: String,
    /// The value of its [`INJECTION`].
    pub injection: Option<String>,
    /// Its annotations that are lists, misspelt ones included.
    pub annotations: BTreeMap<String, String>,
    /// Whether it lives in the node's own network namespace.
    pub is_on_host_network: bool,
    /// Whether there is a sidecar in it.
    pub has_sidecar: bool,
    /// What the container runtime calls the sidecar's container, while that runs.
    pub sidecar: Option<String>,
    /// Whether it is done: nothing of it runs, nor ever will again.
    pub is_over: bool,
}

impl Pod {
    /// Reads a pod as the API server gives it, in JSON.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }
}

#[derive(Deserialize)]
struct Manifest {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
    namespace: String,
    name: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default)]
    host_network: Option<bool>,
    #[serde(default)]
    security_context: Option<SecurityContext>,
    containers: Vec<Container>,
    #[serde(default)]
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    name: String,
    #[serde(default)]
    security_context: Option<SecurityContext>,
    #[serde(default)]
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecurityContext {
    #[serde(default)]
    run_as_user: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    phase: Option<String>,
    #[serde(default)]
    container_statuses: Option<Vec<ContainerStatus>>,
    #[serde(default)]
    init_container_statuses: Option<Vec<ContainerStatus>>,
    #[serde(default)]
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "containerID")]
    container_id: Option<String>,
    #[serde(default)]
    state: Option<ContainerState>,
}

#[derive(Deserialize)]
struct ContainerState {
    #[serde(default)]
    running: Option<serde::de::IgnoredAny>,
}

impl From<Manifest> for Pod {
    fn from(manifest: Manifest) -> Self {
        let Manifest {
            metadata,
            spec,
            status,
        } = manifest;
        let mut annotations = metadata.annotations.unwrap_or_default();
        let is_injected = metadata
            .labels
            .is_some_and(|labels| labels.contains_key(INJECTED));
        Self {
            cgroup_uid: static_uid(&annotations).unwrap_or_else(|| metadata.uid.clone()),
            key: metadata.uid,
            namespace: metadata.namespace,
            name: metadata.name,
            injection: annotations.remove(INJECTION),
            annotations: {
                annotations.retain(|key, _| is_list(key));
                annotations
            },
            is_on_host_network: spec.host_network.unwrap_or_default(),
            sidecar: spec
                .sidecar()
                .and_then(|name| status.as_ref()?.container(name)),
            has_sidecar: is_injected || spec.has_sidecar(),
            node: spec.node_name.filter(|node| !node.is_empty()),
            is_over: status.is_some_and(|it| it.is_over()),
        }
    }
}

impl Spec {
    /// Whether one of the containers that last as long as the pod runs as the sidecar's user.
    fn has_sidecar(&self) -> bool {
        self.of_its_user().next().is_some()
    }

    /// The name of the sidecar's container, where only one runs as its user.
    fn sidecar(&self) -> Option<&str> {
        let mut found = self.of_its_user();
        let only = found.next()?;
        found.next().is_none().then_some(&*only.name)
    }

    fn of_its_user(&self) -> impl Iterator<Item = &Container> {
        let user = |context: &Option<SecurityContext>| context.as_ref()?.run_as_user;
        let of_pod = user(&self.security_context);
        let helpers = self.init_containers.iter().flatten();
        let lasting =
            helpers.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        self.containers
            .iter()
            .chain(lasting)
            .filter(move |container| {
                user(&container.security_context).or(of_pod) == Some(SIDECAR_USER)
            })
    }
}

impl Status {
    /// What the runtime calls the container of that name, while it runs.
    fn container(&self, name: &str) -> Option<String> {
        let lists = [&self.container_statuses, &self.init_container_statuses];
        let mut all = lists.into_iter().flatten().flatten();
        let found = all.find(|status| status.name == name)?;
        found.state.as_ref()?.running.as_ref()?;
        // Such as `containerd://` and the number.
        let (_, id) = found.container_id.as_ref()?.split_once("://")?;
        (!id.is_empty()).then(|| id.to_owned())
    }

    /// The phase alone does not do: a pod that is evicted is `Failed` while its containers are
    /// being ended.
    fn is_over(&self) -> bool {
        let lists = [
            &self.container_statuses,
            &self.init_container_statuses,
            &self.ephemeral_container_statuses,
        ];
        let is_running =
            |status: &ContainerStatus| status.state.as_ref().is_some_and(|s| s.running.is_some());
        matches!(self.phase.as_deref(), Some("Succeeded" | "Failed"))
            && !lists.into_iter().flatten().flatten().any(is_running)
    }
}

/// The UID that the kubelet goes by for a pod that it runs from a file; the API server gave
/// another one to what it shows of it.
///
/// Users can write these annotations too. The kubelet's own UIDs are digests without hyphens,
/// so that nobody passes for a pod of the API server this way.
fn static_uid(annotations: &BTreeMap<String, String>) -> Option<String> {
    let mirror = annotations.get(MIRROR)?;
    let uid = annotations.get(HASH).unwrap_or(mirror);
    let is_digest = uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| uid.clone())
}

fn is_list(annotation: &str) -> bool {
    annotation.starts_with("openservicemesh.io/") && annotation.ends_with("-list")
}
