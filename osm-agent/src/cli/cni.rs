//! `osm-agent cni`

use std::{ffi::OsString, io, path::Path};

use clap::Args;

use super::out::say;
use crate::{
    cni::{self, Failure},
    error::{Error, Result},
};

/// The name under which runtimes start this program, without arguments: the `type` in the network
/// configuration.
const PLUGIN: &str = "osm-cni";

/// For container runtimes: the CNI plugin that holds a pod's start until it is intercepted.
///
/// It is the last in a chain of plugins, for ADD, DEL, CHECK, STATUS, GC and VERSION of the CNI
/// specification, 0.3.0 to 1.1.0. It makes no network: it asks the node agent, and passes the
/// result of the plugins before on.
#[derive(Args, Debug)]
#[command(
    after_help = "Runtimes start plugins by name and without arguments: this program is also the plugin when it is
called osm-cni, so install it, or a link to it, as /opt/cni/bin/osm-cni.

What a pod gets when it is added: it starts where it is intercepted or not in the mesh; it fails
with code 11, for which the kubelet tries again, where the agent is not there or not ready; it
fails with code 100 where the agent refuses, with the reason. A container without K8S_POD_NAME in
CNI_ARGS starts without an agent. Deleting never fails because of the agent.

Keys of the network configuration:
  agentSocket     socket of the node agent [default: /run/osm-cni/agent.sock]
  timeoutSeconds  seconds to wait for its answer, 1 to 600 [default: 35]

Exit status: 0 done, 1 failed, with an error in JSON on standard output.

Example, /etc/cni/net.d/10-mesh.conflist:
  {
    \"cniVersion\": \"1.0.0\",
    \"name\": \"pods\",
    \"plugins\": [
      { \"type\": \"bridge\", \"bridge\": \"cni0\", \"isGateway\": true,
        \"ipam\": { \"type\": \"host-local\", \"subnet\": \"10.22.0.0/16\" } },
      { \"type\": \"osm-cni\", \"agentSocket\": \"/run/osm-cni/agent.sock\" }
    ]
  }"
)]
pub struct CniCommand {}

impl CniCommand {
    #[expect(clippy::unused_self, reason = "as all commands")]
    pub(super) fn run(self) -> Result<()> {
        let ended = cni::run(&|name| std::env::var_os(name), io::stdin().lock());
        if let Some(output) = ended.output {
            say(format_args!("{output}"));
        }
        ended.failure.map_or(Ok(()), |failure| Err(error(failure)))
    }
}

/// For people; the runtime reads the JSON.
fn error(failure: Failure) -> Error {
    Error::System {
        tried: "do what the container runtime asks for".into(),
        source: failure.message.into(),
        advice: format!("; {}", failure.details),
    }
}

/// The arguments of this process, with the command where the name says it.
pub(super) fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<_> = given.collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == PLUGIN) && arguments.len() == 1 {
        arguments.push("cni".into());
    }
    arguments
}
