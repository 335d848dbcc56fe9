//! One test, run for as long as somebody likes.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use crate::build::{self, AGENT};
use crate::setup;
use crate::workspace::Workspace;
use crate::{privilege, signals, test};

/// A test program, and the test in it.
pub struct Test {
    pub program: &'static str,
    pub name: &'static str,
    /// Whether it takes an agent of a version to come.
    pub with_next: bool,
}

/// Builds a test and all that it needs, and runs it with these variables; shows what it prints.
///
/// # Errors
///
/// When something needed is missing or a build fails.
pub fn run(
    workspace: &Workspace,
    test: &Test,
    variables: Vec<(&'static str, OsString)>,
) -> Result<ExitCode> {
    setup::ensure(workspace, &[&build::NEEDS[..], &test::NEEDS].concat())?;
    privilege::verify(workspace)?;
    let mut environment = variables;
    if test.with_next {
        environment.push(("OSM_AGENT_NEXT", build::next_agent(workspace)?.into()));
    }
    let agent = build::named(&build::binaries(workspace)?, AGENT)?;
    environment.push(("OSM_AGENT", agent.into()));
    let programs = test::programs(workspace, "Building the tests", &build::PACKAGES)?;
    let program = programs
        .iter()
        .find(|program| program.source.iter().any(|part| part == test.program))
        .with_context(|| format!("the tests have no program {}", test.program))?;
    let mut command = privilege::as_root(workspace, &environment)?;
    command.arg(&program.path).args([test.name, "--nocapture"]);
    signals::run(&mut command)
}

/// A seed that is another one every second, unless one is given.
pub fn seed(given: Option<u64>) -> u64 {
    given.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    })
}
