//! By which means a pod is intercepted.

use std::{fmt, path::Path};

use clap::{Args, ValueEnum};

use crate::{
    config::InterceptionMode,
    ebpf::Ebpf,
    error::Result,
    interceptor::Interceptor,
    iptables::{Backend, Iptables},
    pod::Netns,
};

/// The means, as `--mode` takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// eBPF where the kernel can, iptables elsewhere
    Auto,
    /// eBPF or not at all
    Ebpf,
    /// iptables, even where the kernel can do better
    Iptables,
    /// Nothing is intercepted
    None,
}

impl From<InterceptionMode> for Mode {
    fn from(mode: InterceptionMode) -> Self {
        match mode {
            InterceptionMode::Auto => Self::Auto,
            InterceptionMode::Ebpf => Self::Ebpf,
            InterceptionMode::Iptables => Self::Iptables,
            InterceptionMode::None => Self::None,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
            Self::None => "none",
        })
    }
}

/// Which iptables.
#[derive(Args, Debug)]
pub struct IptablesArgs {
    /// Which iptables [default: the one in use in the namespace, else nft where it works]
    #[arg(long, value_enum, env = "OSM_IPTABLES_BACKEND")]
    iptables_backend: Option<BackendArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BackendArg {
    /// iptables-legacy
    Legacy,
    /// iptables-nft
    Nft,
}

impl IptablesArgs {
    /// The tools, not looked for yet.
    pub fn tools(&self) -> Iptables {
        Iptables::new().with_backend(self.iptables_backend.map(|backend| match backend {
            BackendArg::Legacy => Backend::Legacy,
            BackendArg::Nft => Backend::Nft,
        }))
    }
}

/// Removes rules of ours, where there are any; says whether there were. A machine without
/// iptables has none.
pub fn remove_rules(tools: &Iptables, netns: &Netns) -> Result<bool> {
    Ok(tools.is_installed()
        && Interceptor::inspect(tools, netns)?
        && tools.clone().withdraw(netns)?)
}

/// Withdraws a pod from eBPF interception, where it is intercepted so; says by which name it was.
pub fn withdraw_from_ebpf(state_dir: &Path, netns: &Netns) -> Result<Option<String>> {
    let Some(mut ebpf) = Ebpf::open_existing(state_dir)? else {
        return Ok(None);
    };
    let cookie = netns.cookie()?;
    let pods = ebpf.pods()?;
    let _ = ebpf.withdraw(netns)?;
    ebpf.tidy()?;
    ebpf.remove_if_unused()?;
    let pod = pods.into_iter().find(|pod| pod.netns_cookie == cookie);
    Ok(pod.map(|pod| pod.name))
}
