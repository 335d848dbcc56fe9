//! One collection of objects: listed, then watched, for ever.
//!
//! kube has a watcher of its own. This one differs where an agent must not be wrong: a list is
//! never older than what was seen before (and still may come from the API server's cache, as
//! all nodes of a cluster may ask at once), after any failure everything is listed again, and a
//! connection on which nothing is said is given up.

use std::{
    convert::Infallible,
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use kube::{
    Client,
    core::{
        Request, WatchEvent,
        params::{ListParams, VersionMatch, WatchParams},
    },
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    KubernetesOptions, Pace,
    client::answered,
    known::{Known, Namespace},
    outage::{Failure, Outage, jittered},
    pod::Pod,
    wire::{Identity, Object, Page},
};

/// A watch that ends sooner is no watch.
const SHORT: Duration = Duration::from_secs(1);

/// What is new in a collection.
pub(super) enum Change<T> {
    /// These are all there are.
    Listed(Vec<Object<T>>),
    /// This one is new or was changed.
    Applied(Object<T>),
    /// This one is gone.
    Deleted(Identity),
}

/// What is to be watched.
pub(super) struct Collection {
    /// The path of its URL.
    pub(super) path: String,
    /// Which objects, by their fields.
    pub(super) fields: Option<String>,
    /// Whether metadata will do.
    pub(super) is_metadata: bool,
    /// How many objects the server may put into one answer.
    pub(super) page: u32,
}

/// Follows the pods of the node, for ever.
pub(super) async fn pods(
    client: &Client,
    options: &KubernetesOptions,
    known: &Known,
    on_error: &impl Fn(),
) {
    let node = &options.node_name;
    let collection = Collection {
        path: "/api/v1/pods".to_owned(),
        fields: Some(format!("spec.nodeName={node}")),
        is_metadata: false,
        page: 50,
    };
    let outage = Outage::new("pods of this node", options.pace.retry);
    let apply = |change| known.take_pods(change, node);
    forever::<Pod>(client, &collection, options.pace, outage, on_error, apply).await;
}

/// Follows the namespaces, for ever.
pub(super) async fn namespaces(
    client: &Client,
    options: &KubernetesOptions,
    known: &Known,
    on_error: &impl Fn(),
) {
    let collection = Collection {
        path: "/api/v1/namespaces".to_owned(),
        fields: None,
        is_metadata: true,
        page: 500,
    };
    let outage = Outage::new("namespaces", options.pace.retry);
    let apply = |change| known.take_namespaces(change);
    forever::<Namespace>(client, &collection, options.pace, outage, on_error, apply).await;
}

async fn forever<T: DeserializeOwned + Clone>(
    client: &Client,
    collection: &Collection,
    pace: Pace,
    mut outage: Outage,
    on_error: &impl Fn(),
    mut apply: impl FnMut(Change<T>),
) {
    let mut follower = Follower::new(client, collection, pace);
    loop {
        let (failure, worked_for) = follower.until_failure(&mut outage, &mut apply).await;
        if !failure.is_expected() {
            on_error();
        }
        tokio::time::sleep(outage.failed(&failure, worked_for)).await;
    }
}

/// Follows one collection.
pub(super) struct Follower<'a> {
    client: &'a Client,
    collection: &'a Collection,
    pace: Pace,
    /// The newest version of the collection that was seen.
    seen: Option<String>,
}

/// How a watch ended that can be gone on with.
enum Ended {
    ByServer,
    ForSilence,
}

impl<'a> Follower<'a> {
    pub(super) const fn new(client: &'a Client, collection: &'a Collection, pace: Pace) -> Self {
        Self {
            client,
            collection,
            pace,
            seen: None,
        }
    }

    /// Lists, then watches; returns what failed, and for how long there was a watch before.
    pub(super) async fn until_failure<T: DeserializeOwned + Clone>(
        &mut self,
        outage: &mut Outage,
        apply: &mut impl FnMut(Change<T>),
    ) -> (Failure, Duration) {
        let mut since = None;
        let Err(failure) = self.follow(outage, &mut since, apply).await;
        let worked_for = since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
        (failure, worked_for)
    }

