//! Tables, for a terminal and for a page.

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_HORIZONTAL_ONLY};
use comfy_table::{CellAlignment, Table};

use super::names::title;
use super::number::{percent, ratio, short};
use super::{LeftOut, Report};
use crate::figure::Figure;
use crate::sample::{Better, Variant};
use crate::stats::Summary;

/// Where a table is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// On a terminal, within 100 columns.
    Terminal,
    /// In a page of Markdown.
    Markdown,
}

/// How many of the measurements that were left out for one reason are named.
const SHOWN: usize = 4;

/// A measurement, as it is shown.
#[derive(Clone, Debug)]
pub struct Section {
    /// The measurement.
    pub measurement: String,
    /// What is over the table.
    pub heading: String,
    /// Its figures.
    pub table: String,
}

/// A table of each measurement, under its name, and what was left out.
#[must_use]
pub fn tables(report: &Report) -> String {
    let mut text = String::new();
    for section in sections(report, Look::Terminal) {
        text.extend([&section.heading, "\n\n", &section.table, "\n\n"]);
    }
    text + &missing(&report.left_out, Look::Terminal)
}

/// The figures of each measurement.
#[must_use]
pub fn sections(report: &Report, look: Look) -> Vec<Section> {
    let figures = &report.figures;
    let measurements = figures.chunk_by(|a, b| a.measurement == b.measurement);
    let section = |figures: &[Figure]| Section {
        measurement: figures[0].measurement.clone(),
        heading: heading(&figures[0], look),
        table: table(figures, look),
    };
    measurements.map(section).collect()
}

/// What was left out, by reason.
#[must_use]
pub fn missing(left_out: &[LeftOut], look: Look) -> String {
    let mut reasons: Vec<(Variant, &str, Vec<String>)> = Vec::new();
    for it in left_out {
        let what = format!("{} {}", it.measurement, it.setting);
        let what = what.trim_end().to_owned();
        let is_same = |(variant, reason, _): &&mut (Variant, &str, _)| {
            *variant == it.variant && *reason == it.reason
        };
        match reasons.iter_mut().find(is_same) {
            Some((_, _, all)) => all.push(what),
            None => reasons.push((it.variant, &it.reason, vec![what])),
        }
    }
    let heading = match look {
        Look::Terminal => "LEFT OUT\n\n",
        Look::Markdown => "### Left out\n\n",
    };
    let lines = reasons.iter().map(|(variant, reason, all)| {
        let shown = all[..all.len().min(SHOWN)].join("; ");
        let more = match all.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("- {variant}: {reason} ({shown}{more})\n")
    });
    let lines: String = lines.collect();
    if lines.is_empty() {
        lines
    } else {
        heading.to_owned() + &lines
    }
}

fn heading(of: &Figure, look: Look) -> String {
    let better = match of.better {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    let name = title(&of.measurement);
    match look {
        Look::Terminal => format!("{name} ({}, {better})", of.unit),
        Look::Markdown => format!("### {name} ({}, {better})", of.unit),
    }
}

fn table(figures: &[Figure], look: Look) -> String {
    let mut table = Table::new();
    match look {
        Look::Terminal => {
            table.load_style(UTF8_HORIZONTAL_ONLY);
        }
        Look::Markdown => {
            table.load_style(ASCII_MARKDOWN);
        }
    }
    let variants: Vec<_> = Variant::ALL
        .into_iter()
        .filter(|variant| figures.iter().any(|it| it.variant == *variant))
        .collect();
    let names = variants.iter().map(Variant::to_string);
    table.set_header(std::iter::once(String::new()).chain(names));
    for column in 1..=variants.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for of_setting in figures.chunk_by(|a, b| a.setting == b.setting) {
        let rows = rows(of_setting, &variants);
        match look {
            Look::Terminal => table.add_row(stacked(&rows)),
            Look::Markdown => table.add_rows(rows),
        };
    }
    table.to_string()
}

/// Rows as one, which no line divides.
fn stacked(rows: &[Vec<String>]) -> Vec<String> {
    let columns = 0..rows.first().map_or(0, Vec::len);
    let stack = |column: usize| {
        let cells: Vec<&str> = rows.iter().map(|row| row[column].as_str()).collect();
        cells.join("\n")
    };
    columns.map(stack).collect()
}

/// The figures of a setting, and their ratios.
fn rows(figures: &[Figure], variants: &[Variant]) -> Vec<Vec<String>> {
    let row = |name: String, cell: &dyn Fn(&Figure) -> Option<String>| {
        let cells: Vec<_> = variants
            .iter()
            .map(|variant| {
                figures
                    .iter()
                    .find(|it| it.variant == *variant)
                    .and_then(cell)
            })
            .collect();
        let is_empty = cells.iter().all(Option::is_none);
        let cells = cells.into_iter().map(Option::unwrap_or_default);
        (!is_empty).then(|| std::iter::once(name).chain(cells).collect())
    };
    let value = |it: &Figure| {
        let spread = if it.summary.count > 1 {
            format!(" ±{}", percent(it.summary.spread() / 2.0))
        } else {
            String::new()
        };
        Some(short(it.summary.median) + &spread)
    };
    let show = |it: Option<Summary>| it.map(|it| ratio(it.median));
    [
        row(figures[0].setting.clone(), &value),
        row("÷ direct".to_owned(), &|it| show(it.to_direct)),
        row("÷ legacy".to_owned(), &|it| show(it.to_legacy)),
        row("÷ empty lists".to_owned(), &|it| show(it.to_empty)),
    ]
    .into_iter()
    .flatten()
    .collect()
}
