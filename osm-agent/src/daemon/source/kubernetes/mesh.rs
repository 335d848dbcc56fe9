//! The `MeshConfig` resource.

use std::{
    sync::{Mutex, PoisonError, mpsc::Sender},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    core::{
        Request,
        params::{GetParams, ListParams},
    },
};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    super::Event,
    KubernetesOptions,
    client::answered,
    outage::{Failure, Outage, jittered},
    watch::{Change, Collection, Follower},
    wire::{Identity, Object},
};
use crate::config::MeshConfig;

const GROUP: &str = "config.openservicemesh.io";
/// What is tried where the server does not tell which versions it has.
const VERSIONS: [&str; 3] = ["v1alpha3", "v1alpha2", "v1alpha1"];

/// Knows which object is in force.
#[derive(Default)]
pub(super) struct Mesh {
    object: Mutex<Option<ObjectReference>>,
}

/// Sends what is new to the loop.
struct Teller<'a> {
    mesh: &'a Mesh,
    options: &'a KubernetesOptions,
    events: &'a Sender<Event>,
    sent: Option<Result<Box<MeshConfig>, String>>,
    is_there: bool,
    missing_since: Option<Instant>,
}

impl Mesh {
    /// The object in force, if there is one.
    pub(super) fn reference(&self) -> Option<ObjectReference> {
        let object = self.object.lock().unwrap_or_else(PoisonError::into_inner);
        object.clone()
    }

    /// Follows the object, for ever; also where the resource does not exist (yet).
    pub(super) async fn follow(
        &self,
        client: &Client,
        options: &KubernetesOptions,
        events: &Sender<Event>,
        on_error: &impl Fn(),
    ) {
        let pace = options.pace;
        let mut outage = Outage::new("MeshConfig", pace.retry);
        let mut teller = Teller {
            mesh: self,
            options,
            events,
            sent: None,
            is_there: false,
            missing_since: None,
        };
        loop {
            let (failure, worked_for) = match find(client, options).await {
                Ok(None) => {
                    outage.works();
                    teller.is_unknown();
                    sleep(jittered(pace.discovery)).await;
                    continue;
                }
                Ok(Some((version, collection))) => {
                    teller.missing_since = None;
                    let mut take = |change| teller.take(change, &version);
                    let mut follower = Follower::new(client, &collection, pace);
                    follower.until_failure(&mut outage, &mut take).await
                }
                Err(failure) => (failure, Duration::ZERO),
            };
            if !failure.is_expected() {
                on_error();
            }
            sleep(outage.failed(&failure, worked_for)).await;
        }
    }
}

/// The newest version in which the server has the resource.
async fn find(
    client: &Client,
    options: &KubernetesOptions,
) -> Result<Option<(String, Collection)>, Failure> {
    for version in versions(client, options).await? {
        let collection = Collection {
            path: format!(
                "/apis/{GROUP}/{version}/namespaces/{}/meshconfigs",
                options.mesh_namespace
            ),
            fields: Some(format!("metadata.name={}", options.mesh_config_name)),
            is_metadata: false,
            page: 10,
        };
        let request = Request::new(&collection.path).list(&ListParams {
            field_selector: collection.fields.clone(),
            limit: Some(1),
            ..ListParams::default()
        })?;
        match answered(options.pace, client.request_text(request)).await {
            Ok(_) => return Ok(Some((version, collection))),
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

#[derive(Deserialize)]
struct Group {
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
struct GroupVersion {
    version: String,
}

/// The versions of the group that we understand, the newest first. Not each of them has to have
/// the resource. One cheap question where there is no such group at all.
async fn versions(client: &Client, options: &KubernetesOptions) -> Result<Vec<String>, Failure> {
    let request = Request::new("/apis").get(GROUP, &GetParams::default())?;
    let text = match answered(options.pace, client.request_text(request)).await {
        Ok(text) => text,
        Err(failure) if failure.is_not_found() => return Ok(Vec::new()),
        Err(failure) if failure.code == Some(403) => {
            return Ok(VERSIONS.map(str::to_owned).to_vec());
        }
        Err(failure) => return Err(failure),
    };
    let group: Group = serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("the versions of {GROUP} can't be read: {error}")))?;
    let number = |version: &str| version.strip_prefix("v1alpha")?.parse::<u32>().ok();
    let mut versions: Vec<_> = group
        .versions
        .into_iter()
        .filter_map(|found| Some((number(&found.version)?, found.version)))
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    Ok(versions.into_iter().map(|(_, version)| version).collect())
}

impl Teller<'_> {
    fn take(&mut self, change: Change<Value>, version: &str) {
        let name = &self.options.mesh_config_name;
        let is_ours = |identity: &Identity| identity.name.as_ref() == Some(name);
        match change {
            Change::Listed(objects) => {
                let ours = objects.into_iter().find(|object| is_ours(&object.identity));
                match ours {
                    Some(object) => self.is(object, version),
                    None => self.is_absent(),
                }
            }
            Change::Applied(object) if is_ours(&object.identity) => self.is(object, version),
            Change::Deleted(identity) if is_ours(&identity) => self.is_absent(),
            Change::Applied(_) | Change::Deleted(_) => {}
        }
    }

    fn is(&mut self, object: Object<Value>, version: &str) {
        let api_version = format!("{GROUP}/{version}");
        self.set_reference(Some(ObjectReference {
            api_version: Some(api_version.clone()),
            kind: Some("MeshConfig".to_owned()),
            namespace: Some(self.options.mesh_namespace.clone()),
            name: object.identity.name,
            uid: object.identity.uid,
            ..ObjectReference::default()
        }));
        self.is_there = true;
        let parsed = object.content.and_then(|content| {
            // What is not the mesh's own is left out, also because it is large.
            let field = |name: &str| content.get(name).cloned();
            let object = serde_json::json!({
                "apiVersion": field("apiVersion").unwrap_or_else(|| api_version.into()),
                "kind": field("kind").unwrap_or_else(|| "MeshConfig".into()),
                "spec": field("spec"),
            });
            MeshConfig::parse(&object.to_string(), &self.origin())
                .map_err(|error| error.to_string())
        });
        self.tell(parsed.map(Box::new));
    }

    fn is_absent(&mut self) {
        if self.is_there || self.sent.is_none() {
            tracing::info!("Kubernetes: there is no {}: defaults count", self.origin());
        }
        self.is_there = false;
        self.set_reference(None);
        self.tell(Ok(Box::default()));
    }

    /// The server does not know what a `MeshConfig` is.
    fn is_unknown(&mut self) {
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        if !self.is_there || since.elapsed() >= self.options.pace.missing {
            self.is_absent();
        }
    }

    fn tell(&mut self, told: Result<Box<MeshConfig>, String>) {
        if self.sent.as_ref() == Some(&told) {
            return;
        }
        self.sent = Some(told.clone());
        // That nobody listens is seen by those who send pods.
        let _ = self.events.send(Event::Mesh(told));
    }

    fn origin(&self) -> String {
        let KubernetesOptions {
            mesh_namespace,
            mesh_config_name,
            ..
        } = self.options;
        format!("MeshConfig {mesh_namespace}/{mesh_config_name}")
    }

    fn set_reference(&self, reference: Option<ObjectReference>) {
        let object = self.mesh.object.lock();
        *object.unwrap_or_else(PoisonError::into_inner) = reference;
    }
}
