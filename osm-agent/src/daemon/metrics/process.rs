//! What the kernel counts of this process.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

/// What the kernel knows of this process, read when it is asked for.
#[derive(Debug)]
pub(super) struct OfTheProcess;

impl Collector for OfTheProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // What can't be read is left out.
        let Ok(stat) = procfs::process::Process::myself().and_then(|process| process.stat()) else {
            return Ok(());
        };
        let mut gauge = |name: &str, help: &str, unit: &Unit, value: f64| {
            let encoder = encoder.encode_descriptor(name, help, Some(unit), MetricType::Gauge)?;
            ConstGauge::new(value).encode(encoder)
        };
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let rss = (stat.rss * procfs::page_size()) as f64;
        gauge(
            "process_resident_memory",
            "Resident memory of this process, in bytes",
            &Unit::Bytes,
            rss,
        )?;
        if let Ok(boot) = procfs::boot_time_secs() {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let (boot, ticks) = (boot as f64, stat.starttime as f64);
            #[expect(clippy::cast_precision_loss, reason = "a hundred or a thousand")]
            let started = boot + ticks / procfs::ticks_per_second() as f64;
            gauge(
                "process_start_time",
                "When this process started, in seconds since the epoch",
                &Unit::Seconds,
                started,
            )?;
        }
        Ok(())
    }
}
