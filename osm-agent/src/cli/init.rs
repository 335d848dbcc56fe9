//! `osm-agent init`

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum as _};

use super::{mode::Mode, out::say, policy::IpFamilies};
use crate::{
    config::{InterceptionMode, LocalProxyMode},
    error::Result,
    init::{
        Init,
        settings::{Environment, List, Settings},
    },
    iptables::{Backend, Iptables},
    protocol::DEFAULT_SOCKET,
};

/// How long the node agent may take, unless told otherwise. It loads programs in a tenth of a
/// second.
const AGENT_TIMEOUT: u64 = 5;
const SECONDS: std::ops::RangeInclusive<u64> = 1..=600;

/// For the init container of a pod: has the pod intercepted, proves it with connections of its
/// own, and returns.
#[derive(Args, Debug)]
#[command(
    after_help = "Every flag has an environment variable: OSM_MODE for --mode, OSM_OUTBOUND_IP_RANGE_EXCLUSION_LIST for
--outbound-ip-range-exclusion-list, and so on. An empty one is not set. Lists of all sources are
joined; of the others, a flag beats the variable, and either beats --config.

iptables takes the capability NET_ADMIN, with iptables-legacy NET_RAW too; the proof uses SETUID
and NET_RAW where it has them. Nothing is written to disk.

Exit status: 0 intercepted and proven, 126 redirection does not work, 2 wrong usage or
configuration, 1 failed.

Examples:
  osm-agent init --config /etc/osm/mesh-config.yaml
  osm-agent init --mode iptables --outbound-port-exclusion-list 5432,6379"
)]
pub struct InitCommand {
    /// By which means [default: spec.traffic.interceptionMode, or auto]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// MeshConfig with the mesh's lists, YAML or JSON [default: empty lists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ranges that are not intercepted, with commas in between
    #[arg(long, value_name = "RANGES")]
    outbound_ip_range_exclusion_list: Vec<String>,
    /// If there are any: the only ranges that are intercepted
    #[arg(long, value_name = "RANGES")]
    outbound_ip_range_inclusion_list: Vec<String>,
    /// Ports that the pod reaches directly
    #[arg(long, value_name = "PORTS")]
    outbound_port_exclusion_list: Vec<String>,
    /// Ports on which the pod is reached directly
    #[arg(long, value_name = "PORTS")]
    inbound_port_exclusion_list: Vec<String>,
    /// Network interfaces whose traffic is left alone
    #[arg(long, value_name = "NAMES")]
    network_interface_exclusion_list: Vec<String>,
    /// Whether native IPv6 is intercepted as well [default: ipv4]
    #[arg(long, value_enum)]
    ip_families: Option<IpFamilies>,
    /// Where the sidecar finds the application: Localhost or PodIP [default: as in --config]
    #[arg(long, value_name = "MODE", value_parser = local_proxy_mode)]
    local_proxy_mode: Option<LocalProxyMode>,
    /// Socket of the node agent, which is asked for eBPF [default: /run/osm/agent.sock]
    #[arg(long, value_name = "PATH")]
    agent_socket: Option<PathBuf>,
    /// Seconds to wait for the node agent's answer [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(SECONDS))]
    agent_timeout: Option<u64>,
    /// Which iptables: nft or legacy [default: the one in use in the pod, else nft where it works]
    #[arg(long, value_name = "BACKEND", value_parser = backend)]
    iptables_backend: Option<Backend>,
}

impl InitCommand {
    pub(super) fn run(self) -> Result<()> {
        let environment = std::env::vars_os().collect();
        self.init(&environment)?
            .run(|line| say(format_args!("{line}")))
    }

    fn init(self, environment: &Environment) -> Result<Init> {
        let settings = self.settings(environment)?;
        let mode = |text: &str| Mode::from_str(text, false).ok();
        let expected = "auto, ebpf, iptables or none";
        let mode = environment.or(self.mode, "OSM_MODE", expected, mode)?;
        let socket = environment.or(self.agent_socket, "OSM_AGENT_SOCKET", "a path", path)?;
        let seconds = |text: &str| text.parse().ok().filter(|it| SECONDS.contains(it));
        let expected = "seconds from 1 to 600";
        let timeout = environment.or(self.agent_timeout, "OSM_AGENT_TIMEOUT", expected, seconds)?;
        let chosen = self.iptables_backend;
        let read = |text: &str| backend(text).ok();
        let backend = environment.or(chosen, "OSM_IPTABLES_BACKEND", "nft or legacy", read)?;
        Ok(Init {
            policy: settings.policy(),
            mode: mode.map_or(settings.mode(), into_mode),
            agent_socket: socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            agent_timeout: Duration::from_secs(timeout.unwrap_or(AGENT_TIMEOUT)),
            iptables: Iptables::new().with_backend(backend),
        })
    }

    fn settings(&self, environment: &Environment) -> Result<Settings> {
        let config = environment.or(self.config.clone(), "OSM_CONFIG", "a file", path)?;
        let mut settings = Settings::read(config.as_deref())?;
        for list in List::ALL {
            for text in self.values(list) {
                settings.add(list, list.flag(), text)?;
            }
            let variable = list.variable();
            if let Some(text) = environment.text(&variable)? {
                settings.add(list, &variable, &text)?;
            }
        }
        let families = |text: &str| IpFamilies::from_str(text, false).ok();
        let expected = "ipv4 or dual";
        let families = environment.or(self.ip_families, "OSM_IP_FAMILIES", expected, families)?;
        settings.dual_stack = families == Some(IpFamilies::Dual);
        let local_proxy = environment.or(
            self.local_proxy_mode,
            "OSM_LOCAL_PROXY_MODE",
            "Localhost or PodIP",
            LocalProxyMode::from_name,
        )?;
        if let Some(mode) = local_proxy {
            settings.mesh.local_proxy_mode = mode;
        }
        Ok(settings)
    }

    fn values(&self, list: List) -> &[String] {
        match list {
            List::OutboundRangesExcluded => &self.outbound_ip_range_exclusion_list,
            List::OutboundRangesIncluded => &self.outbound_ip_range_inclusion_list,
            List::OutboundPortsExcluded => &self.outbound_port_exclusion_list,
            List::InboundPortsExcluded => &self.inbound_port_exclusion_list,
            List::InterfacesExcluded => &self.network_interface_exclusion_list,
        }
    }
}

/// Any text is one.
#[expect(clippy::unnecessary_wraps, reason = "as of all readers of variables")]
fn path(text: &str) -> Option<PathBuf> {
    Some(text.into())
}

const fn into_mode(mode: Mode) -> InterceptionMode {
    match mode {
        Mode::Auto => InterceptionMode::Auto,
        Mode::Ebpf => InterceptionMode::Ebpf,
        Mode::Iptables => InterceptionMode::Iptables,
        Mode::None => InterceptionMode::None,
    }
}

fn backend(text: &str) -> Result<Backend, String> {
    let mut all = Backend::ALL.into_iter();
    all.find(|backend| backend.name() == text)
        .ok_or_else(|| "expected nft or legacy".into())
}

fn local_proxy_mode(text: &str) -> Result<LocalProxyMode, String> {
    LocalProxyMode::from_name(text).ok_or_else(|| "expected Localhost or PodIP".into())
}
