//! `osm-agent run`

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ValueEnum, builder::FalseyValueParser};
use tracing_subscriber::filter::Targets;

use super::{State, bpf_log::BpfLog, mode::IptablesArgs, policy::IpFamilies, refuse_without};
use crate::{
    daemon::{
        run::{self, AgentSocket, DEFAULT_CNI_SOCKET, DEFAULT_LISTEN, Kubernetes, Options, Source},
        serve::log,
    },
    error::{Error, Result},
    privilege,
    protocol::DEFAULT_SOCKET,
};

/// See [`super::Command::Run`].
#[derive(Args, Debug)]
#[command(
    after_help = "HTTP: /healthz (200 while the agent makes progress), /readyz (200 when every pod was verified in
the kernel, else what is missing), /metrics (Prometheus), /status (JSON).

SIGTERM and SIGINT end it in order, a second one at once. Under systemd it speaks sd_notify:
Type=notify, and WatchdogSec= where wanted.

Exit status: 0 told to end, 1 failed, 2 wrong usage or configuration.

Examples:
  osm-agent run --kubernetes --node-name \"$NODE_NAME\"
  osm-agent run --pods /etc/osm/pods --config /etc/osm/mesh-config.yaml --no-cni-socket
  osm-agent run --pods /etc/osm/pods --log-format json --log info,kube=debug"
)]
pub struct Run {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    sockets: SocketArgs,
    #[command(flatten, next_help_heading = "This node")]
    state: State,
    /// Seconds after which all is compared with the kernel, though nothing is said to have changed
    #[arg(long, value_name = "SECONDS", env = "OSM_RESYNC", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=86400))]
    resync: u64,
    /// Whether native IPv6 is intercepted as well
    #[arg(long, value_enum, default_value_t = IpFamilies::Ipv4, env = "OSM_IP_FAMILIES")]
    ip_families: IpFamilies,
    /// Root of the cgroup v2 hierarchy [default: from /proc/mounts]
    #[arg(long, value_name = "DIR", env = "OSM_CGROUP_ROOT")]
    cgroup_root: Option<PathBuf>,
    /// A cgroup (v2) above all pods, for pods that have none of their own, as where the kubelet is
    /// on cgroup v1; a relative path is taken from the root of the hierarchy
    #[arg(long, value_name = "PATH", env = "OSM_SHARED_CGROUP")]
    shared_cgroup: Option<PathBuf>,
    #[command(flatten)]
    iptables: IptablesArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Which pods, and which lists")]
struct SourceArgs {
    /// Directory of pod files, which are followed as they come, change and go
    #[arg(long, value_name = "DIR", env = "OSM_PODS")]
    pods: Option<PathBuf>,
    /// File with the MeshConfig, YAML or JSON, which is followed [default: empty lists]
    #[arg(long, value_name = "FILE", env = "OSM_CONFIG")]
    config: Option<PathBuf>,
    /// Watch the API server for the pods of this node and for the MeshConfig
    #[arg(long, env = "OSM_KUBERNETES", action = ArgAction::SetTrue,
        value_parser = FalseyValueParser::new())]
    kubernetes: bool,
    /// Name of this node, as in the pods' spec.nodeName; for --kubernetes
    #[arg(long, value_name = "NAME", env = "OSM_NODE_NAME")]
    node_name: Option<String>,
    /// How to reach the API server [default: as the service account of the agent's own pod]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the MeshConfig; for --kubernetes
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "OSM_MESH_NAMESPACE",
        default_value = "osm-system"
    )]
    mesh_namespace: String,
    /// Name of the MeshConfig; for --kubernetes
    #[arg(
        long,
        value_name = "NAME",
        env = "OSM_MESH_CONFIG_NAME",
        default_value = "osm-mesh-config"
    )]
    mesh_config_name: String,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Sockets")]
struct SocketArgs {
    /// Unix socket on which init containers ask for their pod
    #[arg(long, value_name = "PATH", env = "OSM_AGENT_SOCKET", default_value = DEFAULT_SOCKET)]
    agent_socket: PathBuf,
    /// Permissions of that socket, octal; every user of a pod has to reach it
    #[arg(long, value_name = "MODE", env = "OSM_AGENT_SOCKET_MODE", default_value = "0666",
        value_parser = permissions)]
    agent_socket_mode: u32,
    /// User and group of that socket, as numbers [default: those of the agent]
    #[arg(long, value_name = "UID:GID", env = "OSM_AGENT_SOCKET_OWNER", value_parser = owner)]
    agent_socket_owner: Option<(u32, u32)>,
    /// Without that socket
    #[arg(long, conflicts_with_all = ["agent_socket", "agent_socket_mode", "agent_socket_owner"])]
    no_agent_socket: bool,
    /// Unix socket on which the CNI plugin asks
    #[arg(long, value_name = "PATH", env = "OSM_CNI_SOCKET", default_value = DEFAULT_CNI_SOCKET)]
    cni_socket: PathBuf,
    /// Without that socket
    #[arg(long, conflicts_with = "cni_socket")]
    no_cni_socket: bool,
    /// Address for HTTP. On the host's network, other addresses than 127.0.0.1 and ::1 are for all
    /// to reach
    #[arg(long, value_name = "ADDR:PORT", env = "OSM_LISTEN", default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Without HTTP
    #[arg(long, conflicts_with = "listen")]
    no_listen: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log, on standard error")]
