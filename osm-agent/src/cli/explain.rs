//! `osm-agent explain`

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use clap::{ArgGroup, Args, ValueEnum};
use procfs::process::Process;
use serde::Serialize;

use super::{State, check_privileges, out::print};
use crate::{
    ebpf::view::{PodView, View},
    error::{Error, Result, Tried as _},
    explain::{
        Explanation, Question,
        connection::{self, End},
        explain,
    },
    netlink,
    pod::{cgroup_of_process, cgroup_root},
};

/// Decides on a connection as the programs do, over the pod's lists as they are in the kernel, and says
/// which rule decides and whose it is. Needs no running agent, and connects to nothing.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("what").required(true).args(["to", "connection"]),
    after_help = "Exit status: 0 if it could be told, 1 if not, 2 for a pod that is not known.

Examples:
  osm-agent explain --pod default/web-0 --to 10.96.0.1:443
  osm-agent explain --pod default/web-0 --to 10.96.0.1:443 --pid 4711
  osm-agent explain --pod default/web-0 --to 10.0.0.2:8080 --inbound --from 10.0.0.9
  osm-agent explain --pod default/web-0 --connection 10.0.0.2:41234"
)]
pub struct ExplainCommand {
    /// Which pod
    #[arg(long, value_name = "NAME")]
    pod: String,
    /// What is dialled; with --inbound, the pod's address and port
    #[arg(long, value_name = "ADDR:PORT", value_parser = address_and_port)]
    to: Option<SocketAddr>,
    /// As which user of the node it is dialled [default: one that is not the sidecar's]
    #[arg(long, value_name = "UID", conflicts_with_all = ["pid", "inbound", "connection"])]
    uid: Option<u32>,
    /// Which process dials
    #[arg(long, value_name = "PID", conflicts_with_all = ["inbound", "connection"])]
    pid: Option<i32>,
    /// Somebody dials the pod
    #[arg(long, requires = "from", conflicts_with = "connection")]
    inbound: bool,
    /// Who dials the pod
    #[arg(long, value_name = "ADDR", requires = "inbound")]
    from: Option<IpAddr>,
    /// By which of the pod's interfaces it comes in; matters where some are excluded
    #[arg(long, value_name = "NAME", requires = "inbound")]
    interface: Option<String>,
    /// What the kernel remembers of the live connections that have this address at one end
    #[arg(long, value_name = "ADDR:PORT", value_parser = address_and_port)]
    connection: Option<SocketAddr>,
    /// How to print it
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    state: State,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

impl ExplainCommand {
    pub(super) fn run(self) -> Result<()> {
        check_privileges()?;
        let view = View::open(&self.state.state_dir)?;
        let pod = view.as_ref().map(|view| view.pod(&self.pod)).transpose()?;
        let (Some(view), Some(pod)) = (&view, pod.flatten()) else {
            return Err(self.unknown(view.as_ref()));
        };
        if let Some(address) = self.connection {
            return self.show_connection(view, &pod, address);
        }
        let question = self.question(&pod)?;
        let asked = view.asked(&pod)?.ok_or_else(|| {
            Error::input(
                format!("--pod {}", self.pod),
                "the programs do not know it: its entry in the map PODS is missing",
                "attach it again, or wait for the node agent to mend it",
            )
        })?;
        let explanation = explain(&pod, &asked, question)?;
        match self.output {
            Format::Text => print(self.text(&pod, &explanation).trim_end())?,
            Format::Json => print_json(&explanation)?,
        }
        Ok(())
    }

    fn question(&self, pod: &PodView) -> Result<Question> {
        let destination = self.to.unwrap_or_else(|| unreachable!("clap asks for it"));
        match self.from {
            Some(client) => Ok(Question::Inbound {
                client,
                destination,
                interface: self.interface_number(pod)?,
            }),
            None => Ok(Question::Outbound {
                destination,
                uid: match self.pid {
                    Some(pid) => Some(user_of(pid, pod)?),
                    None => self.uid,
                },
                cgroup: self.pid.map(cgroup_of).transpose()?,
            }),
        }
    }

    fn interface_number(&self, pod: &PodView) -> Result<Option<u32>> {
        let Some(name) = &self.interface else {
            return Ok(None);
        };
        let netns = pod.netns()?.ok_or_else(|| {
            Error::input(
                "--interface",
                "the pod has no process by which its network namespace is found",
                "leave it out",
            )
        })?;
        let network = netlink::read(netns.file());
        let network = network.tried(|| format!("read the interfaces of {}", pod.name))?;
        let number = network.interfaces.get(name).copied();
        number.map(Some).ok_or_else(|| {
            let names: Vec<_> = network.interfaces.keys().map(String::as_str).collect();
            Error::input(
                format!("--interface {name}"),
                "the pod has no such interface",
                format!("it has {}", names.join(", ")),
            )
        })
    }

