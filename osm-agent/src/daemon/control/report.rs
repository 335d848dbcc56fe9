//! What the loop tells: status, notices, metrics, log.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc::UnboundedSender, watch};

use crate::daemon::{
    metrics::{Metrics, Part},
    serve::heartbeat::Heartbeat,
    source::{Notice, PodKey},
    status::Status,
};

/// Where the loop's words go.
#[derive(Debug)]
pub struct Outlets {
    /// The status after each pass.
    pub status: watch::Sender<Status>,
    /// What people are to be told.
    pub notices: UnboundedSender<Notice>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What shows that the loop goes on.
    pub heartbeat: Arc<Heartbeat>,
    /// What was said last, so that it is said once.
    said: HashMap<(Option<PodKey>, &'static str), String>,
}

impl Outlets {
    /// Outlets that have said nothing yet.
    #[must_use]
    pub fn new(
        status: watch::Sender<Status>,
        notices: UnboundedSender<Notice>,
        metrics: Arc<Metrics>,
        heartbeat: Arc<Heartbeat>,
    ) -> Self {
        Self {
            status,
            notices,
            metrics,
            heartbeat,
            said: HashMap::new(),
        }
    }

    /// Warns people about a pod, once in the same words; says whether these are news.
    pub(super) fn warn(
        &mut self,
        key: &PodKey,
        name: &str,
        reason: &'static str,
        text: &str,
    ) -> bool {
        let is_news = self.is_new(Some(key), reason, text);
        if is_news {
            tracing::warn!(pod = name, reason, "{text}");
            self.notify(Some(key), true, reason, text);
        }
        is_news
    }

    /// Tells people about a pod.
    pub(super) fn tell(&mut self, key: &PodKey, name: &str, reason: &'static str, text: &str) {
        tracing::info!(pod = name, reason, "{text}");
        self.notify(Some(key), false, reason, text);
    }

    /// What was wrong is right again: the same words are news from now on.
    pub(super) fn is_over(&mut self, key: &PodKey, reason: &'static str) {
        self.said.remove(&(Some(key.clone()), reason));
    }

    /// A pod is gone for good.
    pub(super) fn forget(&mut self, is_gone: impl Fn(&PodKey) -> bool) {
        self.said
            .retain(|(key, _), _| key.as_ref().is_none_or(|key| !is_gone(key)));
    }

    /// Tells what became of the mesh's configuration.
    pub(super) fn mesh(&mut self, problem: Option<&str>) {
        const REASON: &str = "BadMeshConfig";
        let Some(problem) = problem else {
            if self.said.remove(&(None, REASON)).is_some() {
                tracing::info!("the mesh's configuration is right again");
            }
            return;
        };
        if self.is_new(None, REASON, problem) {
            tracing::warn!(reason = REASON, "{problem}; what is in force stays");
            self.metrics.config_error(Part::Mesh);
            let text = format!("{problem}; what is in force stays");
            self.notify(None, true, REASON, &text);
        }
    }

    /// A pass is over.
    pub(super) fn passed(&self, took: Duration) {
        self.metrics.pass(took);
        tracing::debug!(?took, "pass");
    }

    /// Publishes the status.
    pub(super) fn publish(&self, status: Status) {
        self.metrics.pods(&status);
        let _ = self.status.send_replace(status);
    }

    fn is_new(&mut self, key: Option<&PodKey>, reason: &'static str, text: &str) -> bool {
        let said = self.said.insert((key.cloned(), reason), text.to_owned());
        said.as_deref() != Some(text)
    }

    fn notify(&self, key: Option<&PodKey>, is_warning: bool, reason: &'static str, text: &str) {
        // Without a receiver, nobody wants to know.
        let _ = self.notices.send(Notice {
            pod: key.cloned(),
            is_warning,
            reason,
            text: text.to_owned(),
        });
    }
}