struct LogArgs {
    /// How a record looks
    #[arg(long, value_enum, env = "OSM_LOG_FORMAT", default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Level (error, warn, info, debug, trace or off); behind commas, MODULE=LEVEL for others
    #[arg(long, value_name = "LEVEL", env = "OSM_LOG", default_value = "info",
        value_parser = directives)]
    log: Targets,
    #[command(flatten)]
    bpf_log: BpfLog,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people, and for journald
    Text,
    /// One JSON object a line
    Json,
}

impl Run {
    pub(super) fn run(self) -> Result<()> {
        let log = self.log.clone();
        let options = self.options()?;
        refuse_without(&privilege::missing_on_a_node())?;
        let format = match log.log_format {
            LogFormat::Text => log::Format::Text,
            LogFormat::Json => log::Format::Json,
        };
        log::start(format, log.bpf_log.start(log.log));
        run::run(&options)
    }

    fn options(self) -> Result<Options> {
        let sockets = self.sockets;
        let source = self.source.source()?;
        if matches!(source, Source::Requests { .. })
            && sockets.no_agent_socket
            && sockets.no_cni_socket
        {
            return Err(Error::input(
                "run",
                "nobody can say which pods there are",
                "give --pods or --kubernetes, or leave a socket open",
            ));
        }
        Ok(Options {
            state_dir: self.state.state_dir,
            source,
            agent_socket: (!sockets.no_agent_socket).then_some(AgentSocket {
                path: sockets.agent_socket,
                mode: sockets.agent_socket_mode,
                owner: sockets.agent_socket_owner,
            }),
            cni_socket: (!sockets.no_cni_socket).then_some(sockets.cni_socket),
            resync: Duration::from_secs(self.resync),
            listen: (!sockets.no_listen).then_some(sockets.listen),
            dual_stack: self.ip_families == IpFamilies::Dual,
            cgroup_root: self.cgroup_root,
            shared_cgroup: self.shared_cgroup,
            iptables: self.iptables.tools(),
        })
    }
}

impl SourceArgs {
    /// Who speaks. Not left to the parser: of a flag that a variable turns off, it would say
    /// that it is there.
    fn source(self) -> Result<Source> {
        if !self.kubernetes {
            return Ok(match self.pods {
                Some(pods) => Source::Files {
                    pods,
                    config: self.config,
                },
                None => Source::Requests {
                    config: self.config,
                },
            });
        }
        if self.pods.is_some() {
            return Err(Error::input(
                "--kubernetes",
                "--pods is given too, by flag or as OSM_PODS, and only one can say which pods \
                 there are",
                "leave one of them out",
            ));
        }
        if self.config.is_some() {
            return Err(Error::input(
                "--kubernetes",
                "--config is given too, by flag or as OSM_CONFIG, and the MeshConfig comes from \
                 the API server",
                "leave out --config; --mesh-namespace and --mesh-config-name say where it is",
            ));
        }
        let node = self.node_name.filter(|name| !name.is_empty());
        Ok(Source::Kubernetes(Kubernetes {
            node: node.ok_or_else(|| {
                Error::input(
                    "--kubernetes",
                    "which node this is, nobody says",
                    "give --node-name, or set OSM_NODE_NAME from the field spec.nodeName",
                )
            })?,
            kubeconfig: self.kubeconfig,
            mesh_namespace: self.mesh_namespace,
            mesh_config: self.mesh_config_name,
        }))
    }
}

fn permissions(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "expected octal permissions, such as 0660".into())
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let pair = text.split_once(':');
    pair.and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)))
        .ok_or_else(|| "expected numbers, such as 0:1500".into())
}

/// A word that is no level would be taken for a module, and all else would be silent.
fn directives(text: &str) -> Result<Targets, String> {
    let targets = text.parse::<Targets>().map_err(|error| error.to_string())?;
    match targets.default_level() {
        Some(_) => Ok(targets),
        None => Err("expected a level, such as info, or info,kube=debug".into()),
    }
}
