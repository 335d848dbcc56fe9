//! What the kernel counts of pods: read from what is pinned as somebody asks, beside the loop and without
//! its lock.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use osm_ebpf_common::maps::MAX_PODS;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use tracing::{info, warn};

use super::shown::Shown;
use crate::ebpf::view::{Lists, ProgramRuns, Tally, View};

/// How many policies have series of their own, the longest ones.
const MAX_POLICIES_SHOWN: usize = 64;

/// Reads a state directory.
#[derive(Debug)]
pub(super) struct OfTheKernel {
    state_dir: PathBuf,
    earlier: Mutex<Earlier>,
}

/// What earlier readings left.
#[derive(Debug, Default)]
struct Earlier {
    shown: Shown,
    /// A list's length is that of its digest: it is counted once.
    lists: Vec<Lists>,
    /// How many readings failed, wholly or in part.
    failed: u64,
    /// What the last one failed for: it is said when it changes.
    failure: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodLabels {
    pod_namespace: String,
    pod_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    pod_namespace: String,
    pod_name: String,
    verdict: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    pod_namespace: String,
    pod_name: String,
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListLabels {
    policy: String,
    list: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProgramLabel {
    program: &'static str,
}

impl OfTheKernel {
    pub(super) fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            earlier: Mutex::default(),
        }
    }
}

impl Collector for OfTheKernel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        {
            let help = "How many pods one node has room for";
            let room =
                encoder.encode_descriptor("osm_pods_limit", help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::from(MAX_PODS)).encode(room)?;
        }
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = Failures::default();
        if let Some(view) = failures.unless(View::open(&self.state_dir)).flatten() {
            if let Some(tallies) = failures.unless(view.tallies()) {
                let tallies = earlier.shown.of(tallies);
                verdicts(&mut encoder, &tallies)?;
                listeners(&mut encoder, &tallies)?;
            }
            if let Some(lists) = failures.unless(view.lists(&earlier.lists)) {
                earlier.lists.clone_from(&lists);
                policies(&mut encoder, lists)?;
            }
            if let Some(runs) = failures.unless(view.program_runs()) {
                program_runs(&mut encoder, &runs)?;
            }
        }
        earlier.note(failures);
        let help = "Readings of what the kernel counts that failed: series are missing";
        let name = "osm_scrape_errors";
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(earlier.failed).encode(metric)
    }
}

impl Earlier {
    fn note(&mut self, failures: Failures) {
        self.failed += u64::from(failures.0.is_some());
        if self.failure != failures.0 {
            if let Some(why) = &failures.0 {
                warn!("not all of the metrics can be read: {why}");
            } else {
                info!("all of the metrics can be read again");
            }
            self.failure = failures.0;
        }
    }
}

/// The first thing that failed of one reading, in words.
#[derive(Debug, Default)]
struct Failures(Option<String>);

impl Failures {
    fn unless<T>(&mut self, read: crate::error::Result<T>) -> Option<T> {
        read.map_err(|error| self.0.get_or_insert_with(|| error.to_string()))
            .ok()
    }
}

fn verdicts(encoder: &mut DescriptorEncoder<'_>, tallies: &[Tally]) -> Result<(), fmt::Error> {
    let help = "Connections of intercepted pods, by what became of them and why";
    let mut metric = encoder.encode_descriptor("osm_verdicts", help, None, MetricType::Counter)?;
    for tally in tallies {
        let PodLabels {
            pod_namespace,
            pod_name,
        } = PodLabels::of(&tally.name);
        for (reason, count) in tally.counters.iter().filter(|(_, count)| *count > 0) {
            let labels = VerdictLabels {
                pod_namespace: pod_namespace.clone(),
                pod_name: pod_name.clone(),
                verdict: reason.kind().name(),
                reason: reason.name(),
            };
            ConstCounter::new(*count).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn listeners(encoder: &mut DescriptorEncoder<'_>, tallies: &[Tally]) -> Result<(), fmt::Error> {
    let help =
        "Listening sockets of the sidecar that are known; without one, connections are refused";
    let name = "osm_sidecar_listeners";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for tally in tallies {
        let pod = PodLabels::of(&tally.name);
        let both = [
            ("outbound", tally.listeners.outbound),
            ("inbound", tally.listeners.inbound),
        ];
        for (direction, count) in both {
            let labels = ListenerLabels {
                pod_namespace: pod.pod_namespace.clone(),
                pod_name: pod.pod_name.clone(),
                direction,
            };
            ConstGauge::new(whole(count)).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn policies(encoder: &mut DescriptorEncoder<'_>, mut lists: Vec<Lists>) -> Result<(), fmt::Error> {
    lists.sort_by_key(|lists| std::cmp::Reverse(lists.ranges + lists.ports));
    lists.truncate(MAX_POLICIES_SHOWN);
    let help = "How long the lists of a policy are, by the beginning of its digest";
    let mut metric =
        encoder.encode_descriptor("osm_policy_items", help, None, MetricType::Gauge)?;
    for Lists {
        policy,
        ranges,
        ports,
    } in lists
    {
        for (list, count) in [("ranges", ranges), ("ports", ports)] {
            let policy = policy.clone();
            let labels = ListLabels { policy, list };
            ConstGauge::new(whole(count)).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Left out where the kernel does not count it: `sysctl kernel.bpf_stats_enabled=1` has it do so.
fn program_runs(
    encoder: &mut DescriptorEncoder<'_>,
    runs: &BTreeMap<&'static str, ProgramRuns>,
) -> Result<(), fmt::Error> {
    if runs.is_empty() {
        return Ok(());
    }
    {
        let help = "How often a BPF program has run, while the kernel counted that";
        let mut metric =
            encoder.encode_descriptor("osm_bpf_runs", help, None, MetricType::Counter)?;
        for (program, it) in runs {
            let labels = ProgramLabel { program };
            ConstCounter::new(it.runs).encode(metric.encode_family(&labels)?)?;
        }
    }
    let help = "For how long a BPF program has run, while the kernel counted that, in seconds";
    let unit = Some(&Unit::Seconds);
    let mut metric = encoder.encode_descriptor("osm_bpf_run", help, unit, MetricType::Counter)?;
    for (program, it) in runs {
        let labels = ProgramLabel { program };
        #[expect(clippy::cast_precision_loss, reason = "2^53 ns are a hundred days")]
        let seconds = it.nanoseconds as f64 / 1e9;
        ConstCounter::new(seconds).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

impl PodLabels {
    /// Of `namespace/name`, as the sources call pods.
    fn of(name: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        Self {
            pod_namespace: namespace.into(),
            pod_name: name.into(),
        }
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
