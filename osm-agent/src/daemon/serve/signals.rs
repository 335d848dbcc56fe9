//! How the process is told to end.

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Result, Tried as _};

/// SIGTERM and SIGINT, from when this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them over; to be called within a runtime. Who started this process may have left them
    /// blocked: then they would never come.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn new() -> Result<Self> {
        let ours = SigSet::from_iter([Number::SIGTERM, Number::SIGINT]);
        ours.thread_unblock().tried(|| "unblock signals")?;
        let take = |kind| signal(kind).tried(|| "handle signals");
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
