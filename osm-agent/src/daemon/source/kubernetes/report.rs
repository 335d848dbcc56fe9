//! Notices become Kubernetes Events, on the pod or on the `MeshConfig`.
//!
//! What was said within the last ten minutes is not said again, and after that the Event that is
//! there counts it. A notice whose Event can't be written is dropped: the log has it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Client,
    core::{
        Request,
        params::{Patch, PatchParams, PostParams},
    },
};
use tokio::sync::{Notify, mpsc::UnboundedReceiver};

use super::{
    super::{Notice, PodKey},
    KubernetesOptions,
    client::answered,
    known::Known,
    mesh::Mesh,
    outage::Failure,
};

/// For how long the same is not said again.
const SAME: Duration = Duration::from_mins(10);
/// For how long it is remembered what was said; API servers keep Events for an hour.
const MEMORY: Duration = Duration::from_hours(1);
/// The most that is remembered, and the most that waits to be written.
const MOST_SAID: usize = 2048;
const MOST_WAITING: usize = 512;
/// What Kubernetes allows a note and a reporter's name, in bytes.
const NOTE: usize = 1024;
const REPORTER: usize = 128;
/// What is kept of a pod's name in that of an Event, so that there is room for what follows.
const NAME: usize = 220;

type Key = (Option<PodKey>, &'static str, String);

#[derive(Default)]
struct Desk {
    said: BTreeMap<Key, Said>,
    waiting: VecDeque<(Key, bool, ObjectReference)>,
}

struct Said {
    at: Instant,
    /// How often, those included that were not written.
    count: i32,
    /// The Event's name, once it is written.
    event: Option<String>,
}

/// Writes Events, for ever. Taking notices in never waits for the API server.
pub(super) async fn report(
    client: &Client,
    options: &KubernetesOptions,
    (known, mesh): (&Known, &Mesh),
    [mut loops, mut own]: [UnboundedReceiver<Notice>; 2],
    on_error: &impl Fn(),
) {
    let desk = Mutex::new(Desk::default());
    let is_there_more = Notify::new();
    let take_in = async {
        loop {
            let notice = tokio::select! {
                Some(notice) = loops.recv() => notice,
                Some(notice) = own.recv() => notice,
                else => return std::future::pending::<()>().await,
            };
            if let Some(about) = reference(&notice, known, mesh) {
                lock(&desk).take_in(notice, about);
                is_there_more.notify_one();
            }
        }
    };
    let write = async {
        let mut is_failing = false;
        loop {
            let next = lock(&desk).waiting.pop_front();
            let Some((key, is_warning, about)) = next else {
                is_there_more.notified().await;
                continue;
            };
            let written = write_one(client, options, &desk, &key, is_warning, &about).await;
            if let Err(failure) = &written {
                on_error();
                lock(&desk).said.remove(&key);
                if !is_failing {
                    tracing::warn!(
                        "Kubernetes: an Event for {} can't be written: {}; Events are dropped \
                         until that works again",
                        about.name.as_deref().unwrap_or_default(),
                        failure.text
                    );
                }
            }
            is_failing = written.is_err();
        }
    };
    tokio::join!(take_in, write);
}

impl Desk {
    fn take_in(&mut self, notice: Notice, about: ObjectReference) {
        let now = Instant::now();
        self.said
            .retain(|_, said| now.duration_since(said.at) < MEMORY);
        let key = (notice.pod, notice.reason, notice.text);
        if let Some(said) = self.said.get_mut(&key) {
            said.count = said.count.saturating_add(1);
            if now.duration_since(said.at) < SAME {
                return;
            }
            said.at = now;
        } else if self.said.len() < MOST_SAID {
            let said = Said {
                at: now,
                count: 1,
                event: None,
            };
            self.said.insert(key.clone(), said);
        } else {
            tracing::debug!("Kubernetes: too many notices; dropped: {}", key.2);
            return;
        }
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back((key, notice.is_warning, about));
        } else {
            self.said.remove(&key);
        }
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whom a notice is about, as long as that is known.
fn reference(notice: &Notice, known: &Known, mesh: &Mesh) -> Option<ObjectReference> {
    let Some(key) = &notice.pod else {
        return mesh.reference();
    };
    let (namespace, name) = known.name_of(key)?;
    Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace),
        name: Some(name),
        uid: Some(key.clone()),
        ..ObjectReference::default()
    })
}

/// Writes an Event, or counts on in the one that is there.
async fn write_one(
    client: &Client,
    options: &KubernetesOptions,
    desk: &Mutex<Desk>,
    key: &Key,
    is_warning: bool,
    about: &ObjectReference,
) -> Result<(), Failure> {
    let former = lock(desk).said.get(key).map(|s| (s.event.clone(), s.count));
    let (former, count) = former.unwrap_or((None, 1));
    let namespace = about.namespace.as_deref().unwrap_or("default");
    let events = Request::new(format!(
        "/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    ));
    if let Some(name) = former {
        let series = EventSeries {
            count: count.max(2),
            last_observed_time: MicroTime(Timestamp::now()),
        };
        let patch = Patch::Merge(serde_json::json!({ "series": series }));
        let request = events.patch(&name, &PatchParams::default(), &patch)?;
        match answered(options.pace, client.request_text(request)).await {
            Ok(_) => return Ok(()),
            // It was too old, and is gone.
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    let event = event(options, key, is_warning, about);
    let body = serde_json::to_vec(&event).map_err(|error| Failure::new(error.to_string()))?;
    let request = events.create(&PostParams::default(), body)?;
    answered(options.pace, client.request_text(request)).await?;
    if let Some(said) = lock(desk).said.get_mut(key) {
        said.event = event.metadata.name;
        said.count = 1;
    }
    Ok(())
}

fn event(
    options: &KubernetesOptions,
    (_, reason, text): &Key,
    is_warning: bool,
    about: &ObjectReference,
) -> Event {
    let now = Timestamp::now();
    let name = about.name.as_deref().unwrap_or("osm-agent");
    Event {
        action: Some("Intercept".to_owned()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", cut(name, NAME), now.as_nanosecond())),
            namespace: about.namespace.clone(),
            ..ObjectMeta::default()
        },
        note: Some(cut(text, NOTE).to_owned()),
        reason: Some((*reason).to_owned()),
        regarding: Some(about.clone()),
        reporting_controller: Some("openservicemesh.io/osm-agent".to_owned()),
        reporting_instance: Some(cut(&options.node_name, REPORTER).to_owned()),
        type_: Some(if is_warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

/// The beginning of a text, at most so many bytes of it.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
