//! Runs a program, with input and within a time. No shell is involved.

use std::{
    ffi::OsStr,
    io::{self, Read, Write as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// How often a program is asked whether it has ended: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(20));

/// How long its last words are waited for once it has ended: a grandchild may hold the pipe.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs a program in the network namespace of the calling thread, to its end.
///
/// # Errors
/// Where it can't be started, or did not end in time; it is killed then.
pub(super) fn run(
    program: &Path,
    args: &[&str],
    environment: Option<(&str, &OsStr)>,
    input: String,
    limit: Duration,
) -> io::Result<Ended> {
    let has_input = !input.is_empty();
    let mut child = Command::new(program)
        .args(args)
        .envs(environment)
        .stdin(if has_input {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early does not read it all, and says why on its own.
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let (status, said) = wait(&mut child, &stdout, limit)?;
    let last_words = |pipe: &Receiver<Vec<u8>>| pipe.recv_timeout(LAST_WORDS).unwrap_or_default();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ended {
        status,
        stdout: text(said.unwrap_or_else(|| last_words(&stdout))),
        stderr: text(last_words(&stderr)),
    })
}

/// How it ended, and what it said where that was to be had by then.
fn wait(
    child: &mut Child,
    stdout: &Receiver<Vec<u8>>,
    limit: Duration,
) -> io::Result<(ExitStatus, Option<Vec<u8>>)> {
    let deadline = Instant::now() + limit;
    let (mut pause, longest) = PAUSES;
    let mut said = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, said));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            let seconds = limit.as_secs();
            let problem = format!("it did not end within {seconds} s and was killed");
            return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
        }
        if said.is_some() {
            thread::sleep(pause);
        } else if let Ok(bytes) = stdout.recv_timeout(pause) {
            // It ends its output as it ends itself, most often.
            said = Some(bytes);
            pause = PAUSES.0;
            continue;
        }
        pause = (pause * 2).min(longest);
    }
}

/// Reads a pipe to its end; sends all of it at once.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        sender.send(bytes)
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_that_does_not_end_is_killed_in_time() {
        let begin = Instant::now();
        let limit = Duration::from_millis(100);
        let error = run(Path::new("/bin/sleep"), &["60"], None, String::new(), limit).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn input_larger_than_any_pipe_comes_back_whole() {
        let input = "0123456789abcdef".repeat(1 << 16);
        let limit = Duration::from_mins(1);
        let ended = run(Path::new("/bin/cat"), &[], None, input.clone(), limit).unwrap();
        assert!(ended.status.success() && ended.stderr.is_empty());
        assert!(ended.stdout == input);
    }
}
