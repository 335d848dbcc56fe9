//! One pod, asked for at once: for those who can't wait until the watch shows it.

use super::{
    super::{PodKey, PodSpec},
    KubernetesOptions, Pace,
    client::answered,
    known::Namespace,
    membership::judge,
    outage::Failure,
    pod::Pod,
    wire::{Object, Page},
};
use crate::error::{Error, Result};
use kube::{
    Client,
    core::{
        Request,
        params::{GetParams, ListParams},
    },
};

/// Asks the API server for single pods of this node.
#[derive(Clone)]
pub struct Lookup {
    client: Client,
    node: String,
    pace: Pace,
}

impl Lookup {
    pub(super) fn new(client: Client, options: &KubernetesOptions) -> Self {
        Self {
            client,
            node: options.node_name.clone(),
            pace: options.pace,
        }
    }

    /// The pod as it is now; none where there is no such pod on this node, or it is over.
    ///
    /// # Errors
    /// Where the API server does not answer, or the pod can't be read.
    pub async fn fetch(&self, namespace: &str, name: &str) -> Result<Option<(PodKey, PodSpec)>> {
        for part in [namespace, name] {
            if !is_name(part) {
                return Err(Error::input(
                    format!("{part:?}"),
                    "is no name of Kubernetes",
                    "ask for a pod by its namespace and name",
                ));
            }
        }
        let failed = |failure: Failure| {
            Error::input(
                format!("pod {namespace}/{name}"),
                format!("can't be looked up: {}", failure.text),
                "try again, and see to it that the API server can be reached",
            )
        };
        let Some(pod) = self.pod(namespace, name).await.map_err(failed)? else {
            return Ok(None);
        };
        if pod.is_over || pod.node.as_ref() != Some(&self.node) {
            return Ok(None);
        }
        let injection = self.injection(namespace).await.map_err(failed)?;
        let (spec, _) = judge(&pod, injection.as_deref());
        Ok(Some((pod.key, spec)))
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Failure> {
        let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
        let request = request.get(name, &GetParams::default())?;
        match answered(self.pace, self.client.request_text(request)).await {
            Ok(text) => Pod::parse(&text).map(Some).map_err(Failure::new),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The annotation of a namespace; by a list, as the agent's role has no other access.
    async fn injection(&self, namespace: &str) -> Result<Option<String>, Failure> {
        let params = ListParams {
            field_selector: Some(format!("metadata.name={namespace}")),
            ..ListParams::default()
        };
        let request = Request::new("/api/v1/namespaces").list_metadata(&params)?;
        let text = answered(self.pace, self.client.request_text(request)).await?;
        let page: Page<Namespace> =
            serde_json::from_str(&text).map_err(|error| Failure::new(error.to_string()))?;
        let is_asked_for =
            |object: &Object<Namespace>| object.identity.name.as_deref() == Some(namespace);
        match page.items.into_iter().find(is_asked_for) {
            Some(object) => Ok(object.content.map_err(Failure::new)?.injection),
            None => Err(Failure::new("its namespace is gone")),
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|b| is_allowed(b) || matches!(b, b'-' | b'.'))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}
