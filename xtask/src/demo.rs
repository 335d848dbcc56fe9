//! `cargo xtask demo`: sets up, builds and shows interception at work.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::build::{self, AGENT};
use crate::setup::{self, Need};
use crate::workspace::Workspace;
use crate::{envoy, privilege, signals};

/// What running the demonstration takes in every mode, beside building it.
const NEEDS: [Need; 2] = [Need::Unshare, Need::Iproute];

/// Arguments of `demo`.
#[derive(clap::Args)]
pub struct Args {
    /// By which means the pod is intercepted.
    #[arg(long, value_enum, default_value_t = Mode::Ebpf)]
    mode: Mode,
    /// Which sidecar proxies the pod's connections.
    #[arg(long, value_enum, default_value_t = Sidecar::Builtin)]
    sidecar: Sidecar,
    /// An Envoy to use instead of the one from the Python package index.
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// eBPF.
    Ebpf,
    /// iptables-legacy.
    IptablesLegacy,
    /// iptables-nft.
    IptablesNft,
}

impl Mode {
    /// What the demonstration calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::IptablesLegacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
        }
    }

    /// What it takes, beside [`NEEDS`].
    fn needs(self) -> &'static [Need] {
        match self {
            Self::Ebpf => &[],
            Self::IptablesLegacy | Self::IptablesNft => &[Need::Iptables],
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sidecar {
    /// The small transparent proxy of this workspace.
    Builtin,
    /// Envoy, unmodified.
    Envoy,
}

/// Runs the demonstration and passes its exit status on.
///
/// # Errors
///
/// When something it needs is missing, or it can't be built or started.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    setup::ensure(
        workspace,
        &[&build::NEEDS[..], &NEEDS, args.mode.needs()].concat(),
    )?;
    privilege::verify(workspace)?;
    let envoy = match (args.sidecar, &args.envoy) {
        (Sidecar::Builtin, _) => None,
        (Sidecar::Envoy, Some(path)) => Some(envoy::verify(path)?),
        (Sidecar::Envoy, None) => Some(envoy::fetch(workspace)?),
    };
    let built = build::binaries(workspace)?;
    let mut command = privilege::as_root(workspace, &[])?;
    command
        .arg(build::named(&built, "demo")?)
        .arg("--agent")
        .arg(build::named(&built, AGENT)?)
        .arg("--actor")
        .arg(build::named(&built, "actor")?)
        .args(["--mode", args.mode.name()]);
    if let Some(envoy) = envoy {
        command.args(["--sidecar", "envoy", "--envoy"]).arg(envoy);
    }
    signals::run(&mut command)
}
