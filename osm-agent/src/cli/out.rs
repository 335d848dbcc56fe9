//! What is said, to whoever may listen: interception does not depend on it.

use std::{
    fmt,
    io::{self, Write as _},
};

use crate::error::{Result, Tried as _};

/// Says a line on standard output. Where nobody reads it any more, it is lost.
pub fn say(line: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Prints what a command was asked for. Who stops reading has read enough.
///
/// # Errors
/// Where it can't be written: the disk is full.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.tried(|| "write to standard output"),
    }
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
