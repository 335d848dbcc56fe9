//! What a service has to have: logs, HTTP, the service manager, signals.
//!
//! Nothing here decides anything: it shows what the loop says of itself.

pub mod heartbeat;
pub mod http;
pub mod log;
pub mod notify;
pub mod signals;

use std::sync::Arc;

use tokio::sync::watch;

use super::{metrics::Metrics, status::Status};
use heartbeat::Heartbeat;

/// What is shown to the outside.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The pods as the last pass found them.
    pub status: watch::Receiver<Status>,
    /// Whether there are passes still.
    pub heartbeat: Arc<Heartbeat>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}
