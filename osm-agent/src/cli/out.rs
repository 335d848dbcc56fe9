//! What is said, to whoever may listen: interception does not depend on it.

use std::{
    fmt,
    io::{self, Write as _},
};

/// Says a line on standard output. Where nobody reads it any more, it is lost.
pub fn say(line: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Warns on standard error, likewise.
pub fn warn(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "osm-agent: warning: {what}");
}

/// A text of others, on one line and without anything that a terminal would obey.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
