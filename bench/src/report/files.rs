//! JSON with everything, CSV with the figures.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{LeftOut, Parameters, Report};
use crate::figure::figures;
use crate::machine::Machine;
use crate::sample::{Better, Sample, Variant};
use crate::stats::Summary;

/// What is in the JSON file.
#[derive(Serialize, Deserialize)]
struct Json<'a> {
    machine: Cow<'a, Machine>,
    parameters: Cow<'a, Parameters>,
    samples: Cow<'a, [Sample]>,
    left_out: Cow<'a, [LeftOut]>,
}

/// A line of the CSV file.
#[derive(Serialize)]
struct Line<'a> {
    measurement: &'a str,
    setting: &'a str,
    variant: Variant,
    unit: &'a str,
    better: Better,
    samples: usize,
    median: f64,
    q1: f64,
    q3: f64,
    to_direct: Option<f64>,
    to_iptables_legacy: Option<f64>,
    to_empty_lists: Option<f64>,
}

/// Writes `bench.json` and `bench.csv`.
///
/// # Errors
/// Where a file can't be written.
pub fn write(report: &Report, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let path = directory.join("bench.json");
    let writing = || format!("writing {}", path.display());
    let json = Json {
        machine: Cow::Borrowed(&report.machine),
        parameters: Cow::Borrowed(&report.parameters),
        samples: Cow::Borrowed(&report.samples),
        left_out: Cow::Borrowed(&report.left_out),
    };
    let text = serde_json::to_string_pretty(&json).with_context(writing)?;
    fs::write(&path, text).with_context(writing)?;
    let path = directory.join("bench.csv");
    let writing = || format!("writing {}", path.display());
    let mut csv = csv::Writer::from_path(&path).with_context(writing)?;
    let median = |it: Option<Summary>| it.map(|it| it.median);
    for figure in &report.figures {
        csv.serialize(Line {
            measurement: &figure.measurement,
            setting: &figure.setting,
            variant: figure.variant,
            unit: &figure.unit,
            better: figure.better,
            samples: figure.summary.count,
            median: figure.summary.median,
            q1: figure.summary.q1,
            q3: figure.summary.q3,
            to_direct: median(figure.to_direct),
            to_iptables_legacy: median(figure.to_legacy),
            to_empty_lists: median(figure.to_empty),
        })
        .with_context(writing)?;
    }
    csv.flush().with_context(writing)
}

/// Reads back what [`write()`] wrote.
///
/// # Errors
/// Where it can't be read.
pub fn read(path: &Path) -> Result<Report> {
    let reading = || format!("reading {}", path.display());
    let text = fs::read_to_string(path).with_context(reading)?;
    let json: Json<'_> = serde_json::from_str(&text).with_context(reading)?;
    Ok(Report {
        machine: json.machine.into_owned(),
        parameters: json.parameters.into_owned(),
        figures: figures(&json.samples),
        samples: json.samples.into_owned(),
        left_out: json.left_out.into_owned(),
    })
}
