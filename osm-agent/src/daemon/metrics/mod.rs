//! What the agent counts, and how Prometheus reads it.
//!
//! Labels of what the agent does come from enums alone: the number of series is the same on every
//! node, however many pods there are. Every series is there from the start, so that a rate over a
//! first failure is no gap. What the kernel counts has series for each pod, [`MAX_PODS_SHOWN`] at most.

mod kernel;
mod process;
mod shown;

use std::{path::Path, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::{
    request::Outcome,
    status::{Means, Status},
};
use kernel::OfTheKernel;
use process::OfTheProcess;

pub use shown::{MAX_PODS_SHOWN, OTHER};

/// How [`Metrics::text`] is to be announced over HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What became of an enrolment that had something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enrolment {
    /// The pod is intercepted from now on.
    New,
    /// It goes by another policy from now on.
    Changed,
    /// What somebody had broken was mended.
    Repaired,
    /// It goes by the programs of this version from now on.
    Upgraded,
    /// It did not succeed.
    Failed,
}

/// What became of a withdrawal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// The pod is intercepted no longer.
    Done,
    /// It still is, or may be.
    Failed,
}

/// Which part of the configuration was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The mesh's.
    Mesh,
    /// A pod's annotations.
    Pod,
}

/// On which socket somebody asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// An init container, on the agent's socket.
    Init,
    /// The CNI plugin.
    Cni,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// What was asked for is in force.
    Done,
    /// It may not be, or can't be here.
    Refused,
    /// It was tried, and failed.
    Failed,
    /// What came was no request: too long, too slow, or not of the protocol.
    Invalid,
    /// The peer, or all together, asked too much.
    Limited,
}

impl Answered {
    /// None for what the loop answers, and counts itself.
    #[must_use]
    pub const fn of(outcome: Outcome) -> Option<Self> {
        Some(match outcome {
            Outcome::Answered | Outcome::Left => return None,
            Outcome::Late | Outcome::Stopping | Outcome::NotAccepted | Outcome::Vanished => {
                Self::Failed
            }
            Outcome::Invisible | Outcome::NoPod | Outcome::Forbidden => Self::Refused,
            Outcome::Full | Outcome::PodFull | Outcome::Flood | Outcome::PodFlood => Self::Limited,
            Outcome::Slow
            | Outcome::TooLong
            | Outcome::Incomplete
            | Outcome::Garbage
            | Outcome::OtherVersion => Self::Invalid,
        })
    }
}

/// A source of pods or configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A directory and a file.
    Files,
    /// The API server.
    Kubernetes,
}

