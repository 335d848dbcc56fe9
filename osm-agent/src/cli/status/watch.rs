//! Showing something again and again.

use std::{
    io::{self, Write as _},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use console::Term;
use nix::sys::signal::{SigSet, Signal};

use crate::error::{Result, Tried as _};

/// Shows it at once and then every so often, until the process is told to end or nobody reads it
/// any more: on a terminal in the place of what was shown before, elsewhere below it.
///
/// # Errors
/// The first that showing it comes to.
pub fn repeat(period: Duration, mut show: impl FnMut() -> Result<String>) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals
        .thread_block()
        .map_err(io::Error::from)
        .tried(|| "block signals")?;
    let (send, ended) = mpsc::channel();
    thread::spawn(move || {
        let _ = signals.wait();
        let _ = send.send(());
    });
    let terminal = Term::stdout();
    loop {
        let text = show()?;
        if terminal.is_term() {
            let _ = terminal.clear_screen();
        }
        let mut out = io::stdout().lock();
        if out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            return Ok(());
        }
        drop(out);
        match ended.recv_timeout(period) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
