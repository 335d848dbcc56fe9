//! Which plots there are, and what is on them.

use super::axis::Scale;
use crate::figure::{Figure, length};
use crate::report::{count, title};
use crate::sample::{Better, Variant};
use crate::stats::Summary;

/// How points are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Bars, side by side, with their values above.
    Bars,
    /// Points, joined by lines.
    Lines,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Its file's name, without what says the format.
    pub name: String,
    /// The measurement that it is of; none if it is of several.
    pub measurement: Option<String>,
    /// What is over it.
    pub title: String,
    /// What the values are.
    pub y_label: String,
    /// What the categories are; empty where they say it themselves.
    pub x_label: String,
    /// From left to right.
    pub categories: Vec<String>,
    /// The values of each variant, by category.
    pub series: Vec<(Variant, Vec<Option<Summary>>)>,
    /// Bars or lines.
    pub form: Form,
    /// How values become heights.
    pub scale: Scale,
    /// A value with a line across the plot.
    pub reference: Option<f64>,
}

/// What the first plot compares, and what it calls it.
const OVERVIEW: [(&str, &str, &str); 6] = [
    (
        "connections-outbound",
        "blocking sockets",
        "connections, outbound",
    ),
    (
        "connections-inbound",
        "blocking sockets",
        "connections, inbound",
    ),
    ("requests", "1 × 64 B, one core", "requests, 1 × 64 B"),
    ("requests", "64 × 1 KiB, one core", "requests, 64 × 1 KiB"),
    ("streams", "1, one core", "bytes, 1 stream"),
    ("streams", "8, one core", "bytes, 8 streams"),
];

/// Every plot that the figures are enough for: an overview, and one of each measurement with several
/// settings.
#[must_use]
pub fn charts(figures: &[Figure]) -> Vec<Chart> {
    let mut charts: Vec<_> = overview(figures).into_iter().collect();
    for of_measurement in figures.chunk_by(|a, b| a.measurement == b.measurement) {
        charts.extend(lengths(of_measurement));
        charts.extend(placements(of_measurement));
    }
    charts
}

fn overview(figures: &[Figure]) -> Option<Chart> {
    let present: Vec<_> = OVERVIEW
        .iter()
        .filter(|(measurement, setting, _)| {
            figures
                .iter()
                .any(|it| it.measurement == *measurement && it.setting == *setting)
        })
        .collect();
    let (measurements, settings): (Vec<_>, Vec<_>) = present
        .iter()
        .map(|(measurement, setting, _)| (*measurement, *setting))
        .unzip();
    let pick = |variant: Variant| {
        let places = measurements.iter().zip(&settings);
        let found = places.map(|(measurement, setting)| {
            figures.iter().find(|it| {
                it.measurement == *measurement && it.setting == *setting && it.variant == variant
            })
        });
        found.map(|it| it?.to_direct).collect::<Vec<_>>()
    };
    let series = series(pick);
    if series.is_empty() {
        return None;
    }
    Some(Chart {
        name: "overview".to_owned(),
        measurement: None,
        title: "What is left of the rate without interception (more is better)".to_owned(),
        y_label: "ratio to direct, one core for both ends".to_owned(),
        x_label: String::new(),
        categories: present
            .iter()
            .map(|(_, _, name)| (*name).to_owned())
            .collect(),
        series,
        form: Form::Bars,
        scale: Scale::Linear,
        reference: Some(1.0),
    })
}

/// A plot for each thing that the settings are lengths of.
fn lengths(figures: &[Figure]) -> Vec<Chart> {
    let mut kinds: Vec<&str> = Vec::new();
    for (kind, _) in figures.iter().filter_map(|it| length(&it.setting)) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let charts = kinds.into_iter().filter_map(|kind| {
        let of_kind: Vec<_> = figures
            .iter()
            .filter(|it| length(&it.setting).is_some_and(|(it, _)| it == kind))
            .collect();
        let name =
            |setting: &str| length(setting).map_or_else(String::new, |(_, length)| count(length));
        let mut chart = by_setting(&of_kind, &name)?;
        chart.name = format!("{}-{kind}", chart.name);
        chart.title = format!("{}, by number of {kind}", chart.title);
        kind.clone_into(&mut chart.x_label);
        chart.form = Form::Lines;
        chart.scale = Scale::Log;
        Some(chart)
    });
    charts.collect()
}

/// A plot of other settings, or one for each placement on cores, where they say so.
fn placements(figures: &[Figure]) -> Vec<Chart> {
    let others: Vec<_> = figures
        .iter()
        .filter(|it| length(&it.setting).is_none())
        .collect();
    let placed = |it: &Figure| match it.setting.rsplit_once(", ") {
        Some((_, placement)) if placement.ends_with("core") || placement.ends_with("cores") => {
            placement.to_owned()
        }
        _ => String::new(),
    };
    let mut placements: Vec<String> = others.iter().map(|it| placed(it)).collect();
    placements.dedup();
    placements.sort();
    placements.dedup();
    let charts = placements.into_iter().filter_map(|placement| {
        let here: Vec<_> = others
            .iter()
            .copied()
            .filter(|it| placed(it) == placement)
            .collect();
        let behind = format!(", {placement}");
        let name = |setting: &str| setting.strip_suffix(&behind).unwrap_or(setting).to_owned();
        let mut chart = by_setting(&here, &name)?;
        if !placement.is_empty() {
            chart.name = format!("{}-{}", chart.name, placement.replace(' ', "-"));
            chart.title = format!("{}, {placement}", chart.title);
        }
        if chart.y_label.contains("µs") {
            chart.scale = Scale::Log;
        }
        Some(chart)
    });
    charts.collect()
}

/// Bars for each of several settings of one measurement.
fn by_setting(figures: &[&Figure], name: &dyn Fn(&str) -> String) -> Option<Chart> {
    let mut settings: Vec<&str> = figures.iter().map(|it| it.setting.as_str()).collect();
    settings.dedup();
    if settings.len() < 2 {
        return None;
    }
    let first = figures.first()?;
    let pick = |variant: Variant| {
        let found = settings.iter().map(|setting| {
            let is_here = |it: &&&Figure| it.setting == *setting && it.variant == variant;
            Some(figures.iter().find(is_here)?.summary)
        });
        found.collect::<Vec<_>>()
    };
    let better = match first.better {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    Some(Chart {
        name: first.measurement.clone(),
        measurement: Some(first.measurement.clone()),
        title: title(&first.measurement),
        y_label: format!("{} ({better})", first.unit),
        x_label: String::new(),
        categories: settings.iter().map(|setting| name(setting)).collect(),
        series: series(pick),
        form: Form::Bars,
        scale: Scale::Linear,
        reference: None,
    })
}

/// What each variant has, without those that have nothing.
fn series(pick: impl Fn(Variant) -> Vec<Option<Summary>>) -> Vec<(Variant, Vec<Option<Summary>>)> {
    let all = Variant::ALL
        .into_iter()
        .map(|variant| (variant, pick(variant)));
    all.filter(|(_, values)| values.iter().any(Option::is_some))
        .collect()
}