/// All that is counted. Cheap to use from every thread.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pods: Family<StateLabel, Gauge>,
    enrolments: Family<EnrolmentLabels, Counter>,
    withdrawals: Family<OutcomeLabel, Counter>,
    drift: Family<MeansLabel, Counter>,
    passes: Counter,
    pass_duration: Histogram,
    config_errors: Family<WhatLabel, Counter>,
    requests: Family<RequestLabels, Counter>,
    source_errors: Family<SourceLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EnrolmentLabels {
    means: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MeansLabel {
    means: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatLabel {
    what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            pods: Family::default(),
            enrolments: Family::default(),
            withdrawals: Family::default(),
            drift: Family::default(),
            passes: Counter::default(),
            // From a millisecond to eight seconds: a pass over 250 pods takes half a second.
            pass_duration: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            config_errors: Family::default(),
            requests: Family::default(),
            source_errors: Family::default(),
        };
        metrics.start_at_zero();
        metrics.registered()
    }

    /// The same, with what the kernel counts of the pods in a state directory.
    #[must_use]
    pub fn of_node(state_dir: &Path) -> Self {
        let mut metrics = Self::new();
        let collector = OfTheKernel::new(state_dir.into());
        metrics.registry.register_collector(Box::new(collector));
        metrics
    }

    /// The pods as a pass found them.
    pub fn pods(&self, status: &Status) {
        let counts = status.counts();
        for (state, count) in counts.by_state() {
            let gauge = self.pods.get_or_create(&StateLabel { state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// An enrolment that had something to do, by these means.
    pub fn enrolled(&self, means: Means, outcome: Enrolment) {
        let labels = EnrolmentLabels {
            means: means.name(),
            outcome: outcome.name(),
        };
        self.enrolments.get_or_create(&labels).inc();
    }

    /// A withdrawal.
    pub fn withdrawn(&self, outcome: Withdrawal) {
        let outcome = outcome.name();
        self.withdrawals
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
    }

    /// So many faults were found in the kernel, and mended.
    pub fn drift(&self, means: Means, faults: usize) {
        let means = means.name();
        let faults = u64::try_from(faults).unwrap_or(u64::MAX);
        self.drift
            .get_or_create(&MeansLabel { means })
            .inc_by(faults);
    }

    /// A pass of the loop, and how long it took.
    pub fn pass(&self, took: Duration) {
        self.passes.inc();
        self.pass_duration.observe(took.as_secs_f64());
    }

    /// A configuration that was not taken: once for every change that is wrong.
    pub fn config_error(&self, part: Part) {
        let what = part.name();
        self.config_errors.get_or_create(&WhatLabel { what }).inc();
    }

    /// A request, answered or not.
    pub fn request(&self, asked: Asked, answered: Answered) {
        let labels = RequestLabels {
            kind: asked.name(),
            outcome: answered.name(),
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// A source that could not be read, once for every attempt.
    pub fn source_error(&self, source: SourceKind) {
        let source = source.name();
        self.source_errors
            .get_or_create(&SourceLabel { source })
            .inc();
    }

    /// The text that Prometheus reads; [`CONTENT_TYPE`] says which.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }

    fn start_at_zero(&self) {
        self.pods(&Status::default());
        for means in Means::ALL {
            self.drift(means, 0);
            for outcome in Enrolment::ALL {
                let (means, outcome) = (means.name(), outcome.name());
                let labels = EnrolmentLabels { means, outcome };
                drop(self.enrolments.get_or_create(&labels));
            }
        }
        for outcome in Withdrawal::ALL.map(Withdrawal::name) {
            drop(self.withdrawals.get_or_create(&OutcomeLabel { outcome }));
        }
        for what in Part::ALL.map(Part::name) {
            drop(self.config_errors.get_or_create(&WhatLabel { what }));
        }
        for kind in Asked::ALL.map(Asked::name) {
            for outcome in Answered::ALL.map(Answered::name) {
                let labels = RequestLabels { kind, outcome };
                drop(self.requests.get_or_create(&labels));
            }
        }
        for source in SourceKind::ALL.map(SourceKind::name) {
            drop(self.source_errors.get_or_create(&SourceLabel { source }));
        }
    }

    /// Names and help. The library adds `_total` to counters, the unit, and a full stop.
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register(
            "osm_pods",
            "Pods of this node that somebody wants in the mesh, by what became of them",
            self.pods.clone(),
        );
        registry.register(
            "osm_enrolments",
            "Enrolments of pods that had something to do",
            self.enrolments.clone(),
        );
        registry.register(
            "osm_withdrawals",
            "Withdrawals of pods",
            self.withdrawals.clone(),
        );
        registry.register(
            "osm_drift_repaired",
            "Faults that were found in the kernel's state of pods, and mended",
            self.drift.clone(),
        );
        registry.register(
            "osm_passes",
            "Comparisons of all that is wanted with all that is in the kernel",
            self.passes.clone(),
        );
        registry.register_with_unit(
            "osm_pass_duration",
            "How long a comparison took, and what it led to, in seconds",
            Unit::Seconds,
            self.pass_duration.clone(),
        );
        registry.register(
            "osm_config_errors",
            "Changes of configuration that were not taken, as they were wrong",
            self.config_errors.clone(),
        );
        registry.register(
            "osm_requests",
            "Requests on the agent's sockets",
            self.requests.clone(),
        );
        registry.register(
            "osm_source_errors",
            "Failed attempts to read a source of pods or configuration",
            self.source_errors.clone(),
        );
        registry.register(
            "osm_build",
            "The version of the agent",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_collector(Box::new(OfTheProcess));
        self
    }
}

/// The values of a label: all of them, and their names.
macro_rules! names {
    ($type:ident { $($variant:ident = $name:literal),+ }) => {
        impl $type {
            const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

names!(Enrolment { New = "new", Changed = "changed", Repaired = "repaired", Upgraded = "upgraded", Failed = "failed" });
names!(Withdrawal { Done = "done", Failed = "failed" });
names!(Part { Mesh = "mesh", Pod = "pod" });
names!(Asked { Init = "init", Cni = "cni" });
names!(Answered { Done = "done", Refused = "refused", Failed = "failed", Invalid = "invalid", Limited = "limited" });
names!(SourceKind { Files = "files", Kubernetes = "kubernetes" });
