//! `osm-agent monitor`

use std::time::Duration;

use clap::{
    Args, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use osm_ebpf_common::reason::{Kind, Reason};

use super::State;
use crate::{
    error::Result,
    monitor::{self, Options, filter::Filter, show},
};

/// See [`super::Command::Monitor`].
#[derive(Args, Debug)]
#[command(
    after_help = "A verdict's reason is told by its first word: redirect, pass, refuse (and lost-destination, which is
refused too). An outbound connection that is redirected while the sidecar does not listen has two lines:
redirect-outbound as it is dialled, refuse-no-outbound-listener as it arrives. FROM is the process that
dials, as this node numbers it, or the client's address; uid likewise, where a process of the pod dials.

Exit status: 0 told to end, or shown what was asked for; 1 if no pod is intercepted by eBPF, or another
monitor runs; 2 wrong usage.

Examples:
  osm-agent monitor
  osm-agent monitor --pod default/web-0 --verdict refuse
  osm-agent monitor --reason pass-excluded-range,pass-excluded-port --count 10
  osm-agent monitor --port 5432 --duration 60 -o json | jq -r .command"
)]
pub struct Monitor {
    /// Of this pod only
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Of these reasons only
    #[arg(long, value_name = "REASON", value_delimiter = ',', hide_possible_values = true, value_parser = reasons())]
    reason: Vec<Reason>,
    /// Of these verdicts only
    #[arg(long, value_enum, value_name = "VERDICT", value_delimiter = ',')]
    verdict: Vec<Verdict>,
    /// Dialled by this user only, as this node numbers it
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// To this port only
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// How to print it
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
    /// End after so many
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    duration: Option<u64>,
    #[command(flatten)]
    state: State,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Verdict {
    /// Went to the sidecar
    Redirect,
    /// Went to where it wanted
    Pass,
    /// Got nowhere
    Refuse,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs: one object a line
    Json,
}

impl Monitor {
    pub(super) fn run(self) -> Result<()> {
        let format = match self.output {
            Format::Table => show::Format::Table,
            Format::Json => show::Format::Json,
        };
        let kind = |verdict| match verdict {
            Verdict::Redirect => Kind::Redirect,
            Verdict::Pass => Kind::Pass,
            Verdict::Refuse => Kind::Refuse,
        };
        monitor::run(&Options {
            state_dir: self.state.state_dir,
            filter: Filter {
                pod: self.pod,
                reasons: self.reason,
                verdicts: self.verdict.into_iter().map(kind).collect(),
                user: self.uid,
                port: self.port,
            },
            format,
            count: self.count,
            duration: self.duration.map(Duration::from_secs),
        })
    }
}

fn reasons() -> impl TypedValueParser<Value = Reason> {
    let names = Reason::ALL.iter().map(|reason| reason.name());
    PossibleValuesParser::new(names).try_map(|name| {
        let found = Reason::ALL.iter().find(|reason| reason.name() == name);
        found.copied().ok_or("no such reason")
    })
}
