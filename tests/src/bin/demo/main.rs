//! Shows interception at work: a pod, an outside, a real application, a sidecar, and the agent.
//!
//! Run as root in a mount namespace of its own, which `cargo xtask demo` sees to. Exit status: 0
//! when everything came out as it should, 1 when not, 128 and the signal's number after a signal.
//! Whatever it made is gone when it ends.

#![forbid(unsafe_code)]

mod envoy;
mod expectation;
mod mode;
mod nat;
mod objects;
mod run_as;
mod scene;
mod script;
mod sidecar;
mod table;
mod traces;

use std::env;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Error, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use osm_tests::cgroup;
use osm_tests::interrupt::{Interrupt, Interrupted};

use crate::mode::Mode;
use crate::sidecar::Kind;

/// Shows interception of a pod's TCP at work.
#[derive(Parser)]
#[command(
    name = "demo",
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
struct Args {
    #[command(flatten)]
    demo: Option<Demo>,
    #[command(subcommand)]
    helper: Option<Helper>,
}

#[derive(clap::Args)]
struct Demo {
    /// The agent's binary
    #[arg(long, value_name = "PATH")]
    agent: PathBuf,
    /// The binary that plays the application, the servers and the clients
    #[arg(long, value_name = "PATH")]
    actor: PathBuf,
    /// By which means the pod is intercepted
    #[arg(long, value_enum, default_value_t = Mode::Ebpf)]
    mode: Mode,
    /// Which sidecar proxies the pod's connections
    #[arg(long, value_enum, default_value_t = Sidecar::Builtin)]
    sidecar: Sidecar,
    /// Envoy's binary
    #[arg(long, value_name = "PATH", required_if_eq("sidecar", "envoy"))]
    envoy: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sidecar {
    /// The small transparent proxy of this workspace
    Builtin,
    /// Envoy, unmodified
    Envoy,
}

#[derive(Subcommand)]
enum Helper {
    /// Become a program in a pod; the demo starts foreign sidecars with it
    #[command(hide = true)]
    RunAs(run_as::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match (args.demo, args.helper) {
        (_, Some(Helper::RunAs(args))) => run_as::run(&args).map(|never| match never {}),
        (Some(demo), None) => show(demo),
        (None, None) => unreachable!("clap asks for --agent and --actor"),
    };
    outcome.unwrap_or_else(|error| failure(&error))
}

/// Runs the demo; whatever ends it, the guards have cleaned up when this returns.
fn show(args: Demo) -> Result<ExitCode> {
    name_binaries(&args)?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes namespaces and cgroups and intercepts connections in them; run it as root"
    );
    ensure!(
        cgroup::root().is_some(),
        "no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none DIRECTORY"
    );
    let kind = match (args.sidecar, args.envoy) {
        (Sidecar::Builtin, _) => Kind::Builtin,
        (Sidecar::Envoy, Some(path)) => Kind::Envoy(path),
        (Sidecar::Envoy, None) => bail!("--sidecar envoy needs --envoy PATH"),
    };
    let interrupt = Interrupt::catch().context("taking over ^C")?;
    // The harness panics where a scene can't be built, and the hook has said why by then.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        script::run(&kind, args.mode, &interrupt)
    }));
    match outcome {
        Ok(all_right) => Ok(if all_right? {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }),
        Err(_) => bail!("the demo could not go on (see above); what it had made is removed"),
    }
}

/// Has `OSM_AGENT` and `OSM_ACTOR`, by which the harness finds the binaries, say what the flags say.
///
/// A process can't change its own environment safely; so it becomes itself again with another one.
fn name_binaries(args: &Demo) -> Result<()> {
    let wanted = [("OSM_AGENT", &args.agent), ("OSM_ACTOR", &args.actor)];
    for (_, path) in wanted {
        ensure!(path.is_file(), "{} is not a file", path.display());
    }
    if wanted
        .iter()
        .all(|(key, path)| env::var_os(key).as_deref() == Some(path.as_os_str()))
    {
        return Ok(());
    }
    let error = Command::new(env::current_exe().context("the demo's own path")?)
        .args(env::args_os().skip(1))
        .envs(wanted)
        .exec();
    Err(error).context("starting the demo anew")
}

fn failure(error: &Error) -> ExitCode {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        eprintln!("demo: {interrupted}; everything it had made is removed");
        return ExitCode::from(interrupted.exit_code());
    }
    eprintln!("demo: {error:#}");
    ExitCode::FAILURE
}
