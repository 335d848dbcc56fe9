//! Counts test results in the output of test programs.

/// What a test program's closing line starts with.
const RESULT: &[u8] = b"test result: ";

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests left out on purpose.
    pub ignored: u64,
}

/// Reads output as it comes, in pieces of any size.
#[derive(Default)]
pub struct Tally {
    /// What was counted so far.
    pub counts: Counts,
    /// How many closing lines there were.
    pub results: u64,
    /// The line that is not complete yet.
    line: Vec<u8>,
}

impl Tally {
    /// Takes the next piece of output.
    pub fn read(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|&byte| byte == b'\n') {
            self.line.extend_from_slice(&piece[..end]);
            self.complete_line();
            piece = &piece[end + 1..];
        }
        self.line.extend_from_slice(piece);
    }

    /// Takes the end of the output.
    pub fn finish(&mut self) {
        self.complete_line();
    }

    fn complete_line(&mut self) {
        if let Some(counts) = parse(&self.line) {
            self.counts.passed += counts.passed;
            self.counts.failed += counts.failed;
            self.counts.ignored += counts.ignored;
            self.results += 1;
        }
        self.line.clear();
    }
}

/// The numbers in "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …".
fn parse(line: &[u8]) -> Option<Counts> {
    let text = std::str::from_utf8(line.strip_prefix(RESULT)?).ok()?;
    let (_verdict, numbers) = text.split_once(". ")?;
    let number = |word: &str| {
        numbers
            .split("; ")
            .find_map(|part| part.trim().strip_suffix(word)?.trim_end().parse().ok())
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        ignored: number("ignored").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s";
    const BAD: &str =
        "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";

    fn counts(passed: u64, failed: u64, ignored: u64) -> Counts {
        Counts {
            passed,
            failed,
            ignored,
        }
    }

    #[test]
    fn line_of_a_result_is_parsed_and_others_are_not() {
        let cases = [
            (OK, Some(counts(3, 0, 1))),
            (BAD, Some(counts(5, 2, 0))),
            ("test result: ok. 1 passed; 0 failed", Some(counts(1, 0, 0))),
            ("test rows::result_is_kept ... ok", None),
            ("  test result: ok. 3 passed; 0 failed", None),
            ("test result: ok. many passed; 0 failed", None),
            ("test result: ", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn results_are_summed_however_the_output_is_cut() {
        let output =
            format!("running 3 tests\n\u{1b}[0m\n{OK}\r\n\n{BAD}\nlast, not ended: {OK}\n{OK}");
        for size in [1, 2, 7, 4096] {
            let mut tally = Tally::default();
            for piece in output.as_bytes().chunks(size) {
                tally.read(piece);
            }
            tally.finish();
            assert_eq!(tally.counts, counts(11, 2, 2), "pieces of {size}");
            assert_eq!(tally.results, 3, "pieces of {size}");
        }
    }
}