    async fn follow<T: DeserializeOwned + Clone>(
        &mut self,
        outage: &mut Outage,
        since: &mut Option<Instant>,
        apply: &mut impl FnMut(Change<T>),
    ) -> Result<Infallible, Failure> {
        let (objects, mut version) = self.list().await?;
        self.seen = Some(version.clone());
        apply(Change::Listed(objects));
        loop {
            let asked = Instant::now();
            let mut is_working = || {
                since.get_or_insert_with(Instant::now);
                outage.works();
            };
            let ended = self.watch(&mut version, &mut is_working, apply).await;
            self.seen = Some(version.clone());
            if matches!(ended?, Ended::ByServer) && asked.elapsed() < SHORT {
                return Err(Failure::new("the API server ends the watch at once"));
            }
        }
    }

    /// All objects, and the version as of which that is so.
    async fn list<T: DeserializeOwned>(&mut self) -> Result<(Vec<Object<T>>, String), Failure> {
        let mut objects = Vec::new();
        let mut next = None;
        loop {
            let page = match self.page(next).await {
                Ok(page) => page,
                Err(failure) => {
                    // The server may not have that version any more, or not yet, or ever: it
                    // may have been restored. What it has now counts then.
                    if matches!(failure.code, Some(400 | 410 | 504)) {
                        self.seen = None;
                    }
                    return Err(failure);
                }
            };
            objects.extend(page.items);
            next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                let version = page.metadata.resource_version.filter(|v| !v.is_empty());
                let version = version.ok_or_else(|| Failure::new("a list has no version"))?;
                return Ok((objects, version));
            }
        }
    }

    async fn page<T: DeserializeOwned>(&self, next: Option<String>) -> Result<Page<T>, Failure> {
        let seen = self.seen.clone().filter(|_| next.is_none());
        let params = ListParams {
            field_selector: self.collection.fields.clone(),
            limit: Some(self.collection.page),
            continue_token: next,
            version_match: seen.is_some().then_some(VersionMatch::NotOlderThan),
            resource_version: seen,
            ..ListParams::default()
        };
        let request = Request::new(&self.collection.path);
        let request = if self.collection.is_metadata {
            request.list_metadata(&params)?
        } else {
            request.list(&params)?
        };
        let text = answered(self.pace, self.client.request_text(request)).await?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::new(format!("a list can't be read: {error}")))
    }

    /// One watch. `version` follows what was seen.
    async fn watch<T: DeserializeOwned + Clone>(
        &self,
        version: &mut String,
        is_working: &mut impl FnMut(),
        apply: &mut impl FnMut(Change<T>),
    ) -> Result<Ended, Failure> {
        let seconds = jittered(self.pace.watch).as_secs().max(1);
        let params = WatchParams {
            field_selector: self.collection.fields.clone(),
            timeout: u32::try_from(seconds).ok(),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = Request::new(&self.collection.path);
        let request = if self.collection.is_metadata {
            request.watch_metadata(&params, version)?
        } else {
            request.watch(&params, version)?
        };
        let answer = self.client.request_events::<Object<T>>(request);
        let mut stream = pin!(answered(self.pace, answer).await?);
        is_working();
        loop {
            let Ok(event) = timeout(self.pace.idle, stream.try_next()).await else {
                return Ok(Ended::ForSilence);
            };
            match event? {
                None => return Ok(Ended::ByServer),
                Some(event) => take(event, version, apply)?,
            }
        }
    }
}

fn take<T>(
    event: WatchEvent<Object<T>>,
    version: &mut String,
    apply: &mut impl FnMut(Change<T>),
) -> Result<(), Failure> {
    let (seen, change) = match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
            (object.identity.version.clone(), Change::Applied(object))
        }
        WatchEvent::Deleted(object) => (
            object.identity.version.clone(),
            Change::Deleted(object.identity),
        ),
        WatchEvent::Bookmark(bookmark) => {
            *version = bookmark.metadata.resource_version;
            return Ok(());
        }
        WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
    };
    apply(change);
    *version = seen.ok_or_else(|| Failure::new("an object of the watch has no version"))?;
    Ok(())
}
