//! Runs cargo with progress, and reads from it what it built.

use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::progress::{Progress, on_terminal};

/// Asks cargo for one JSON message a line, and for diagnostics as people read them.
pub const MESSAGES: &str = "--message-format=json-render-diagnostics";

/// Cargo writes what it does right-aligned in this many columns.
const STATUS_WIDTH: usize = 12;

/// Something that cargo built and that can be run.
#[derive(Debug, PartialEq, Eq)]
pub struct Executable {
    /// The target's name.
    pub name: String,
    /// Whether it is a test harness.
    pub is_test: bool,
    /// The file to run.
    pub path: PathBuf,
    /// The file it was compiled from.
    pub source: PathBuf,
    /// The directory of its package.
    pub package: PathBuf,
}

/// Runs `command`, showing `what` meanwhile, and returns the executables that it names when
/// [`MESSAGES`] is among its arguments. Warnings and errors are passed through.
///
/// # Errors
///
/// When it can't be started or fails.
pub fn run(what: &str, command: &mut Command) -> Result<Vec<Executable>> {
    let progress = Progress::start(what);
    if on_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: starting {command:?}"))?;
    let stdout = child.stdout.take().context("cargo's output is piped")?;
    let stderr = child.stderr.take().context("cargo's messages are piped")?;
    let executables = thread::scope(|scope| {
        scope.spawn(|| pass_through(stderr, &progress));
        collect(stdout, &progress)
    });
    let status = child.wait().context("waiting for cargo")?;
    drop(progress);
    if !status.success() {
        let program = command.get_program().display();
        let arguments: Vec<_> = command
            .get_args()
            .map(std::ffi::OsStr::to_string_lossy)
            .collect();
        bail!(
            "{what} failed ({status}): {program} {}",
            arguments.join(" ")
        );
    }
    Ok(executables)
}

fn pass_through(stream: impl Read, progress: &Progress) {
    for line in lines(stream) {
        let plain = console::strip_ansi_codes(&line);
        if is_status(&plain) {
            progress.status(&line);
        } else if nested(&plain).is_some_and(is_status) {
            // Comes when the build script is done, and again with every later build.
        } else {
            progress.line(&line);
        }
    }
}

fn collect(stream: impl Read, progress: &Progress) -> Vec<Executable> {
    let mut executables = Vec::new();
    for line in lines(stream) {
        match serde_json::from_str::<Message>(&line) {
            Ok(message) => executables.extend(message.executable()),
            Err(_) => progress.line(&line),
        }
    }
    executables
}

/// The lines of a stream, whatever bytes are in them.
fn lines(stream: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(stream)
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// Whether cargo only says what it is doing, as in "   Compiling libc v0.2.186".
fn is_status(line: &str) -> bool {
    let Some((word, rest)) = line.split_at_checked(STATUS_WIDTH) else {
        return false;
    };
    let word = word.trim_start();
    rest.starts_with(' ')
        && word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.chars().all(|c| c.is_ascii_alphabetic())
}

/// What the build script of a package passed on from a cargo of its own, as the BPF build does.
fn nested(line: &str) -> Option<&str> {
    let (package, rest) = line.strip_prefix("warning: ")?.split_once(": ")?;
    package.contains('@').then_some(rest)
}

/// One of cargo's JSON messages, as far as we read it.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Message {
    fn executable(self) -> Option<Executable> {
        let target = self.target?;
        Some(Executable {
            name: target.name,
            is_test: self.profile?.test,
            path: self.executable?,
            source: target.src_path,
            package: self.manifest_path?.parent()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_of_cargo_is_told_from_what_must_stay() {
        let cases = [
            ("   Compiling libc v0.2.186", true),
            ("    Finished `dev` profile", true),
            (" Downloading crates ...", true),
            ("warning: unused variable: `x`", false),
            ("error[E0308]: mismatched types", false),
            ("  --> osm-agent/src/lib.rs:1:1", false),
            ("12 |     let Some(x) = y;", false),
            ("Compiling", false),
            ("   Compilingx", false),
            ("…………………………………………", false),
        ];
        for (line, expected) in cases {
            assert_eq!(is_status(line), expected, "{line:?}");
        }
    }

    #[test]
    fn status_passed_on_by_a_build_script_is_unwrapped() {
        let cases = [
            (
                "warning: osm-agent@0.1.0:    Compiling core v0.0.0",
                Some("   Compiling core v0.0.0"),
            ),
            (
                "warning: osm-agent@0.1.0: unused variable",
                Some("unused variable"),
            ),
            ("warning: unused: `x`", None),
            ("   Compiling libc v0.2.186", None),
        ];
        for (line, expected) in cases {
            assert_eq!(nested(line), expected, "{line:?}");
        }
    }

    #[test]
    fn artifact_message_with_executable_is_read() {
        let line = r#"{"reason":"compiler-artifact","package_id":"x","manifest_path":"/w/agent/Cargo.toml",
            "target":{"kind":["bin"],"name":"agent","src_path":"/w/agent/src/main.rs","edition":"2024"},
            "profile":{"opt_level":"0","test":false},"executable":"/w/target/debug/agent","fresh":true}"#;
        let message: Message = serde_json::from_str(line).expect("a message");
        let expected = Executable {
            name: "agent".into(),
            is_test: false,
            path: "/w/target/debug/agent".into(),
            source: "/w/agent/src/main.rs".into(),
            package: "/w/agent".into(),
        };
        assert_eq!(message.executable(), Some(expected));
    }

    #[test]
    fn message_without_executable_is_passed_over() {
        for line in [
            r#"{"reason":"build-finished","success":true}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/w/Cargo.toml","executable":null,
                "target":{"name":"l","src_path":"/w/l.rs"},"profile":{"test":false}}"#,
        ] {
            let message: Message = serde_json::from_str(line).expect("a message");
            assert_eq!(message.executable(), None, "{line}");
        }
    }
}
