//! `osm-agent status`

mod agent;
mod join;
mod report;
mod text;
mod users;
mod warnings;
mod watch;

use std::{path::Path, time::Duration};

use clap::Args;

use super::{
    State,
    out::print,
    style::{Format, document},
};
use crate::{
    ebpf::view::View,
    error::{Error, Result},
};
use join::Pinned;
use report::Report;
use users::Users;

/// Reads what is pinned, and joins it with what the node agent says, where one answers.
#[derive(Args, Debug)]
#[command(
    after_help = "In the table, POLICY is the beginning of a digest of the lists, and how many ranges (r) and
ports (p) they hold; `!` says that they are the last good ones, as those that are written were
refused. LISTENS says for which directions the sidecar does. REDIR, PASS and REFUSED count
connections.

JSON and YAML: version (1), agent {url, is_running, detail, is_synced, mesh_problem}, state_dir,
problems [{what, todo}] and pods. Each pod: name, mode (ebpf, iptables, none, unknown), state (of
the agent: intercepted, waiting, failed, refused), detail, problems, warnings [{what, todo}],
lists_problem; where it is pinned also policy {id, digest, ranges, outbound_ports, inbound_ports,
interfaces, dual_stack, pod_ip, shortcut, reserved_port_guard, sidecar_identity}, listeners
{outbound, inbound}, connections {redirected, passed, refused}, counters {REASON: number},
handshakes (and destinations that stay known), programs {version, is_this_version}, sidecar_uid,
sidecar_cgroup, addresses, netns_cookie, cgroup, cgroup_path. Names do not change; new ones may come.

Exit status: 0 if it can be told how the pods are, 1 if not, or on problems with --fail-on-problems.

Examples:
  osm-agent status
  osm-agent status --pod default/web-0
  osm-agent status --watch
  osm-agent status -o json | jq -r '.pods[] | select(.problems != []) | .name'
  osm-agent status --fail-on-problems || page-somebody"
)]
pub struct StatusCommand {
    /// Everything about one pod
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// How to print it
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
    /// Show it again every so many seconds, until told to end
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
    /// Fail where there are problems
    #[arg(long, conflicts_with = "watch")]
    fail_on_problems: bool,
    /// Where the agent listens: the address of its --listen
    #[arg(long, value_name = "URL", env = "OSM_AGENT_URL", default_value = "http://127.0.0.1:15905",
        value_parser = agent::authority)]
    agent_url: String,
    #[command(flatten)]
    state: State,
}

impl StatusCommand {
    pub(super) fn run(self) -> Result<()> {
        if let Some(seconds) = self.watch {
            return watch::repeat(Duration::from_secs(seconds), || {
                self.shown(&self.report()?).map(|text| self.block(&text))
            });
        }
        let report = self.report()?;
        print(self.shown(&report)?.trim_end())?;
        let count = report.count_problems();
        if count > 0 && self.fail_on_problems {
            return Err(Error::System {
                tried: "say that all is well".into(),
                source: format!("there are {count} problems").into(),
                advice: "; each is shown with what to do".into(),
            });
        }
        Ok(())
    }

    fn report(&self) -> Result<Report> {
        let answer = agent::ask(&self.agent_url);
        let state_dir = &self.state.state_dir;
        let pinned = match pinned(state_dir) {
            Ok(pods) => Ok(pods),
            // Who asks the agent need not be root.
            Err(error) if matches!(answer, agent::Answer::Status(_)) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        let mut report = Report::new(&self.agent_url, answer, state_dir.clone(), pinned);
        if let Some(name) = &self.pod {
            report.pods.retain(|pod| pod.name == *name);
            if report.pods.is_empty() {
                return Err(Error::input(
                    format!("--pod {name}"),
                    format!(
                        "no such pod is pinned in {}, or known to the node agent",
                        state_dir.display()
                    ),
                    "`osm-agent status` shows those that are",
                ));
            }
        }
        Ok(report)
    }

    fn shown(&self, report: &Report) -> Result<String> {
        match (self.output, &self.pod, report.pods.first()) {
            (Format::Table, Some(_), Some(pod)) => Ok(text::detail(report, pod)),
            (Format::Table, ..) => Ok(text::table(report)),
            (format, ..) => document(report, format),
        }
    }

    /// As one of many: documents of YAML need a line in between.
    fn block(&self, text: &str) -> String {
        match self.output {
            Format::Yaml => format!("---\n{}\n", text.trim_end()),
            Format::Table | Format::Json => format!("{}\n", text.trim_end()),
        }
    }
}

fn pinned(state_dir: &Path) -> Result<Pinned> {
    let view = View::open(state_dir)?;
    let pods = view.as_ref().map_or(Ok(Vec::new()), View::pods)?;
    let users = pods.iter().map(|pod| (pod.netns_cookie, Users::of(pod)));
    Ok(Pinned {
        users: users.collect(),
        pods,
        unrecorded: View::unrecorded(view.as_ref(), state_dir)?,
    })
}
