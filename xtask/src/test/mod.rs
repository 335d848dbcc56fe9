//! `cargo xtask test`: all tests, those on the kernel as root with mounts of their own.

pub mod tally;

use std::ffi::OsString;
use std::io::{self, Read as _, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::build::{self, AGENT, PACKAGES};
use crate::cargo::{self, Executable};
use crate::envoy;
use crate::privilege;
use crate::setup::{self, Need};
use crate::workspace::Workspace;
use tally::Tally;

/// What running the tests takes, beside building them.
pub const NEEDS: [Need; 5] = [
    Need::Unshare,
    Need::Iproute,
    Need::Iptables,
    Need::Nft,
    Need::Bpftool,
];

/// Programs of others that stand at either end of the loopback shortcut.
const PEERS: [Need; 2] = [Need::Nginx, Need::Haproxy];

/// The directory of the package whose tests run on the kernel.
pub const KERNEL_TESTS: &str = "tests";

/// The packages that may have tests in their documentation.
const DOCUMENTED: [&str; 4] = ["-p", "osm-ebpf-common", "-p", "osm-agent"];

/// Arguments of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose names contain one of these.
    filter: Vec<String>,
    /// Passed to every test program, such as `--nocapture` or `--test-threads=1`.
    #[arg(last = true)]
    args: Vec<String>,
}

impl Args {
    fn for_harness(&self) -> impl Iterator<Item = &String> {
        self.filter.iter().chain(&self.args)
    }
}

/// Builds and runs the tests; the last line is "N passed, N failed".
///
/// # Errors
///
/// When something needed is missing or a build fails; failed tests show in the exit status.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    setup::ensure(workspace, &[&build::NEEDS[..], &NEEDS, &PEERS].concat())?;
    let envoy = envoy_if_at_hand(workspace);
    privilege::verify(workspace)?;
    let next = build::next_agent(workspace)?;
    let agent = build::named(&build::binaries(workspace)?, AGENT)?;
    let mut all = programs(workspace, "Building xtask's tests", &["-p", "xtask"])?;
    all.extend(programs(workspace, "Building the tests", &PACKAGES)?);

    let mut session = Session::new(Box::new(io::stdout()));
    let kernel = workspace.root().join(KERNEL_TESTS);
    let (on_kernel, plain): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|program| program.package == kernel);
    for program in &plain {
        let mut command = workspace.command(&program.path);
        session.run(workspace, program, &mut command, args)?;
    }
    session.documentation(workspace, args)?;
    let mut environment = vec![
        ("OSM_AGENT", OsString::from(agent)),
        ("OSM_AGENT_NEXT", OsString::from(next)),
    ];
    environment.extend(envoy.map(|envoy| ("OSM_ENVOY", envoy.into())));
    for program in &on_kernel {
        let mut command = privilege::as_root(workspace, &environment)?;
        command.arg(&program.path);
        session.run(workspace, program, &mut command, args)?;
    }
    Ok(session.close())
}

/// Envoy, where it can be had; in CI, a test fails without it.
fn envoy_if_at_hand(workspace: &Workspace) -> Option<PathBuf> {
    match envoy::fetch(workspace) {
        Ok(envoy) => Some(envoy),
        Err(error) => {
            eprintln!("The tests with Envoy are left out: {error:#}");
            None
        }
    }
}

/// Builds the test programs of the selected packages.
///
/// # Errors
///
/// When the build fails.
pub fn programs(workspace: &Workspace, what: &str, packages: &[&str]) -> Result<Vec<Executable>> {
    let mut command = workspace.cargo();
    command
        .args(["test", "--no-run", cargo::MESSAGES])
        .args(packages);
    let mut programs = cargo::run(what, &mut command)?;
    programs.retain(|program| program.is_test);
    programs.sort_by(|one, other| one.source.cmp(&other.source));
    Ok(programs)
}

/// One run of all test programs.
struct Session {
    /// Where their output goes.
    out: Box<dyn Write>,
    tally: Tally,
    /// What ended badly, to be named at the end.
    broken: Vec<String>,
}

