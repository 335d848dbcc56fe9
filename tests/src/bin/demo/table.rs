//! The table on standard output: fits 100 columns, and is coloured on a terminal only.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

const WIDTH: usize = 100;

/// Widths of scenario, what was dialled, what the sidecar saw, who answered; the verdict is last.
const COLUMNS: [usize; 4] = [20, 16, 40, 7];

const HEADINGS: [&str; 4] = [
    "scenario",
    "dialled",
    "sidecar saw peer → original destination",
    "answer",
];

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "1;31";

/// Prints rows as they come, and counts.
#[derive(Debug)]
pub struct Table {
    colour: bool,
    rows: usize,
    wrong: usize,
}

impl Table {
    /// Nothing is printed yet.
    pub fn new() -> Self {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
            rows: 0,
            wrong: 0,
        }
    }

    /// A line of text.
    ///
    /// # Errors
    /// Where nobody reads any more, as with all of these.
    pub fn say(&self, text: &str) -> io::Result<()> {
        self.print(&[text.to_owned()])
    }

    /// The headings of the columns.
    ///
    /// # Errors
    /// As [`Table::say`].
    pub fn headings(&self) -> io::Result<()> {
        let line = format!("  {}verdict", cells(HEADINGS));
        let rule = "─".repeat(WIDTH);
        self.print(&[
            String::new(),
            self.paint(BOLD, &line),
            self.paint(DIM, &rule),
        ])
    }

    /// Begins a group of rows: what happened, and the details of that.
    ///
    /// # Errors
    /// As [`Table::say`].
    pub fn group(&self, title: &str, details: &[String]) -> io::Result<()> {
        let details = details
            .iter()
            .map(|it| self.paint(DIM, &format!("    {it}")));
        let lines = [String::new(), self.paint(BOLD, title)];
        self.print(&lines.into_iter().chain(details).collect::<Vec<_>>())
    }

    /// A row, with everything that is wrong with it.
    ///
    /// # Errors
    /// As [`Table::say`].
    pub fn row(&mut self, columns: [&str; 4], problems: &[String]) -> io::Result<()> {
        self.rows += 1;
        let verdict = if problems.is_empty() {
            self.paint(GREEN, "ok")
        } else {
            self.wrong += 1;
            self.paint(RED, "WRONG")
        };
        let row = format!("  {}{verdict}", cells(columns));
        let problems = problems
            .iter()
            .map(|it| self.paint(RED, &format!("      ↳ {it}")));
        self.print(&[row].into_iter().chain(problems).collect::<Vec<_>>())
    }

    /// The last line, with the means of interception. Was every row right?
    ///
    /// # Errors
    /// As [`Table::say`].
    pub fn finish(&self, by: impl fmt::Display) -> io::Result<bool> {
        let (rows, wrong) = (self.rows, self.wrong);
        let line = if wrong == 0 {
            self.paint(
                GREEN,
                &format!("All {rows} came out as they should, by {by}."),
            )
        } else {
            self.paint(RED, &format!("{wrong} of {rows} came out WRONG, by {by}."))
        };
        self.print(&[String::new(), line])?;
        Ok(wrong == 0)
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    #[expect(clippy::unused_self, reason = "what prints belongs to what is printed")]
    fn print(&self, lines: &[String]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        for line in lines {
            writeln!(stdout, "{line}")?;
        }
        stdout.flush()
    }
}

fn cells(texts: [&str; 4]) -> String {
    let cells = texts.into_iter().zip(COLUMNS);
    let cells = cells.map(|(text, width)| format!("{text:width$}  "));
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widest_row_fits() {
        let widest = [
            "excl. inbound port",
            "198.51.100.10:80",
            "15001 10.77.1.2:65535 → 198.51.100.10:80",
            "refused",
        ];
        for row in [HEADINGS, widest] {
            let line = format!("  {}verdict", cells(row));
            assert_eq!(line.chars().count(), WIDTH, "{line}");
        }
    }
}
