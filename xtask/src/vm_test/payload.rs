//! What a machine finds on its disk: the programs, what they call and are loaded with, and the script that
//! runs them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::suites::Suite;
use super::userland::Userland;
use crate::arch::Arch;
use crate::build;
use crate::cargo::Executable;
use crate::setup;
use crate::workspace::Workspace;

/// What nobody reads in a machine.
const UNREAD: [&str; 3] = ["usr/share/doc", "usr/share/locale", "usr/share/man"];

/// How long one test program may run, in seconds.
const LIMIT: u32 = 5400;

/// What is to be run.
pub struct Plan<'a> {
    /// By which machine.
    pub arch: Arch,
    /// With what.
    pub userland: &'a Userland,
    /// What cargo built of binaries.
    pub binaries: &'a [Executable],
    /// The agent of a version to come.
    pub next_agent: &'a Path,
    /// What cargo built of tests.
    pub tests: &'a [Executable],
    /// In this order.
    pub suites: &'a [&'static Suite],
    /// Arguments for every test program.
    pub arguments: &'a [String],
    /// More variables for them.
    pub variables: &'a [(&'static str, String)],
}

/// Writes the archive and returns where it is.
///
/// # Errors
///
/// When something to go in is missing, or tar fails.
pub fn write(workspace: &Workspace, home: &Path, plan: &Plan<'_>) -> Result<PathBuf> {
    let stage = home.join("stage");
    drop(fs::remove_dir_all(&stage));
    for directory in ["etc", "run"] {
        let directory = stage.join(directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    let text = [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n".to_owned()),
        ("etc/group", "root:x:0:\n".to_owned()),
        ("run.sh", script(plan)?),
        ("files", list(&files(workspace, plan)?)),
    ];
    for (name, text) in text {
        let path = stage.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    let archive = home.join("payload.tar");
    drop(fs::remove_file(&archive));
    let tar = |mode: &[&str], directory: &Path| {
        let mut tar = workspace.command("tar");
        tar.args(mode).arg("--file").arg(&archive);
        tar.arg("--directory").arg(directory);
        tar
    };
    if let Some(root) = plan.userland.root() {
        // Links in it are followed in the machine: some begin at the root.
        let mut tar = tar(&["--create"], root);
        tar.args(UNREAD.map(|it| format!("--exclude=./{it}")))
            .arg(".");
        setup::quietly(&mut tar).context("packing the tools for the machines")?;
    }
    let mut tar = tar(&["--append", "--dereference"], &stage);
    tar.args(["etc", "run", "run.sh", "--directory", "/", "--files-from"])
        .arg(stage.join("files"));
    setup::quietly(&mut tar).context("packing the programs for the machines")?;
    Ok(archive)
}

/// Paths for tar, below the root.
fn list(files: &BTreeSet<PathBuf>) -> String {
    let mut list = String::new();
    for file in files {
        let file = file.strip_prefix("/").unwrap_or(file);
        // Writing to a string can't fail.
        let _ = writeln!(list, "{}", file.display());
    }
    list
}

fn files(workspace: &Workspace, plan: &Plan<'_>) -> Result<BTreeSet<PathBuf>> {
    let ours = plan.binaries.iter().chain(plan.tests);
    let ours = ours.map(|executable| executable.path.clone());
    let ours = ours.chain([plan.next_agent.to_owned()]).collect();
    let mut files = plan.userland.files(workspace, ours)?;
    // Read by tests of what is deployed.
    files.insert(workspace.root().join("deploy"));
    files.insert(workspace.root().join("tests/verifier-budget.json"));
    files.retain(|file| file.exists());
    Ok(files)
}

/// The script that a machine's first process becomes.
fn script(plan: &Plan<'_>) -> Result<String> {
    let agent = build::named(plan.binaries, build::AGENT)?;
    let actor = build::named(plan.binaries, "actor")?;
    let mut script = include_str!("guest.sh").to_owned();
    let known = [
        ("OSM_AGENT", agent.display().to_string()),
        ("OSM_AGENT_NEXT", plan.next_agent.display().to_string()),
        ("OSM_ACTOR", actor.display().to_string()),
        ("LIMIT", LIMIT.to_string()),
        ("STATUS", format!("/dev/{}", plan.arch.emulation().status)),
    ];
    for (name, value) in known.iter().chain(plan.variables) {
        writeln!(script, "export {name}={}", quoted(value))?;
    }
    writeln!(script, "features")?;
    let arguments: Vec<_> = plan.arguments.iter().map(|it| quoted(it)).collect();
    for suite in plan.suites {
        for test in plan.tests.iter().filter(|test| suite.has(test)) {
            let package = quoted(&test.package.display().to_string());
            let path = quoted(&test.path.display().to_string());
            let (suite, name, arguments) = (suite.name, &test.name, arguments.join(" "));
            writeln!(script, "run {suite} {name} {package} {path} {arguments}")?;
        }
    }
    writeln!(script, "finish")?;
    Ok(script)
}

impl Suite {
    fn has(&self, test: &Executable) -> bool {
        self.programs.contains(&test.name.as_str())
    }
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(name: &str) -> Executable {
        Executable {
            name: name.into(),
            is_test: false,
            path: format!("/w/target/{name}").into(),
            source: "/w/x.rs".into(),
            package: "/w/it's".into(),
        }
    }

    #[test]
    fn script_runs_the_programs_of_the_suites_and_ends() {
        let suites = super::super::suites::select(&["lifecycle".into()], false);
        let plan = Plan {
            arch: Arch::Aarch64,
            userland: &Userland::Unpacked("/w/root".into()),
            binaries: &[executable("osm-agent"), executable("actor")],
            next_agent: Path::new("/w/next"),
            tests: &[executable("repair"), executable("lists")],
            suites: &suites.expect("it exists"),
            arguments: &["--show-output".into()],
            variables: &[("CASES", "7".into())],
        };
        let script = script(&plan).expect("a script");
        let ours = script.split_once("export OSM_AGENT='/w/target/osm-agent'");
        let ours = ours.expect("the first variable").1;
        let lines: Vec<_> = ours.lines().skip(4).collect();
        let expected = [
            "export STATUS='/dev/ttyAMA1'",
            "export CASES='7'",
            "features",
            r"run lifecycle repair '/w/it'\''s' '/w/target/repair' '--show-output'",
            "finish",
        ];
        assert_eq!(lines, expected);
    }
}
