//! What libFuzzer says of a run.

/// One run of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    executions: u64,
    /// Places in the code that the seeds reached, and all inputs in the end.
    covered: Option<(u64, u64)>,
    /// The most memory at once, in megabytes.
    memory: u64,
    /// What ended it before its time.
    failure: Option<String>,
}

impl Log {
    /// The columns of [`Self::row`].
    pub const HEAD: &str = "target          executions   covered  new coverage  memory  crashes";

    /// Reads the log of a run, and whether it ended well.
    pub fn parse(text: &str, ended_well: bool) -> Self {
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse().ok())
        };
        let mut coverage = text.lines().filter_map(covered);
        let first = coverage.next();
        let failure = (!ended_well).then(|| why(text));
        Self {
            executions: number("stat::number_of_executed_units:").unwrap_or_default(),
            covered: first.map(|first| (first, coverage.next_back().unwrap_or(first))),
            memory: number("stat::peak_rss_mb:").unwrap_or_default(),
            failure,
        }
    }

    /// Whether an input failed.
    pub const fn failed(&self) -> bool {
        self.failure.is_some()
    }

    /// What failed, in libFuzzer's words.
    pub fn why(&self) -> &str {
        self.failure.as_deref().unwrap_or_default()
    }

    /// A line of the table.
    pub fn row(&self, target: &str) -> String {
        let (first, last) = self.covered.unwrap_or_default();
        let new = last.saturating_sub(first);
        format!(
            "{target:<14} {:>11} {last:>9} {:>13} {:>4} MB  {:>7}",
            self.executions,
            format!("+{new}"),
            self.memory,
            u8::from(self.failed())
        )
    }
}

/// `#125 INITED cov: 3012 ft: 5811 corp: 21/4021b exec/s: 0 rss: 58Mb`, with a tab behind the number.
fn covered(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix('#')?.split_once(" cov: ")?;
    let number = rest.split_whitespace().next()?;
    number.parse().ok()
}

/// The panic or, where there was none, what libFuzzer says of it.
fn why(text: &str) -> String {
    let mut lines = text.lines();
    let panic = lines.find(|line| line.contains("panicked at"));
    let said = panic.and_then(|place| Some(format!("{place} {}", lines.next()?)));
    let summary = || {
        let mut lines = text.lines().rev();
        lines.find(|line| line.starts_with("SUMMARY:") || line.contains("ERROR:"))
    };
    said.or_else(|| summary().map(str::to_owned))
        .unwrap_or_else(|| "it did not end well, and did not say why".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "INFO: seed corpus: files: 21\n\
        #22\tINITED cov: 3012 ft: 5811 corp: 21/4021b exec/s: 0 rss: 58Mb\n\
        #4096\tNEW    cov: 3020 ft: 5900 corp: 22/4030b lim: 4 exec/s: 9 rss: 60Mb L: 3/9 MS: 1 A-\n\
        #9000\tDONE   cov: 3025 ft: 6000 corp: 23/4040b lim: 4 exec/s: 9 rss: 61Mb\n\
        stat::number_of_executed_units: 9000\nstat::peak_rss_mb:              61\n";

    #[test]
    fn run_that_found_nothing_is_a_row_of_numbers() {
        let log = Log::parse(GOOD, true);
        assert!(!log.failed());
        let row: Vec<String> = log.row("x").split_whitespace().map(Into::into).collect();
        assert_eq!(row, ["x", "9000", "3025", "+13", "61", "MB", "0"]);
        assert_eq!(log.row("x").len(), Log::HEAD.len());
    }

    #[test]
    fn panic_and_timeout_are_told_from_the_log() {
        let panic =
            format!("{GOOD}thread 'x' panicked at src/a.rs:1:2:\nno place\n==1== ERROR: y\n");
        let log = Log::parse(&panic, false);
        assert!(log.failed());
        assert_eq!(log.why(), "thread 'x' panicked at src/a.rs:1:2: no place");
        let timeout =
            "==1== ERROR: libFuzzer: timeout after 10 seconds\nSUMMARY: libFuzzer: timeout\n";
        assert_eq!(
            Log::parse(timeout, false).why(),
            "SUMMARY: libFuzzer: timeout"
        );
    }
}
