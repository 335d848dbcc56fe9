//! The service manager, by the protocol of sd_notify(3). Without `NOTIFY_SOCKET`, nothing is
//! done.

use std::{env, future, time::Duration};

use sd_notify::NotifyState;
use tokio::time::{self, Interval, MissedTickBehavior};
use tracing::{debug, warn};

use super::Shown;
use crate::daemon::status::Status;

/// Tells of readiness after the first pass, of what became of the pods at every change, and of
/// life as often as is asked for. Ends with the future.
pub async fn run(mut shown: Shown) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return future::pending().await;
    }
    let mut watchdog = watchdog();
    let mut said = None;
    loop {
        tokio::select! {
            changed = shown.status.changed() => {
                if changed.is_err() {
                    // The loop is over: who started it says so.
                    return future::pending().await;
                }
                let text = summary(&shown.status.borrow_and_update());
                if said.is_none() {
                    tell(&[NotifyState::Ready]);
                }
                if said.as_ref() != Some(&text) {
                    tell(&[NotifyState::Status(&text)]);
                    said = Some(text);
                }
            }
            () = tick(&mut watchdog) => match shown.heartbeat.check() {
                Ok(()) => tell(&[NotifyState::Watchdog]),
                Err(stuck) => warn!("{stuck}"),
            },
        }
    }
}

/// Tells that the end has begun.
pub fn stopping() {
    if env::var_os("NOTIFY_SOCKET").is_some() {
        tell(&[
            NotifyState::Stopping,
            NotifyState::Status("stopping; pods stay intercepted"),
        ]);
    }
}

/// What there is to say, in one line.
fn summary(status: &Status) -> String {
    let counts = status.counts();
    match (status.is_synced, &status.mesh_problem) {
        (false, _) => format!("{counts}; waiting for the sources of pods and configuration"),
        (true, Some(_)) => {
            format!("{counts}; the mesh's configuration is wrong, the last good one is in force")
        }
        (true, None) => counts.to_string(),
    }
}

/// Twice as often as the service manager wants to hear of us, if it does.
fn watchdog() -> Option<Interval> {
    let limit = sd_notify::watchdog_enabled().filter(|limit| *limit > Duration::ZERO)?;
    let mut interval = time::interval((limit / 2).max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(interval)
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => future::pending().await,
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("cannot tell the service manager: {error}");
    }
}
