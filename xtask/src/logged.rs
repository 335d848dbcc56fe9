//! Commands that take long: their lines are shown as they come, and kept in a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::progress::Progress;

/// How many of the last lines an error shows.
const TAIL_LINES: usize = 20;

/// Runs `command`, showing `what` and its newest line meanwhile; `log` gets all it says.
///
/// # Errors
///
/// When it can't be started or fails, with the end of the log and where the rest is.
pub fn run(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    let progress = Progress::start(what);
    let mut file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let program = command.get_program().display().to_string();
    let (output, theirs) = io::pipe().context("making a pipe")?;
    let second = theirs.try_clone().context("making a pipe")?;
    command.stdin(Stdio::null()).stdout(theirs).stderr(second);
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    // Ours are closed, so that the pipe ends with the child.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = VecDeque::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("reading what {program} says"))?;
        let line = String::from_utf8_lossy(&line);
        writeln!(file, "{line}").with_context(|| format!("writing {}", log.display()))?;
        progress.status(&line);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(format!("    {line}"));
    }
    let status = child
        .wait()
        .with_context(|| format!("waiting for {program}"))?;
    if status.success() {
        return Ok(());
    }
    let tail = Vec::from(tail).join("\n");
    let log = log.display();
    bail!("{what} failed: {program} ended with {status}; all of it is in {log}, the end is\n{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_command_shows_the_end_of_its_log_and_keeps_all_of_it() {
        let name = format!("osm-xtask-log-{}", std::process::id());
        let log = std::env::temp_dir().join(name);
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100; echo why >&2; exit 4"]);
        let error = run("Counting", &mut command, &log).expect_err("it fails");
        let kept = std::fs::read_to_string(&log).expect("the log is there");
        std::fs::remove_file(&log).expect("the log is ours");
        let message = format!("{error:#}");
        assert!(message.contains("exit status: 4"), "{message}");
        assert!(message.ends_with("    100\n    why"), "{message}");
        assert!(!message.contains("    50\n"), "{message}");
        assert_eq!(kept.lines().count(), 101);
    }
}
