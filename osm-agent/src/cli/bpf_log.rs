//! `--bpf-log`, of every command that loads the BPF programs for long.

use clap::Args;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::ebpf::{LogLevel, set_log_level};

/// From which level on the BPF programs log.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct BpfLog {
    /// From which level on the BPF programs log, into the log of `run` and of `attach --foreground`.
    /// Programs of another level are another version, to which the pod goes over without a gap
    #[arg(
        long,
        value_enum,
        value_name = "LEVEL",
        env = "OSM_BPF_LOG",
        default_value_t
    )]
    bpf_log: LogLevel,
}

impl BpfLog {
    /// Has the programs log, and their records let through. Before anything is opened.
    pub(super) fn start(self, let_through: Targets) -> Targets {
        set_log_level(self.bpf_log);
        let level = match self.bpf_log {
            LogLevel::Off => return let_through,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        };
        let_through.with_target("osm_ebpf", level)
    }
}
