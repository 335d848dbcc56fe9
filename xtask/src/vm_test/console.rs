//! What a machine says on its console, and what that means.

use std::collections::{BTreeMap, BTreeSet};

use crate::test::tally::{Counts, Tally};

/// What precedes the script's own lines.
const MARK: &str = "@@ ";
/// What tests print that are left out.
const SKIPPED: &str = "skipped: ";
/// What the test of the verifier's work prints for each program.
const BUDGET: &str = "budget: ";

/// What became of a suite.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// By libtest's count, less those that were left out.
    pub counts: Counts,
    /// Why tests were left out, and how many for each reason.
    pub skipped: BTreeMap<String, u64>,
    /// The names of tests that failed, and programs that ended badly.
    pub failed: Vec<String>,
}

impl Results {
    /// How many tests were left out.
    pub fn skips(&self) -> u64 {
        self.skipped.values().sum()
    }
}

/// What the verifier had to do for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Instructions that it processed; none where the kernel does not say.
    pub instructions: Option<u64>,
    /// Bytes of stack.
    pub stack: u64,
}

/// Takes lines as they come.
#[derive(Default)]
pub struct Console {
    /// By suite.
    pub suites: BTreeMap<String, Results>,
    /// What the agent's `check` printed.
    pub features: String,
    /// By program.
    pub work: BTreeMap<String, Work>,
    current: Option<Current>,
    reads_features: bool,
}

struct Current {
    suite: String,
    program: String,
    tally: Tally,
    /// Those that were said to be left out, each once, however often it says so.
    skipped: BTreeSet<(String, String)>,
}

impl Console {
    /// Takes a line; when a program has ended, what to tell of it.
    pub fn line(&mut self, line: &str) -> Option<String> {
        let line = line.trim_end();
        if let Some(mark) = line.strip_prefix(MARK) {
            return self.mark(mark);
        }
        if self.reads_features {
            self.features.push_str(line);
            self.features.push('\n');
        }
        let current = self.current.as_mut()?;
        current.tally.read(line.as_bytes());
        current.tally.read(b"\n");
        if let Some((test, reason)) = skipped(line) {
            current.skipped.insert((test.into(), reason.into()));
        } else if let Some((program, work)) = line.strip_prefix(BUDGET).and_then(work) {
            self.work.insert(program, work);
        } else if let Some(test) = failed(line) {
            let results = self.suites.entry(current.suite.clone()).or_default();
            results.failed.push(format!("{}: {test}", current.program));
        }
        None
    }

    fn mark(&mut self, mark: &str) -> Option<String> {
        match mark.split(' ').collect::<Vec<_>>()[..] {
            ["begin", suite, program] => {
                self.current = Some(Current {
                    suite: suite.into(),
                    program: program.into(),
                    tally: Tally::default(),
                    skipped: BTreeSet::new(),
                });
                None
            }
            ["end", _, _, code] => {
                let current = self.current.take()?;
                Some(self.end(&current, code))
            }
            ["features"] => {
                self.reads_features = true;
                None
            }
            _ => {
                self.reads_features = false;
                None
            }
        }
    }

    fn end(&mut self, current: &Current, code: &str) -> String {
        let Current {
            suite,
            program,
            tally,
            skipped,
        } = current;
        let left_out = skipped.len() as u64;
        let mut counts = tally.counts;
        counts.passed = counts.passed.saturating_sub(left_out);
        let results = self.suites.entry(suite.clone()).or_default();
        if code != "0" && counts.failed == 0 {
            // It died before it could count.
            counts.failed = 1;
            results
                .failed
                .push(format!("{program}: ended with status {code}"));
        }
        for (_, reason) in skipped {
            *results.skipped.entry(reason.clone()).or_default() += 1;
        }
        results.counts.passed += counts.passed;
        results.counts.failed += counts.failed;
        results.counts.ignored += counts.ignored;
        let Counts { passed, failed, .. } = counts;
        format!("{suite}, {program}: {passed} passed, {failed} failed, {left_out} skipped")
    }

    /// What the second serial port has to say in the end; suites in which something did not end are
    /// marked as failed.
    pub fn compare(&mut self, status: &str, expected: &[(&str, &str)]) -> bool {
        for (suite, program) in expected {
            let said = format!("{suite} {program} ");
            if !status.lines().any(|line| line.starts_with(&said)) {
                let results = self.suites.entry((*suite).to_owned()).or_default();
                results.counts.failed += 1;
                results.failed.push(format!("{program}: did not end"));
            }
        }
        status.lines().any(|line| line.trim() == "done")
    }
}

/// The test and the reason of "skipped: a_test needs MPTCP".
fn skipped(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix(SKIPPED)?.split_once(" needs ")
}

/// The name in "test a_test ... FAILED".
fn failed(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// "connect4 1882 instructions, 312 bytes of stack", or `-` for a number that is not known.
fn work(line: &str) -> Option<(String, Work)> {
    let [program, instructions, _, stack, ..] = line.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let work = Work {
        instructions: instructions.parse().ok(),
        stack: stack.parse().ok()?,
    };
    Some((program.to_owned(), work))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
boot noise
@@ features
{
}
@@ end of features
@@ begin behaviour lists
running 3 tests
test a ... ok
test b ... FAILED
test c ... ok
skipped: c needs MPTCP
skipped: c needs MPTCP
test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
@@ end behaviour lists 101
@@ begin behaviour sockets
@@ end behaviour sockets 139
@@ begin budget verifier_budget
budget: connect4 1882 instructions, 312 bytes of stack
budget: old - instructions, 8 bytes of stack
test result: ok. 1 passed; 0 failed; 0 ignored
@@ end budget verifier_budget 0
@@ begin lifecycle node
";

    #[test]
    fn results_are_read_from_what_a_machine_says() {
        let mut console = Console::default();
        let told: Vec<_> = SAID.lines().filter_map(|line| console.line(line)).collect();
        assert_eq!(
            told,
            [
                "behaviour, lists: 1 passed, 1 failed, 1 skipped",
                "behaviour, sockets: 0 passed, 1 failed, 0 skipped",
                "budget, verifier_budget: 1 passed, 0 failed, 0 skipped",
            ]
        );
        assert_eq!(console.features, "{\n}\n");
        let behaviour = &console.suites["behaviour"];
        assert_eq!(behaviour.skipped, BTreeMap::from([("MPTCP".into(), 1)]));
        assert_eq!(
            behaviour.failed,
            ["lists: b", "sockets: ended with status 139"]
        );
        let work = |instructions, stack| Work {
            instructions,
            stack,
        };
        let expected = [
            ("connect4".into(), work(Some(1882), 312)),
            ("old".into(), work(None, 8)),
        ];
        assert_eq!(console.work, BTreeMap::from(expected));
        let expected = [("behaviour", "lists"), ("lifecycle", "node")];
        assert!(!console.compare("behaviour lists 101\r\n", &expected));
        assert_eq!(console.suites["lifecycle"].failed, ["node: did not end"]);
        assert_eq!(console.suites["lifecycle"].counts.failed, 1);
        assert_eq!(console.suites["behaviour"].counts.failed, 2);
        assert!(console.compare("behaviour lists 0\nlifecycle node 0\ndone\r\n", &expected));
    }
}
