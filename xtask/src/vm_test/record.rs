//! What was measured, held against what is written down, or written down anew.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::console::{Console, Work};
use super::features::{self, Features};
use super::table::Row;
use crate::workspace::Workspace;

/// The table of features by kernel is on this page.
const PAGE: &str = "docs/kernels.md";

/// The verifier's work by kernel and program; `tests/tests/verifier_budget.rs` compares.
const BUDGET: &str = "tests/verifier-budget.json";

/// The suite that a wrong table is a failure of.
const SUITE: &str = "features";

/// A program's line in [`BUDGET`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    instructions: u64,
    stack: u64,
}

type Budget = BTreeMap<String, BTreeMap<String, Line>>;

/// Compares the features of all kernels that ran with the page, or writes both records.
///
/// # Errors
///
/// When a record can't be read or written.
pub fn settle(workspace: &Workspace, rows: &mut [Row], record: bool) -> Result<()> {
    let page = workspace.root().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    let mut table = features::parse(&text);
    let mut measured = Features::default();
    for row in rows.iter_mut() {
        let Ok(console) = &mut row.outcome else {
            continue;
        };
        match features::read(&console.features) {
            Ok(features) if record => {
                table.insert(row.series.clone(), features.clone());
                measured.insert(row.series.clone(), features);
            }
            Ok(features) => compare(&row.series, &features, &table, console),
            Err(error) => fail(
                console,
                format!("`osm-agent check` can't be read: {error:#}"),
            ),
        }
    }
    if !record {
        return Ok(());
    }
    if !measured.is_empty() {
        let text = features::replace(&text, &table).with_context(|| format!("writing {PAGE}"))?;
        fs::write(&page, text).with_context(|| format!("writing {}", page.display()))?;
    }
    write_budget(workspace, rows)
}

fn compare(
    series: &str,
    found: &BTreeMap<String, String>,
    table: &Features,
    console: &mut Console,
) {
    let Some(written) = table.get(series) else {
        return fail(
            console,
            format!("{PAGE} does not have it; write it with --record"),
        );
    };
    for (feature, found) in found {
        let written = written.get(feature).map_or("nothing", String::as_str);
        if found != written {
            let problem = format!("{feature} is {found}, {PAGE} says {written} (--record writes)");
            fail(console, problem);
        }
    }
}

fn fail(console: &mut Console, problem: String) {
    let results = console.suites.entry(SUITE.into()).or_default();
    results.counts.failed += 1;
    results.failed.push(problem);
}

fn write_budget(workspace: &Workspace, rows: &[Row]) -> Result<()> {
    let path = workspace.root().join(BUDGET);
    let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".into());
    let mut budget: Budget =
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    for row in rows {
        if let Ok(console) = &row.outcome {
            let lines = lines(&console.work);
            if !lines.is_empty() {
                budget.insert(row.series.clone(), lines);
            }
        }
    }
    let text = serde_json::to_string_pretty(&budget).context("writing the verifier's work")?;
    fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

/// Of what the kernel says nothing, there is no record.
fn lines(work: &BTreeMap<String, Work>) -> BTreeMap<String, Line> {
    let lines = work.iter().filter_map(|(program, work)| {
        let line = Line {
            instructions: work.instructions?,
            stack: work.stack,
        };
        Some((program.clone(), line))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_are_not_those_on_the_page_fail() {
        let of = |status: &str| BTreeMap::from([("btf".to_owned(), status.to_owned())]);
        let table = Features::from([("6.1".to_owned(), of("yes"))]);
        for (series, found, expected) in [("6.1", "yes", 0), ("6.1", "no", 1), ("7.3", "yes", 1)] {
            let mut console = Console::default();
            compare(series, &of(found), &table, &mut console);
            let failed = console
                .suites
                .values()
                .map(|suite| suite.counts.failed)
                .sum::<u64>();
            assert_eq!(failed, expected, "{series} {found}");
        }
    }
}