    fn show_connection(&self, view: &View, pod: &PodView, address: SocketAddr) -> Result<()> {
        let ends = connection::find(view, pod, address)?;
        if ends.is_empty() {
            return Err(Error::input(
                format!("--connection {address}"),
                format!("no process of {} has a connection with it", pod.name),
                "take an address and port from `ss -tnp` in the pod; for one that is not made yet, \
                 ask with --to",
            ));
        }
        match self.output {
            Format::Text => print(ends_text(&ends).trim_end())?,
            Format::Json => print_json(&ends)?,
        }
        Ok(())
    }

    fn text(&self, pod: &PodView, explanation: &Explanation) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<10}{value}");
        };
        line("pod", &pod.name);
        line("asked", &self.asked(pod));
        line(
            "verdict",
            &format!("{} ({})", explanation.verdict, explanation.reason),
        );
        line("outcome", &explanation.outcome);
        line("because", &explanation.rule.sentence());
        if let Some(seen) = &explanation.seen {
            line("dialler", &seen.by_dialler);
            line("acceptor", &seen.by_acceptor);
        }
        for but in &explanation.but {
            line("BUT", but);
        }
        text
    }

    fn asked(&self, pod: &PodView) -> String {
        let to = self.to.map(|to| to.to_string()).unwrap_or_default();
        let sidecar = pod.sidecar_uid.unwrap_or_default();
        let who = match (self.from, self.pid, self.uid) {
            (Some(from), ..) => from.to_string(),
            (None, Some(pid), _) => format!("process {pid}"),
            (None, None, Some(uid)) if uid == sidecar => format!("the sidecar's user {uid}"),
            (None, None, Some(uid)) => format!("user {uid}"),
            (None, None, None) => format!("an application (any user but {sidecar})"),
        };
        format!("{who} dials {to}")
    }

    fn unknown(&self, view: Option<&View>) -> Error {
        let pods = view.and_then(|view| view.pods().ok()).unwrap_or_default();
        let names: Vec<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
        let advice = if names.is_empty() {
            "none is; `osm-agent status` shows what became of this node's pods, and --state-dir says where else to look".into()
        } else {
            format!("these are: {}", names.join(", "))
        };
        Error::input(
            format!("--pod {}", self.pod),
            format!(
                "no pod of that name is pinned in {}",
                self.state.state_dir.display()
            ),
            advice,
        )
    }
}

fn address_and_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write an address and a port, such as 10.0.0.1:443 or [2001:db8::1]:443".into()
    })
}

/// The real user of a process, which is what programs are told.
fn user_of(pid: i32, pod: &PodView) -> Result<u32> {
    let is_in_pod = pod.processes()?.contains(&pid);
    if !is_in_pod {
        return Err(Error::input(
            format!("--pid {pid}"),
            format!("is no process of {}", pod.name),
            "give the number that the process has on the node, or --uid",
        ));
    }
    let status = Process::new(pid).and_then(|process| process.status());
    Ok(status.tried(|| format!("read /proc/{pid}/status"))?.ruid)
}

fn cgroup_of(pid: i32) -> Result<u64> {
    let id = cgroup_of_process(pid, &cgroup_root()?);
    id.tried(|| format!("find the cgroup of process {pid}"))
}

fn ends_text(ends: &[End]) -> String {
    let mut text = String::new();
    for end in ends {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{} ({}), user {}, {}",
            super::out::plain(&end.process),
            end.pid,
            end.uid,
            end.state
        );
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<22}{value}");
        };
        line(
            "kernel's addresses",
            format!("{} to {}", end.local, end.remote),
        );
        line("getsockname", shown(end.shown_local));
        line("getpeername", shown(end.shown_peer));
        line("SO_ORIGINAL_DST", shown(end.original_destination));
        line("remembered", remembered(end));
    }
    text
}

fn shown(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "none".into(), |address| address.to_string())
}

fn remembered(end: &End) -> String {
    let Some(kept) = &end.remembered else {
        return "nothing: not redirected, or known by its address".into();
    };
    let which = if kept.is_dialler {
        "the end that dialled"
    } else {
        "the end that accepted"
    };
    let how = if kept.by_shortcut {
        ", by the shortcut"
    } else {
        ""
    };
    format!("{} was dialled; this is {which}{how}", kept.dialled)
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).tried(|| "write JSON")?;
    print(&text)
}
