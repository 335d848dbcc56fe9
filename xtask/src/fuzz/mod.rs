//! `cargo xtask fuzz`: the targets of `fuzz/`, one after another or a few at once.

mod log;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, Result, bail};
use clap::value_parser;

use crate::build;
use crate::cargo;
use crate::progress::Progress;
use crate::setup::{self, Need, nightly::NIGHTLY};
use crate::workspace::Workspace;
use log::Log;

/// What one input may use up: more is a fault.
const SECONDS: u32 = 10;
const MEGABYTES: u32 = 1024;

/// Arguments of `fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// For how long each target runs.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    minutes: u64,
    /// Only this target; may be given more than once [default: all].
    #[arg(long)]
    target: Vec<String>,
    /// How many run at once.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u8).range(1..))]
    parallel: u8,
}

/// Where things of one target are.
struct Place {
    program: PathBuf,
    /// What was found to reach new code, here and in former runs.
    corpus: PathBuf,
    /// Inputs that failed.
    artifacts: PathBuf,
    /// Inputs that are kept with the code.
    seeds: PathBuf,
    log: PathBuf,
}

/// Builds the targets and runs them; ends with a table, and fails if an input failed.
///
/// # Errors
///
/// When something needed is missing, a build fails or there is no such target.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let targets = chosen(all(workspace)?, &args.target)?;
    let needs = [Need::Nightly, Need::CargoFuzz];
    setup::ensure(workspace, &[&build::NEEDS[..], &needs].concat())?;
    compile(workspace)?;
    let progress = Progress::start(&format!(
        "Fuzzing {} targets, {} min each",
        targets.len(),
        args.minutes
    ));
    let queue = Mutex::new(targets.clone().into_iter());
    let rows = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        while let Some(target) = next(&queue) {
            let log = fuzz(&place(workspace, &target), args.minutes)?;
            progress.line(&log.row(&target));
            if let Ok(mut rows) = rows.lock() {
                rows.push((target, log));
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..args.parallel).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked")))
    })?;
    drop(progress);
    let mut rows = rows.into_inner().unwrap_or_default();
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(summary(workspace, &rows))
}

/// The targets that there are.
fn all(workspace: &Workspace) -> Result<Vec<String>> {
    let directory = workspace.root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut targets = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default();
        targets.push(name.to_string_lossy().into_owned());
    }
    targets.sort_unstable();
    Ok(targets)
}

fn chosen(all: Vec<String>, wanted: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    let is_wanted = |name: &String| wanted.is_empty() || wanted.contains(name);
    Ok(all.into_iter().filter(is_wanted).collect())
}

fn next(queue: &Mutex<impl Iterator<Item = String>>) -> Option<String> {
    queue.lock().ok()?.next()
}

/// All targets, without a sanitizer of memory: what they call has no `unsafe`, and they run
/// twice as fast.
fn compile(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.command("cargo-fuzz");
    command
        .current_dir(workspace.root().join("fuzz"))
        .args(["build", "--sanitizer", "none", "--target-dir"])
        .arg(workspace.target().join("fuzz"))
        .env("RUSTUP_TOOLCHAIN", NIGHTLY);
    // Cargo sets these for us; they name the pinned toolchain's.
    for variable in ["CARGO", "RUSTC", "RUSTDOC"] {
        command.env_remove(variable);
    }
    cargo::run("Building the fuzz targets", &mut command).map(drop)
}

fn place(workspace: &Workspace, target: &str) -> Place {
    let fuzz = workspace.root().join("fuzz");
    let built = workspace.target().join("fuzz");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    Place {
        program: built.join(triple).join("release").join(target),
        corpus: fuzz.join("corpus").join(target),
        artifacts: fuzz.join("artifacts").join(target),
        seeds: fuzz.join("seeds").join(target),
        log: built.join(format!("{target}.log")),
    }
}

/// Runs one target, and reads what it said.
fn fuzz(place: &Place, minutes: u64) -> Result<Log> {
    for directory in [&place.corpus, &place.artifacts] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let log = File::create(&place.log).with_context(|| place.log.display().to_string())?;
    let status = Command::new("nice")
        .args(["-n", "10"])
        .arg(&place.program)
        .arg(&place.corpus)
        .arg(&place.seeds)
        .args([
            format!("-max_total_time={}", minutes * 60),
            format!("-timeout={SECONDS}"),
            format!("-rss_limit_mb={MEGABYTES}"),
            format!("-artifact_prefix={}/", place.artifacts.display()),
        ])
        .arg("-print_final_stats=1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .status()
        .with_context(|| format!("starting {}", place.program.display()))?;
    let mut text = Vec::new();
    File::open(&place.log)
        .and_then(|mut log| log.read_to_end(&mut text))
        .with_context(|| place.log.display().to_string())?;
    Ok(Log::parse(
        &String::from_utf8_lossy(&text),
        status.success(),
    ))
}

fn summary(workspace: &Workspace, rows: &[(String, Log)]) -> ExitCode {
    println!("\n{}", Log::HEAD);
    let mut code = ExitCode::SUCCESS;
    for (target, log) in rows {
        println!("{}", log.row(target));
        if log.failed() {
            code = ExitCode::FAILURE;
        }
    }
    for (target, log) in rows.iter().filter(|(_, log)| log.failed()) {
        let place = place(workspace, target);
        let shown = |path: &Path| workspace.relative(path).display().to_string();
        println!(
            "\n{target}: {}\nSee {}; the input is in {}. Keep it in {}: the test `fuzz` of osm-agent \
             feeds it again.",
            log.why(),
            shown(&place.log),
            shown(&place.artifacts),
            shown(&place.seeds),
        );
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_that_is_not_there_is_an_error_that_names_those_that_are() {
        let all = || vec!["one".to_owned(), "two".to_owned()];
        assert_eq!(chosen(all(), &[]).expect("all"), all());
        assert_eq!(chosen(all(), &["two".into()]).expect("one"), ["two"]);
        let error = chosen(all(), &["three".into()]).expect_err("there is none");
        assert!(error.to_string().contains("one, two"), "{error}");
    }

    #[test]
    fn every_target_has_seeds() {
        let workspace = Workspace::locate().expect("this crate is in the workspace");
        let targets = all(&workspace).expect("the targets");
        assert!(targets.len() > 5, "{targets:?}");
        for target in targets {
            assert!(place(&workspace, &target).seeds.is_dir(), "{target}");
        }
    }
}
