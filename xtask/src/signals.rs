//! Waits for a child that has to clean up when it is interrupted.

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::privilege::is_root;

/// What shells add to a signal's number to make an exit status of it.
const SIGNAL_BASE: i32 = 128;

/// Runs `command`, hands every request to end on to it, and waits until it has ended by itself.
///
/// As root the child gets a process group of its own, so that ^C reaches it once, through us, and
/// does not hit the processes that it is about to stop in order. Behind `sudo`, which wants the
/// terminal and takes no signals from us, the terminal signals it.
///
/// # Errors
///
/// When the command can't be started.
pub fn run(command: &mut Command) -> Result<ExitCode> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("taking over ^C for the child")?;
    if is_root() {
        command.process_group(0).stdin(Stdio::null());
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let pid = pid_of(&child);
    let handle = signals.handle();
    let forwarder = thread::spawn(move || {
        for signal in signals.forever() {
            forward(pid, signal);
        }
    });
    let status = child.wait().context("waiting for the child");
    handle.close();
    // It ends with the handle, and has nothing to say.
    drop(forwarder.join());
    Ok(exit_code(status?))
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn forward(pid: Option<Pid>, signal: i32) {
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        // Refused only where the child is sudo, which the terminal signals.
        let _refused = kill_process(pid, signal);
    }
}

/// The status to exit with for a child's.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| SIGNAL_BASE + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_of_child_is_passed_on() {
        // A wait status holds the exit code in its second byte, a signal in its first.
        let cases = [(0, 0), (0x0100, 1), (0x0200, 2), (SIGINT, 130), (9, 137)];
        for (raw, expected) in cases {
            let code = exit_code(ExitStatus::from_raw(raw));
            assert_eq!(code, ExitCode::from(expected), "wait status {raw:#x}");
        }
    }

    #[test]
    fn child_that_ends_by_itself_is_waited_for() {
        let code = run(Command::new("sh").args(["-c", "exit 3"])).expect("sh runs");
        assert_eq!(code, ExitCode::from(3));
    }
}
