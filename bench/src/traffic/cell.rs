//! One cell of a table: a job that one pod does in every round.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::lists::Lists;
use super::stage::{Cores, Outcome, Run, Stage};
use super::subject::Way;
use crate::peer::{Load, Sockets};
use crate::sample::{Better, Sample, Variant};
use crate::stats::{quantile, to_f64};

/// Which share of its time a cell runs unmeasured first.
const WARM_UP: u32 = 8;

/// How long a cell runs before the first round.
const FIRST: Duration = Duration::from_millis(40);

/// The shares of the highest rate at which latency is measured, in percent.
const RATES: [u8; 3] = [25, 50, 90];

/// The quantiles of latency.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Job {
    /// Connections per second, and processor time for each.
    Connections(Sockets),
    /// Latency of connect() at several shares of the rate that was just measured.
    Latency,
    /// Requests and responses per second.
    Requests {
        /// Connections.
        connections: usize,
        /// Bytes each way.
        size: usize,
    },
    /// Bytes per second, and processor time for them.
    Streams {
        /// Connections.
        connections: usize,
    },
}

/// A job that a pod does in every round.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The measurement that it belongs to.
    pub measurement: &'static str,
    /// The setting; what a job adds to it comes behind.
    pub setting: String,
    /// How the pod is intercepted.
    pub variant: Variant,
    /// By which lists.
    pub lists: Lists,
    /// Which way its connections go.
    pub way: Way,
    /// What to do.
    pub job: Job,
    /// Where.
    pub cores: Cores,
    /// How long to measure.
    pub slice: Duration,
}

impl Cell {
    /// Does the job once.
    ///
    /// # Errors
    /// Where a connection fails, or was not intercepted as it should have been.
    pub fn measure(&self, stage: &mut Stage) -> Result<Vec<Sample>> {
        let samples = match self.job {
            Job::Connections(sockets) => self.connections(stage, sockets),
            Job::Latency => self.latency(stage),
            Job::Requests { connections, size } => self.requests(stage, connections, size),
            Job::Streams { connections } => self.streams(stage, connections),
        };
        samples.with_context(|| {
            let (variant, measurement, setting) = (self.variant, self.measurement, &self.setting);
            format!("{measurement} {setting} by {variant}")
        })
    }

    /// Does a little of it, so that the first round finds everything as the others do.
    ///
    /// # Errors
    /// As [`Self::measure`].
    pub fn warm_up(&self, stage: &mut Stage) -> Result<()> {
        let little = match self.job {
            Job::Latency => Job::Connections(Sockets::Blocking),
            other => other,
        };
        let cell = Self {
            job: little,
            slice: FIRST,
            ..self.clone()
        };
        cell.measure(stage).map(drop)
    }

    fn run(&self, stage: &mut Stage, load: Load, slice: Duration) -> Result<Outcome> {
        let run = Run {
            way: self.way,
            load,
            cores: self.cores,
            warm_up: slice / WARM_UP,
            slice,
        };
        stage.measure(self.variant, self.lists, run)
    }

    fn connections(&self, stage: &mut Stage, sockets: Sockets) -> Result<Vec<Sample>> {
        let outcome = self.run(stage, Load::Connections(sockets), self.slice)?;
        let per_second = self.sample(rate(&outcome), "1/s", Better::Higher);
        // The sidecar's time is that of the unmeasured connections as well.
        let client = outcome.client.cpu_seconds / exact(outcome.client.count);
        let sidecar = outcome.sidecar.cpu_seconds / exact(outcome.sidecar.accepted);
        let mut each = self.sample((client + sidecar) * 1e6, "µs", Better::Lower);
        each.measurement += "-cpu";
        Ok(vec![per_second, each])
    }

    fn requests(&self, stage: &mut Stage, connections: usize, size: usize) -> Result<Vec<Sample>> {
        let outcome = self.run(stage, Load::Requests { connections, size }, self.slice)?;
        let sent = outcome.client.count * u64::try_from(2 * size)?;
        let per_second = self.sample(rate(&outcome), "1/s", Better::Higher);
        let shortcut = self.shortcut(sent, outcome.loopback_bytes)?;
        Ok([per_second].into_iter().chain(shortcut).collect())
    }

    fn latency(&self, stage: &mut Stage) -> Result<Vec<Sample>> {
        let highest =
            rate(&self.run(stage, Load::Connections(Sockets::Blocking), self.slice / 2)?);
        let mut samples = Vec::new();
        for percent in RATES {
            let rate = highest * f64::from(percent) / 100.0;
            let outcome = self.run(stage, Load::Paced { rate }, self.slice)?;
            for (name, q) in QUANTILES {
                let micros = quantile(&outcome.client.micros, q).context("no connection")?;
                let mut sample = self.sample(micros, "µs", Better::Lower);
                sample.setting = format!("{percent} % {name}");
                samples.push(sample);
            }
        }
        Ok(samples)
    }

    fn streams(&self, stage: &mut Stage, connections: usize) -> Result<Vec<Sample>> {
        let outcome = self.run(stage, Load::Streams { connections }, self.slice)?;
        let done = &outcome.client;
        let gigabytes = exact(done.count) / 1e9;
        let per_second = self.sample(gigabytes / done.seconds, "GB/s", Better::Higher);
        // The sidecar's time is that of the unmeasured bytes as well.
        let share = done.seconds / (done.seconds + (self.slice / WARM_UP).as_secs_f64());
        let cpu = done.cpu_seconds + outcome.sidecar.cpu_seconds * share;
        let mut per_gigabyte = self.sample(cpu / gigabytes, "s/GB", Better::Lower);
        per_gigabyte.measurement += "-cpu";
        let shortcut = self.shortcut(done.count, outcome.loopback_bytes)?;
        let samples = [per_second, per_gigabyte];
        Ok(samples.into_iter().chain(shortcut).collect())
    }

    /// How many of the bytes took the shortcut: none may without, and with it those of a connection go
    /// by TCP whose reader falls far behind, or whose ends did not join.
    fn shortcut(&self, sent: u64, loopback: u64) -> Result<Option<Sample>> {
        if self.variant != Variant::EbpfShortcut {
            ensure!(
                loopback >= sent,
                "of {sent} bytes, only {loopback} went over the loopback interface"
            );
            return Ok(None);
        }
        let around = 1.0 - exact(loopback) / exact(sent);
        let mut sample = self.sample(around.max(0.0) * 100.0, "%", Better::Higher);
        sample.measurement += "-shortcut";
        Ok(Some(sample))
    }

    fn sample(&self, value: f64, unit: &str, better: Better) -> Sample {
        Sample {
            measurement: self.measurement.to_owned(),
            setting: self.setting.clone(),
            variant: self.variant,
            unit: unit.to_owned(),
            value,
            better,
        }
    }
}

fn rate(outcome: &Outcome) -> f64 {
    exact(outcome.client.count) / outcome.client.seconds
}

fn exact(count: u64) -> f64 {
    to_f64(usize::try_from(count).unwrap_or(usize::MAX))
}
