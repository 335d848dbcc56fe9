//! The log, on standard error: one record a line, for people or for programs.

use std::io::{self, Write};

use tracing_subscriber::{
    Layer as _, Registry, filter::Targets, fmt, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// How a record looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people, and for journald.
    Text,
    /// One JSON object each.
    Json,
}

/// Starts logging for this process, what `directives` let through: levels, and levels of
/// modules, such as `info,kube=debug`. Where logging was started already, that stays.
pub fn start(format: Format, directives: Targets) {
    let stderr = fmt::layer().with_writer(|| Lines(io::stderr()));
    let stderr = match format {
        Format::Text => stderr
            .with_target(false)
            .with_ansi(console::colors_enabled_stderr())
            .compact()
            .boxed(),
        Format::Json => stderr.json().flatten_event(true).boxed(),
    };
    // It fails where there is a log already, and nowhere else.
    let _ = Registry::default().with(stderr).with(directives).try_init();
}

/// Keeps a record on one line, whatever texts of others are in it. Never fails: interception
/// does not depend on who reads the log.
struct Lines<W>(W);

impl<W: Write> Write for Lines<W> {
    /// Takes one record.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let line = record.strip_suffix(b"\n").unwrap_or(record);
        let _ = if line.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            self.0.write_all(&on_one_line(line))
        } else {
            self.0.write_all(record)
        };
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

fn on_one_line(text: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(text.len() + 8);
    for byte in text {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            byte => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn record_with_line_feeds_stays_on_one_line() {
        let mut out = Vec::new();
        let mut lines = Lines(&mut out);
        lines.write_all(b"as it is\n").unwrap();
        lines
            .write_all(b"pod \"a\nERROR forged\r\" failed\n")
            .unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "as it is\npod \"a\\nERROR forged\\r\" failed\n");
    }

    #[test]
    fn record_that_nobody_reads_is_no_error() {
        let mut lines = Lines(Gone);
        lines.write_all(b"hello\n").unwrap();
        lines.flush().unwrap();
    }
}
