//! ^C, so that everything is cleaned up before the program ends.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

const NONE: i32 = 0;

/// What shells add to a signal's number to make an exit status of it.
const SIGNAL_BASE: u8 = 128;

/// Knows whether the program was told to end.
#[derive(Debug)]
pub struct Interrupt {
    caught: Arc<AtomicI32>,
}

impl Interrupt {
    /// Takes over the requests to end, in this thread and all that it starts from now on.
    ///
    /// Child processes inherit the blocked signals: ^C at a terminal, which reaches all of them,
    /// leaves it to the guards to stop them in order.
    ///
    /// # Errors
    /// Where the signals can't be blocked.
    pub fn catch() -> nix::Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        signals.thread_block()?;
        let caught = Arc::new(AtomicI32::new(NONE));
        let told = Arc::clone(&caught);
        thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                told.store(signal as i32, Ordering::Relaxed);
            }
        });
        Ok(Self { caught })
    }

    /// Fails once the program was told to end. To be asked between any two steps.
    ///
    /// # Errors
    /// The signal.
    pub fn check(&self) -> Result<(), Interrupted> {
        match Signal::try_from(self.caught.load(Ordering::Relaxed)) {
            Ok(signal) => Err(Interrupted(signal)),
            Err(_) => Ok(()),
        }
    }
}

/// A signal told the program to end.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted(Signal);

impl Interrupted {
    /// The exit status that says so.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        u8::try_from(self.0 as i32).map_or(u8::MAX, |number| SIGNAL_BASE + number)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended by {}", self.0)
    }
}

impl Error for Interrupted {}
