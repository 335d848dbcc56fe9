//! What the kernel counts of pods: read from what is pinned as somebody asks, beside the loop and without
//! its lock.

use std::{fmt, path::PathBuf};

use osm_ebpf_common::{maps::MAX_PODS, reason::Reason};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use crate::{
    ebpf::view::{Lists, Tally, View},
    error::Result,
};

/// How many pods have series of their own; the others are summed up as [`OTHER`]. More than a kubelet
/// runs on a node.
pub const MAX_PODS_SHOWN: usize = 512;
/// What the pods are called that have no series of their own.
pub const OTHER: &str = "_other";
/// How many policies have series of their own, the longest ones.
const MAX_POLICIES_SHOWN: usize = 64;

/// Reads a state directory.
#[derive(Debug)]
pub(super) struct OfTheKernel {
    pub state_dir: PathBuf,
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

impl Collector for OfTheKernel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        {
            let help = "How many pods one node has room for";
            let room =
                encoder.encode_descriptor("osm_pods_limit", help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::from(MAX_PODS)).encode(room)?;
        }
        // What can't be read is left out; the loop says why, as it reads the same.
        let Ok(Some(view)) = View::open(&self.state_dir) else {
            return Ok(());
        };
        if let Ok(tallies) = view.tallies() {
            let tallies = bounded(tallies);
            verdicts(&mut encoder, &tallies)?;
            listeners(&mut encoder, &tallies)?;
        }
        if let Ok(lists) = view.lists() {
            policies(&mut encoder, lists)?;
        }
        runs(&mut encoder, &view)
    }
}

/// The first pods by name, and what the others are together.
fn bounded(mut tallies: Vec<Tally>) -> Vec<Tally> {
    if tallies.len() <= MAX_PODS_SHOWN {
        return tallies;
    }
    let others = tallies.split_off(MAX_PODS_SHOWN - 1);
    let mut sum = Tally {
        name: OTHER.into(),
        counters: Reason::ALL.iter().map(|reason| (*reason, 0)).collect(),
        listeners: others[0].listeners,
    };
    for other in &others {
        for ((_, sum), (_, count)) in sum.counters.iter_mut().zip(&other.counters) {
            *sum += count;
        }
        // Whether one of them has none is what matters.
        let (sum, of) = (&mut sum.listeners, other.listeners);
        sum.outbound = sum.outbound.min(of.outbound);
        sum.inbound = sum.inbound.min(of.inbound);
    }
    tallies.push(sum);
    tallies
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
fn runs(encoder: &mut DescriptorEncoder<'_>, view: &View) -> Result<(), fmt::Error> {
    let Ok(runs) = view.program_runs() else {
        return Ok(());
    };
    if runs.is_empty() {
        return Ok(());
    }
    {
        let help = "How often a BPF program has run, while the kernel counted that";
        let mut metric =
            encoder.encode_descriptor("osm_bpf_runs", help, None, MetricType::Counter)?;
        for (program, it) in &runs {
            let labels = ProgramLabel { program };
            ConstCounter::new(it.runs).encode(metric.encode_family(&labels)?)?;
        }
    }
    let help = "For how long a BPF program has run, while the kernel counted that, in seconds";
    let unit = Some(&Unit::Seconds);
    let mut metric = encoder.encode_descriptor("osm_bpf_run", help, unit, MetricType::Counter)?;
    for (program, it) in &runs {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ebpf::view::Listeners;

    fn tally(number: usize) -> Tally {
        Tally {
            name: format!("default/pod-{number:04}"),
            counters: Reason::ALL.iter().map(|reason| (*reason, 1)).collect(),
            listeners: Listeners {
                outbound: number % 2,
                inbound: 1,
            },
        }
    }

    #[test]
    fn pods_beyond_the_bound_are_summed_up() {
        for (pods, others) in [(0, 0), (MAX_PODS_SHOWN, 0), (MAX_PODS_SHOWN + 3, 4)] {
            let shown = bounded((0..pods).map(tally).collect());
            assert_eq!(shown.len(), pods.min(MAX_PODS_SHOWN));
            let total: u64 = shown.iter().map(|tally| tally.counters[0].1).sum();
            assert_eq!(total, pods as u64, "nothing is lost");
            let last = shown.last().filter(|tally| tally.name == OTHER);
            assert_eq!(last.map_or(0, |tally| tally.counters[0].1), others);
            let listens = last.map(|tally| tally.listeners);
            let wanted = Listeners {
                outbound: 0,
                inbound: 1,
            };
            assert_eq!(listens, last.map(|_| wanted), "one of them has none");
        }
    }
}
