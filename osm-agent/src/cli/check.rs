//! `osm-agent check`

use std::{fmt::Write as _, path::PathBuf};

use clap::{Args, ValueEnum};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use serde::Serialize;

use super::out::say;

use crate::{
    check::{self, Feature, Mode, Report},
    error::{Error, Result},
};

/// The version of the JSON.
const SCHEMA: u32 = 1;

/// Loads and attaches everything that interception takes, in a cgroup and in namespaces that are
/// made for it and gone afterwards. No pod is touched.
#[derive(Args, Debug)]
#[command(after_help = "Exit status: 0 if some mode works, else 1.

Examples:
  osm-agent check
  osm-agent check -o json | jq -r .mode")]
pub struct Check {
    /// Directory of the cgroup v2 hierarchy to make a cgroup in [default: its root, from
    /// /proc/mounts]
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// How to print what was found
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

impl Check {
    pub(super) fn run(self) -> Result<()> {
        // Told to end, it ends when what it made is gone again.
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let report = check::probe(self.cgroup_root.as_deref());
        if let Ok(before) = before {
            // Else the process ends soon, whatever it is told.
            let _ = before.thread_set_mask();
        }
        match self.output {
            Format::Table => print!("{}", table(&report)),
            Format::Json => say(format_args!("{}", json(&report))),
        }
        if report.mode.works() {
            return Ok(());
        }
        let advice = match report.mode {
            Mode::Unknown => "; run as root with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN",
            _ => {
                "; see the table for what is missing: Linux 5.15 with CONFIG_BPF_SYSCALL and \
                 CONFIG_CGROUP_BPF, or iptables with a table nat"
            }
        };
        Err(Error::System {
            tried: "say that a pod can be intercepted here".into(),
            source: report.reason.into(),
            advice: advice.into(),
        })
    }
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    let width = report.features.iter().map(|it| it.name.len()).max();
    let width = width.unwrap_or_default().max("FEATURE".len());
    let mut line = |name: &str, status: &str, detail: &str| {
        let line = format!("{name:width$}  {status:7}  {detail}");
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", line.trim_end());
    };
    line("FEATURE", "STATUS", "DETAIL");
    for Feature {
        name,
        status,
        detail,
        ..
    } in &report.features
    {
        line(name, status.name(), detail);
    }
    let _ = writeln!(text, "\nmode auto takes: {}", report.mode.name());
    let _ = writeln!(text, "{}.", report.reason);
    text
}

fn json(report: &Report) -> String {
    #[derive(Serialize)]
    struct Json<'a> {
        version: u32,
        mode: &'a str,
        backend: Option<&'a str>,
        reason: &'a str,
        features: &'a [Feature],
    }
    let json = Json {
        version: SCHEMA,
        mode: report.mode.name(),
        backend: match report.mode {
            Mode::Iptables(backend) => Some(backend.name()),
            Mode::Ebpf | Mode::None | Mode::Unknown => None,
        },
        reason: &report.reason,
        features: &report.features,
    };
    // It holds texts and a number: nothing in it can fail to be JSON.
    serde_json::to_string_pretty(&json).unwrap_or_default()
}
