//! What the API server said last, of pods and namespaces.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Deserialize;
use tokio::sync::Notify;

use super::{
    super::{PodKey, PodSpec},
    membership::{Complaint, INJECTION, judge},
    pod::Pod,
    watch::Change,
    wire::{Identity, Object},
};

/// Pods and namespaces. Shared by those who watch and those who read.
#[derive(Default)]
pub(super) struct Known {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// None until they were listed for the first time, as with the namespaces.
    pods: Option<BTreeMap<PodKey, Pod>>,
    /// The value of the annotation, of those namespaces that have it.
    namespaces: Option<BTreeMap<String, String>>,
}

/// What is kept of a namespace: its annotation.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "NamespaceManifest")]
pub(super) struct Namespace {
    pub(super) injection: Option<String>,
}

#[derive(Deserialize)]
struct NamespaceManifest {
    metadata: NamespaceMetadata,
}

#[derive(Deserialize)]
struct NamespaceMetadata {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl From<NamespaceManifest> for Namespace {
    fn from(manifest: NamespaceManifest) -> Self {
        let annotations = manifest.metadata.annotations;
        Self {
            injection: annotations.and_then(|mut all| all.remove(INJECTION)),
        }
    }
}

impl Known {
    /// Waits for something to change.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What there is to say of every pod, once pods and namespaces are both known.
    pub(super) fn judged(&self) -> Option<BTreeMap<PodKey, (PodSpec, Option<Complaint>)>> {
        let state = self.state();
        let (pods, namespaces) = (state.pods.as_ref()?, state.namespaces.as_ref()?);
        let judged = |(key, pod): (&PodKey, &Pod)| {
            let namespace = namespaces.get(&pod.namespace).map(String::as_str);
            (key.clone(), judge(pod, namespace))
        };
        Some(pods.iter().map(judged).collect())
    }

    /// The namespace and name of a pod.
    pub(super) fn name_of(&self, key: &PodKey) -> Option<(String, String)> {
        let state = self.state();
        let pod = state.pods.as_ref()?.get(key)?;
        Some((pod.namespace.clone(), pod.name.clone()))
    }

    /// Takes up what was said of pods. Those of other nodes are left out, as are those that
    /// are over.
    pub(super) fn take_pods(&self, change: Change<Pod>, node: &str) {
        let is_here = |pod: &Pod| pod.node.as_deref() == Some(node) && !pod.is_over;
        let mut state = self.state();
        match change {
            Change::Listed(objects) => {
                let former = state.pods.take().unwrap_or_default();
                state.pods = Some(relisted(former, objects, is_here));
            }
            Change::Applied(object) => {
                let pods = state.pods.get_or_insert_default();
                match object.content {
                    Ok(pod) if is_here(&pod) => {
                        pods.insert(pod.key.clone(), pod);
                    }
                    Ok(pod) => {
                        pods.remove(&pod.key);
                    }
                    Err(problem) => unreadable("pod", &object.identity, &problem),
                }
            }
            Change::Deleted(identity) => {
                let pods = state.pods.get_or_insert_default();
                match &identity.uid {
                    Some(uid) => {
                        pods.remove(uid);
                    }
                    None => unreadable("deleted pod", &identity, "metadata.uid is missing"),
                }
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Takes up what was said of namespaces.
    pub(super) fn take_namespaces(&self, change: Change<Namespace>) {
        let mut state = self.state();
        let namespaces = state.namespaces.get_or_insert_default();
        match change {
            Change::Listed(objects) => {
                let former = std::mem::take(namespaces);
                for object in objects {
                    let last = object.identity.name.as_ref().and_then(|n| former.get(n));
                    apply(namespaces, object, last.cloned());
                }
            }
            Change::Applied(object) => {
                let last = object
                    .identity
                    .name
                    .as_ref()
                    .and_then(|n| namespaces.get(n));
                let last = last.cloned();
                apply(namespaces, object, last);
            }
            Change::Deleted(identity) => {
                identity.name.and_then(|name| namespaces.remove(&name));
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; and if it did, whole values would still be there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pods of a new list. One that can't be read stays as it was known before; where it can't
/// even be told which one that is, none is taken to be gone.
fn relisted(
    mut former: BTreeMap<PodKey, Pod>,
    objects: Vec<Object<Pod>>,
    is_here: impl Fn(&Pod) -> bool,
) -> BTreeMap<PodKey, Pod> {
    let mut pods = BTreeMap::new();
    let mut is_whole = true;
    for object in objects {
        match (object.content, &object.identity.uid) {
            (Ok(pod), _) => {
                former.remove(&pod.key);
                if is_here(&pod) {
                    pods.insert(pod.key.clone(), pod);
                }
            }
            (Err(problem), uid) => {
                unreadable("pod", &object.identity, &problem);
                is_whole &= uid.is_some();
                let last = uid.as_ref().and_then(|uid| former.remove_entry(uid));
                pods.extend(last);
            }
        }
    }
    if !is_whole {
        pods.extend(former);
    }
    pods
}

fn apply(
    namespaces: &mut BTreeMap<String, String>,
    object: Object<Namespace>,
    last: Option<String>,
) {
    let injection = match object.content {
        Ok(namespace) => namespace.injection,
        Err(problem) => {
            unreadable("namespace", &object.identity, &problem);
            last
        }
    };
    let Some(name) = object.identity.name else {
        return;
    };
    match injection {
        Some(injection) => namespaces.insert(name, injection),
        None => namespaces.remove(&name),
    };
}

fn unreadable(what: &str, identity: &Identity, problem: &str) {
    tracing::warn!(
        "Kubernetes: {what} {} can't be read: {problem}; what was known of it stands",
        identity.label()
    );
}
