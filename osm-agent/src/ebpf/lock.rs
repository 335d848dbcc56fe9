//! The lock of a state directory: one process at a time.

use std::{
    fs::{File, TryLockError},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::error::{Error, Result, Tried as _};

/// How long to wait for another process that works on the directory.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// As long as a command of another process may take.
    Command,
    /// Not longer than one that is just ending takes: who has it stays.
    Agent,
}

impl Patience {
    const fn limit(self) -> Duration {
        match self {
            Self::Command => Duration::from_secs(10),
            Self::Agent => Duration::from_secs(1),
        }
    }

    fn exhausted(self, path: &Path) -> Error {
        let (problem, advice) = match self {
            Self::Command => (
                "another osm-agent works on this state directory",
                "if `osm-agent run` serves this node, change its sources instead, or stop it first",
            ),
            Self::Agent => (
                "another agent runs on this state directory",
                "stop that one first, or give --state-dir another one",
            ),
        };
        Error::State {
            path: path.into(),
            problem: problem.into(),
            advice: advice.into(),
        }
    }
}

/// Waits until no other process works on a directory.
///
/// # Errors
/// Where one still does when patience is exhausted.
pub fn wait_for(lock: &File, path: &Path, patience: Patience) -> Result<()> {
    let deadline = Instant::now() + patience.limit();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                return Err(patience.exhausted(path));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::Error(error)) => {
                return Err(error).tried(|| format!("lock {}", path.display()));
            }
        }
    }
}
