//! Whether the loop makes progress.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// What the loop has beyond its passes before it counts as stuck.
const GRACE: Duration = Duration::from_secs(30);

/// When the loop was seen alive last. The first beat is its making.
#[derive(Debug)]
pub struct Heartbeat {
    start: Instant,
    /// Milliseconds from `start` to the last beat.
    last: AtomicU64,
    limit: Duration,
}

/// The loop has made no progress for too long.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "the control loop has made no progress for {} s, and {} s are the limit; pods that are \
     intercepted stay so; see the log, and restart the agent",
    age.as_secs(), limit.as_secs()
)]
pub struct Stuck {
    age: Duration,
    limit: Duration,
}

impl Heartbeat {
    /// Of a loop that makes a pass at least every `resync`: three of them may be missed, and
    /// half a minute more.
    #[must_use]
    pub fn of_resync(resync: Duration) -> Self {
        Self::with_limit(resync.saturating_mul(3).saturating_add(GRACE))
    }

    /// Of a loop that is stuck when it has not been seen for `limit`.
    #[must_use]
    pub fn with_limit(limit: Duration) -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            limit,
        }
    }

    /// The loop is alive: to be called for every pass, and within long ones for every pod.
    pub fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Whether the loop makes progress.
    ///
    /// # Errors
    /// Where it does not.
    pub fn check(&self) -> Result<(), Stuck> {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        let age = self.start.elapsed().saturating_sub(last);
        let limit = self.limit;
        if age > limit {
            return Err(Stuck { age, limit });
        }
        Ok(())
    }
}