impl Session {
    fn new(out: Box<dyn Write>) -> Self {
        Self {
            out,
            tally: Tally::default(),
            broken: Vec::new(),
        }
    }

    fn run(
        &mut self,
        workspace: &Workspace,
        program: &Executable,
        command: &mut Command,
        args: &Args,
    ) -> Result<()> {
        let label = workspace.relative(&program.source).display().to_string();
        command
            .args(args.for_harness())
            // As under `cargo test`.
            .current_dir(&program.package)
            .env("CARGO_MANIFEST_DIR", &program.package);
        self.stream(&label, command)
    }

    fn documentation(&mut self, workspace: &Workspace, args: &Args) -> Result<()> {
        let mut command = workspace.cargo();
        command
            .args(["test", "--quiet", "--doc", "--no-fail-fast"])
            .args(DOCUMENTED)
            .arg("--")
            .args(args.for_harness());
        self.stream("documentation", &mut command)
    }

    /// Runs a command, passing its output through at once and counting the results in it.
    fn stream(&mut self, label: &str, command: &mut Command) -> Result<()> {
        self.show(format!("\n=== {label}\n").as_bytes())?;
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let mut output = child.stdout.take().context("the output is piped")?;
        let (failed, results) = (self.tally.counts.failed, self.tally.results);
        let mut piece = [0; 8192];
        loop {
            let length = output.read(&mut piece).context("reading test output")?;
            if length == 0 {
                break;
            }
            self.tally.read(&piece[..length]);
            self.show(&piece[..length])?;
        }
        self.tally.finish();
        let status = child.wait().context("waiting for the tests")?;
        if !status.success() {
            self.broken.push(format!("{label} ({status})"));
        }
        let counted = self.tally.counts.failed > failed;
        let ended = self.tally.results > results;
        if (!status.success() && !counted) || !ended {
            // It died before it could count: at least one test did not pass.
            self.tally.counts.failed += 1;
        }
        Ok(())
    }

    fn show(&mut self, piece: &[u8]) -> Result<()> {
        self.out
            .write_all(piece)
            .and_then(|()| self.out.flush())
            .context("writing to the standard output")
    }

    /// Prints the closing line. Without a single test that ran, this is a failure too.
    fn close(&self) -> ExitCode {
        let counts = self.tally.counts;
        println!();
        for label in &self.broken {
            println!("failed: {label}");
        }
        if counts.ignored > 0 {
            println!("{} ignored", counts.ignored);
        }
        let none = counts.passed + counts.failed == 0;
        if none {
            println!("no test ran; is there one of that name?");
        }
        println!("{} passed, {} failed", counts.passed, counts.failed);
        if none || counts.failed > 0 || !self.broken.is_empty() {
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session_after(script: &str) -> Session {
        let mut session = Session::new(Box::new(io::sink()));
        session
            .stream("script", Command::new("sh").args(["-c", script]))
            .expect("sh runs");
        session
    }

    #[test]
    fn session_counts_what_programs_report_and_how_they_end() {
        let result = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'";
        let failure = "echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'; exit 101";
        let cases = [
            (result.to_owned(), 2, 0, ExitCode::SUCCESS),
            (failure.to_owned(), 1, 1, ExitCode::FAILURE),
            (format!("{result}; exit 3"), 2, 1, ExitCode::FAILURE),
            ("kill -SEGV $$".to_owned(), 0, 1, ExitCode::FAILURE),
            ("echo no harness".to_owned(), 0, 1, ExitCode::FAILURE),
            (
                "echo 'test result: ok. 0 passed; 0 failed; 0 ignored'".to_owned(),
                0,
                0,
                ExitCode::FAILURE,
            ),
        ];
        for (script, passed, failed, code) in cases {
            let session = session_after(&script);
            assert_eq!(session.tally.counts.passed, passed, "{script}");
            assert_eq!(session.tally.counts.failed, failed, "{script}");
            assert_eq!(session.close(), code, "{script}");
        }
    }
}
