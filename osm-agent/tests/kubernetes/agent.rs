//! The source under test, and what it sends.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use osm_agent::{
    config::MeshConfig,
    daemon::source::{
        Event, Membership, Notice, PodSpec,
        kubernetes::{Kubernetes, KubernetesOptions, Pace},
    },
};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::mpsc::UnboundedSender};

use super::server::{LIMIT, Server};

pub type Pods = BTreeMap<String, PodSpec>;

pub struct Agent {
    events: Receiver<Event>,
    pub notices: UnboundedSender<Notice>,
    pub errors: Arc<AtomicUsize>,
    runtime: Option<Runtime>,
}

/// Limits that tests need not wait long for.
pub const PACE: Pace = Pace {
    answer: Duration::from_secs(1),
    idle: Duration::from_mins(1),
    watch: Duration::from_mins(2),
    retry: Duration::from_millis(500),
    discovery: Duration::from_millis(100),
    missing: Duration::from_mins(1),
};

impl Agent {
    pub fn start(server: &Server) -> Self {
        Self::with_pace(server, PACE)
    }

    pub fn with_pace(server: &Server, pace: Pace) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let kubeconfig = server.kubeconfig();
        let options = KubernetesOptions {
            node_name: "node-1".to_owned(),
            kubeconfig: Some(kubeconfig.clone()),
            mesh_namespace: "osm-system".to_owned(),
            mesh_config_name: "osm-mesh-config".to_owned(),
            pace,
        };
        let source = runtime.block_on(Kubernetes::connect(options)).unwrap();
        std::fs::remove_file(kubeconfig).unwrap();
        let (sender, events) = channel();
        let (notices, inbox) = tokio::sync::mpsc::unbounded_channel();
        let errors = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&errors);
        runtime.spawn(async move {
            let on_error = || {
                count.fetch_add(1, Ordering::Relaxed);
            };
            source.run(sender, inbox, on_error).await;
        });
        Self {
            events,
            notices,
            errors,
            runtime: Some(runtime),
        }
    }

    pub fn errors(&self) -> usize {
        self.errors.load(Ordering::Relaxed)
    }

    pub fn wait_for_error(&self) {
        let start = Instant::now();
        while self.errors() == 0 {
            assert!(start.elapsed() < LIMIT, "nothing failed");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for pods that are as wanted. All that come before have to be acceptable, too.
    pub fn pods(&self, is_acceptable: impl Fn(&Pods) -> bool, wanted: impl Fn(&Pods) -> bool) {
        let (mut last, end) = (None, Instant::now() + LIMIT);
        loop {
            match self.next(end) {
                Ok(Event::Pods(pods)) if wanted(&pods) => return,
                Ok(Event::Pods(pods)) => {
                    assert!(is_acceptable(&pods), "{pods:#?}");
                    last = Some(pods);
                }
                Ok(_) => {}
                Err(error) => panic!("{error}; the last pods: {last:#?}"),
            }
        }
    }

    /// Waits until just these pods are known, by name and membership.
    pub fn these(&self, wanted: &[(&str, Membership)]) {
        self.pods(|_| true, |pods| names(pods) == wanted_names(wanted));
    }

    /// Waits for the next word on the mesh's configuration.
    pub fn mesh(&self) -> Result<Box<MeshConfig>, String> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.next(end) {
                Ok(Event::Mesh(mesh)) => return mesh,
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn next(&self, end: Instant) -> Result<Event, RecvTimeoutError> {
        self.events
            .recv_timeout(end.saturating_duration_since(Instant::now()))
    }

    /// Sees to it that nothing is said of pods, or nothing at all of the mesh, for a while.
    pub fn quiet(&self, time: Duration, is_about: impl Fn(&Event) -> bool) {
        let end = Instant::now() + time;
        loop {
            match self.next(end) {
                Ok(event) => assert!(!is_about(&event), "{event:?}"),
                Err(RecvTimeoutError::Timeout) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn names(pods: &Pods) -> Vec<(String, Membership)> {
    pods.values()
        .map(|pod| (pod.name.clone(), pod.membership.clone()))
        .collect()
}

fn wanted_names(wanted: &[(&str, Membership)]) -> Vec<(String, Membership)> {
    wanted
        .iter()
        .map(|(name, membership)| (format!("shop/{name}"), membership.clone()))
        .collect()
}

/// Whether a pod is known, and in the mesh.
pub fn has(name: &'static str) -> impl Fn(&Pods) -> bool {
    move |pods| {
        pods.get(&format!("uid-{name}"))
            .is_some_and(|pod| pod.membership == Membership::InMesh)
    }
}

/// A pod with a sidecar, in namespace `shop`.
pub fn pod(name: &str) -> Value {
    json!({
        "metadata": {"uid": format!("uid-{name}"), "name": name, "namespace": "shop"},
        "spec": {
            "nodeName": "node-1",
            "containers": [
                {"name": "app"},
                {"name": "sidecar", "securityContext": {"runAsUser": 1500}},
            ],
        },
        "status": {"phase": "Running"},
    })
}

pub fn namespace(injection: Option<&str>) -> Value {
    let mut namespace = json!({"metadata": {"uid": "n1", "name": "shop", "annotations": {}}});
    if let Some(injection) = injection {
        namespace["metadata"]["annotations"]["openservicemesh.io/sidecar-injection"] =
            json!(injection);
    }
    namespace
}

pub fn mesh_config(ports: &Value) -> Value {
    json!({
        "apiVersion": "config.openservicemesh.io/v1alpha2", "kind": "MeshConfig",
        "metadata": {"uid": "m1", "name": "osm-mesh-config", "namespace": "osm-system"},
        "spec": {"traffic": {"outboundPortExclusionList": ports}},
    })
}
