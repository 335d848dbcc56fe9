//! Answers of the API server, read one object at a time.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// An object that may not be what it should be. Reading one never fails, so that it does not
/// take the other objects of its answer with it.
#[derive(Clone, Debug)]
pub(super) struct Object<T> {
    pub(super) identity: Identity,
    /// What it says, or what is wrong with it.
    pub(super) content: Result<T, String>,
}

/// Which object it is, as far as that can be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Identity {
    pub(super) uid: Option<String>,
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) version: Option<String>,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
pub(super) struct Page<T> {
    #[serde(default)]
    pub(super) metadata: PageMetadata,
    pub(super) items: Vec<Object<T>>,
}

/// Where the next page is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    pub(super) resource_version: Option<String>,
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

impl Identity {
    fn of(object: &Value) -> Self {
        let text = |field: &str| {
            let text = object.get("metadata")?.get(field)?.as_str()?;
            (!text.is_empty()).then(|| text.to_owned())
        };
        Self {
            uid: text("uid"),
            name: text("name"),
            namespace: text("namespace"),
            version: text("resourceVersion"),
        }
    }

    /// What messages call the object.
    pub(super) fn label(&self) -> String {
        let name = self.name.as_deref().unwrap_or("(without a name)");
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(Self {
            identity: Identity::of(&value),
            content: serde_json::from_value(value).map_err(|error| error.to_string()),
        })
    }
}
