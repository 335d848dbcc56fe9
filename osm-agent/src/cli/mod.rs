//! The commands.

mod attach;
mod bpf_log;
mod check;
mod cleanup;
mod cni;
mod detach;
mod documents;
mod explain;
mod foreground;
mod init;
mod iptables;
mod mode;
mod monitor;
pub(crate) mod out;
mod policy;
mod run;
mod status;
pub(crate) mod style;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    ebpf::DEFAULT_STATE_DIR,
    error::{Error, Result},
    privilege,
};

/// Redirects the TCP traffic of service-mesh pods to their sidecar proxy, with eBPF.
///
/// Outbound connections go to the sidecar's port 15001, inbound ones to 15003; the sidecar's
/// own (user 1500) pass. Exit status: 0 done, 1 failed, 2 wrong usage or configuration.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Intercept a pod, or change the lists of one that is intercepted
    Attach(attach::Attach),
    /// Let go of a pod; behind eBPF its established connections live on
    Detach(detach::Detach),
    /// Let go of every pod behind eBPF, and remove all of it from this node
    Cleanup(cleanup::Cleanup),
    /// Write, print or remove the iptables rules of the fallback
    Iptables(iptables::IptablesCommand),
    /// What this kernel can do, and which mode `auto` takes; with --pod, whether a pod is intercepted
    ///
    /// It loads and attaches everything that interception takes, in a cgroup and in namespaces that
    /// are made for it and gone afterwards, and says what the machine is like and which programs of
    /// others run for pods. No pod is touched.
    ///
    /// With --pod or --netns, it proves with connections of its own whether that pod is intercepted.
    /// It may be in use: its sidecar keeps its listeners, and sees a few connections to addresses
    /// that are nobody's.
    Check(check::Check),
    /// In a pod's init container: have the pod intercepted, and prove it
    Init(init::InitCommand),
    /// The node agent: keep the pods of this node intercepted
    ///
    /// It goes on until it is told to end. The pods stay intercepted then, and the next one takes
    /// over; nothing is lost where it is killed.
    ///
    /// Which pods there are, files (--pods) or the API server (--kubernetes) say; without either,
    /// the pods that ask for themselves on the agent's socket.
    Run(Box<run::Run>),
    /// How this node's pods are: what is pinned, and what the node agent says of it
    ///
    /// It works with or without an agent, and changes nothing. Pods behind iptables have their
    /// records in their own network namespaces: only the agent knows them, and `osm-agent check
    /// --netns` looks at one.
    Status(status::StatusCommand),
    /// What becomes of a connection, and which rule makes it so
    Explain(explain::ExplainCommand),
    /// What becomes of connections, one by one as they are made
    ///
    /// It works beside the node agent and without one, and changes nothing; pods behind iptables can't be
    /// watched. Only one runs at a time. Nothing is written while none runs.
    Monitor(monitor::Monitor),
    /// For container runtimes: the CNI plugin that holds a pod's start until it is intercepted
    Cni(cni::CniCommand),
    /// Print what completes these commands in a shell
    Completions(documents::Completions),
    /// Write a manual page for every command into a directory
    #[command(hide = true)]
    Man(documents::Man),
}

impl Cli {
    /// The command of this process. Called `osm-cni`, it is the CNI plugin.
    #[must_use]
    pub fn of_process() -> Self {
        Self::parse_from(cni::arguments(std::env::args_os()))
    }

    /// Runs the command.
    ///
    /// # Errors
    /// One error, to be shown to the user; [`Error::exit_code`] is the exit status.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Attach(attach) => attach.run(),
            Command::Detach(detach) => detach.run(),
            Command::Cleanup(cleanup) => cleanup.run(),
            Command::Iptables(iptables) => iptables.run(),
            Command::Check(check) => check.run(),
            Command::Init(init) => init.run(),
            Command::Run(run) => run.run(),
            Command::Status(status) => status.run(),
            Command::Explain(explain) => explain.run(),
            Command::Monitor(monitor) => monitor.run(),
            Command::Cni(cni) => cni.run(),
            Command::Completions(completions) => {
                completions.run();
                Ok(())
            }
            Command::Man(man) => man.run(),
        }
    }
}

/// Where the kernel state is.
#[derive(Args, Debug)]
struct State {
    /// Directory in a bpffs that holds maps, programs and links; mounted where missing
    #[arg(long, value_name = "DIR", env = "OSM_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

/// Fails early, and in words, without the privileges that everything here needs.
fn check_privileges() -> Result<()> {
    refuse_without(&privilege::missing())
}

/// Fails where any capability is missing.
fn refuse_without(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::System {
        tried: "attach BPF programs".into(),
        source: format!("this process lacks {}", missing.join(" and ")).into(),
        advice: "; run as root, or give the container these capabilities and CAP_BPF".into(),
    })
}
