//! How things look that people read: within 100 columns, and with colours only on a terminal that
//! has not said `NO_COLOR`.

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

use super::out::plain;
use crate::error::{Result, Tried as _};

/// As wide as anything gets.
pub const WIDTH: u16 = 100;

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// The same, as YAML
    Yaml,
}

/// A document for programs: names whole, no colours.
///
/// # Errors
/// Where the value can't be written so.
pub fn document(value: &impl Serialize, format: Format) -> Result<String> {
    let tried = || "write what was found";
    match format {
        Format::Yaml => serde_saphyr::to_string(value).tried(tried),
        Format::Json | Format::Table => serde_json::to_string_pretty(value).tried(tried),
    }
}

/// A name of at most `width` characters: of a longer one, the middle is left out.
pub fn shortened(name: &str, width: usize) -> String {
    let name = plain(name);
    let length = name.chars().count();
    if length <= width {
        return name;
    }
    let kept = width.saturating_sub(1);
    let begin: String = name.chars().take(kept - kept / 2).collect();
    let end: String = name.chars().skip(length - kept / 2).collect();
    format!("{begin}…{end}")
}

/// A number in six characters, of all that connections come to.
pub fn short(number: u64) -> String {
    let (unit, name) = match number {
        0..100_000 => return number.to_string(),
        100_000..1_000_000 => (1_000, "k"),
        1_000_000..1_000_000_000 => (1_000_000, "M"),
        1_000_000_000..1_000_000_000_000 => (1_000_000_000, "G"),
        _ => (1_000_000_000_000, "T"),
    };
    let whole = number / unit;
    if whole < 100 {
        format!("{whole}.{}{name}", number % unit * 10 / unit)
    } else {
        format!("{whole}{name}")
    }
}

/// Columns without lines between them; a cell that is too long for the width is wrapped. The
/// columns of `numbers` are set right.
pub fn columns(rows: Vec<Vec<String>>, numbers: &[usize]) -> Vec<String> {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(index > 0), 1));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().into()).collect()
}

/// What is wrong.
pub fn bad(text: &str) -> String {
    console::style(text).red().bold().to_string()
}

/// What is as it has to be, and better known.
pub fn good(text: &str) -> String {
    console::style(text).green().to_string()
}

/// What may be overlooked.
pub fn faint(text: &str) -> String {
    console::style(text).dim().to_string()
}

/// What is over a table.
pub fn heading(text: &str) -> String {
    console::style(text).bold().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_name_loses_its_middle() {
        for (name, width, expected) in [
            ("default/web-0", 13, "default/web-0"),
            ("default/web-0", 12, "defaul…web-0"),
            ("default/web-0", 5, "de…-0"),
            ("a\u{1b}[2Jb", 9, "a [2Jb"),
        ] {
            assert_eq!(shortened(name, width), expected);
        }
    }

    #[test]
    fn great_number_is_rounded_down() {
        for (number, expected) in [
            (0, "0"),
            (99_999, "99999"),
            (123_456, "123k"),
            (1_999_999, "1.9M"),
            (250_000_000, "250M"),
            (18_446_744_073_709_551_615, "18446744T"),
        ] {
            assert_eq!(short(number), expected);
        }
    }

    #[test]
    fn table_stays_within_its_width() {
        let long = "word ".repeat(60);
        let lines = columns(vec![vec!["name".into(), long]], &[]);
        assert!(lines.len() > 2);
        for line in lines {
            assert!(line.chars().count() <= usize::from(WIDTH), "{line}");
        }
    }
}
