//! `cargo xtask e2e-kubernetes`: the agent against a real API server.

mod servers;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::build::{self, AGENT};
use crate::setup;
use crate::workspace::Workspace;
use crate::{privilege, signals, test};
use servers::Servers;

/// The test program that does it. Its tests are ignored unless asked for, as here.
const PROGRAM: &str = "kubernetes/main.rs";

/// Arguments of `e2e-kubernetes`.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose names contain one of these.
    filter: Vec<String>,
    /// A kube-apiserver to use instead of one built from Debian's source; --etcd goes with it.
    #[arg(long, value_name = "PATH", requires = "etcd")]
    kube_apiserver: Option<PathBuf>,
    /// An etcd to use instead of Debian's.
    #[arg(long, value_name = "PATH", requires = "kube_apiserver")]
    etcd: Option<PathBuf>,
    /// Only get the two servers, and print where they are.
    #[arg(long)]
    only_servers: bool,
    /// Passed to the test program, such as `--test-threads=1`.
    #[arg(last = true)]
    harness: Vec<String>,
}

/// Gets etcd and the API server, builds the agent and runs the tests.
///
/// # Errors
///
/// When something needed can't be had or a build fails; failed tests show in the exit status.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let servers = match (&args.kube_apiserver, &args.etcd) {
        (Some(kube_apiserver), Some(etcd)) => Servers::given(kube_apiserver, etcd)?,
        _ => servers::provide(workspace)?,
    };
    if args.only_servers {
        println!("{}", servers.kube_apiserver.display());
        println!("{}", servers.etcd.display());
        return Ok(ExitCode::SUCCESS);
    }
    setup::ensure(workspace, &[&build::NEEDS[..], &test::NEEDS].concat())?;
    privilege::verify(workspace)?;
    let agent = build::named(&build::binaries(workspace)?, AGENT)?;
    let programs = test::programs(workspace, "Building the tests", &build::PACKAGES)?;
    let program = programs
        .iter()
        .find(|program| program.source.ends_with(format!("tests/tests/{PROGRAM}")))
        .context("the tests have no program of that name")?;
    let environment = [
        ("OSM_AGENT", OsString::from(agent)),
        ("OSM_KUBE_APISERVER", servers.kube_apiserver.into()),
        ("OSM_ETCD", servers.etcd.into()),
    ];
    let mut command = privilege::as_root(workspace, &environment)?;
    command
        .arg(&program.path)
        .args(["--ignored", "--nocapture"])
        .args(&args.filter)
        .args(&args.harness)
        .current_dir(&program.package);
    signals::run(&mut command)
}
