//! The table at the end: kernel × suite.

use std::fmt::Write as _;

use super::console::{Console, Results};

/// What became of one kernel.
pub struct Row {
    /// Its series, as it is written down.
    pub series: String,
    /// The same as it is shown.
    pub label: String,
    /// The name of its version as it is shown, where it could be had.
    pub version: Option<String>,
    /// What its machine said, or why there was none.
    pub outcome: Result<Console, Missing>,
}

/// Why there is no result.
pub enum Missing {
    /// The kernel can't be had: the others count.
    Skipped(String),
    /// It did not work.
    Failed(String),
}

/// The table for these suites, with the reasons of what was left out below it, and the names of what failed.
pub fn render(rows: &[Row], suites: &[&str]) -> String {
    let mut lines = vec![
        [&["kernel"], suites]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect(),
    ];
    for row in rows {
        let name = row.version.clone().unwrap_or_else(|| row.label.clone());
        let mut line: Vec<String> = vec![name];
        match &row.outcome {
            Ok(console) => line.extend(suites.iter().map(|suite| cell(console.suites.get(*suite)))),
            Err(Missing::Skipped(_)) => line.push("skipped".into()),
            Err(Missing::Failed(_)) => line.push("FAILED".into()),
        }
        lines.push(line);
    }
    let mut text = aligned(&lines);
    for row in rows {
        explain(row, &mut text);
    }
    text
}

/// Whether all is well: something ran, and nothing failed.
pub fn is_green(rows: &[Row]) -> bool {
    let failed = |row: &Row| match &row.outcome {
        Ok(console) => console.suites.values().any(|suite| suite.counts.failed > 0),
        Err(Missing::Failed(_)) => true,
        Err(Missing::Skipped(_)) => false,
    };
    let ran = |row: &Row| {
        let console = row.outcome.as_ref().ok();
        console.is_some_and(|it| it.suites.values().any(|suite| suite.counts.passed > 0))
    };
    rows.iter().any(ran) && !rows.iter().any(failed)
}

/// Passed, failed, skipped.
fn cell(results: Option<&Results>) -> String {
    let Some(results) = results else {
        return "–".into();
    };
    let mut text = format!("{} passed", results.counts.passed);
    for (number, what) in [
        (results.counts.failed, "FAILED"),
        (results.skips(), "skipped"),
    ] {
        if number > 0 {
            // Writing to a string can't fail.
            let _ = write!(text, ", {number} {what}");
        }
    }
    text
}

fn explain(row: &Row, text: &mut String) {
    let label = &row.label;
    let console = match &row.outcome {
        Ok(console) => console,
        Err(Missing::Skipped(why) | Missing::Failed(why)) => {
            let _ = writeln!(text, "{label}: {why}");
            return;
        }
    };
    for (suite, results) in &console.suites {
        for (reason, number) in &results.skipped {
            let _ = writeln!(
                text,
                "{label}, {suite}: {number} skipped, they need {reason}"
            );
        }
        for failed in &results.failed {
            let _ = writeln!(text, "{label}, {suite}: FAILED {failed}");
        }
    }
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(series: &str, said: &str) -> Row {
        let mut console = Console::default();
        for line in said.lines() {
            let _ = console.line(line);
        }
        Row {
            series: series.into(),
            label: format!("{series} (arm64)"),
            version: Some(format!("{series}.1")),
            outcome: Ok(console),
        }
    }

    fn without(series: &str, why: Missing) -> Row {
        Row {
            series: series.into(),
            label: series.into(),
            version: None,
            outcome: Err(why),
        }
    }

    const GOOD: &str = "@@ begin a x\nskipped: t needs MPTCP\n\
        test result: ok. 3 passed; 0 failed; 0 ignored\n@@ end a x 0";
    const BAD: &str = "@@ begin bee y\ntest u ... FAILED\n\
        test result: FAILED. 0 passed; 1 failed; 0 ignored\n@@ end bee y 101";

    #[test]
    fn table_says_what_became_of_everything() {
        let rows = [
            row("6.1", GOOD),
            row("5.10", BAD),
            without("9.9", Missing::Skipped("Debian has none".into())),
        ];
        let expected = "\
kernel  a                    bee
6.1.1   2 passed, 1 skipped  –
5.10.1  –                    0 passed, 1 FAILED
9.9     skipped
6.1 (arm64), a: 1 skipped, they need MPTCP
5.10 (arm64), bee: FAILED y: u
9.9: Debian has none
";
        assert_eq!(render(&rows, &["a", "bee"]), expected);
    }

    #[test]
    fn run_is_green_when_something_ran_and_nothing_failed() {
        let skipped = || without("9.9", Missing::Skipped(String::new()));
        let failed = || without("9.9", Missing::Failed(String::new()));
        for (rows, expected) in [
            (vec![row("6.1", GOOD)], true),
            (vec![row("6.1", GOOD), skipped()], true),
            (vec![skipped()], false),
            (vec![row("6.1", GOOD), failed()], false),
            (vec![row("6.1", GOOD), row("5.10", BAD)], false),
            (vec![row("6.1", "")], false),
            (vec![], false),
        ] {
            assert_eq!(is_green(&rows), expected, "{}", render(&rows, &["a"]));
        }
    }
}
