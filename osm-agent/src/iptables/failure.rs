//! What went wrong with an iptables program, in words that help.

use std::fmt::Write as _;

use super::run::Ended;
use crate::error::Error;

/// Words of iptables, and what to do about them. All versions but one or two say these.
const ADVICE: [(&str, &str); 8] = [
    (
        "holding the xtables lock",
        "; another program holds the xtables lock: try again, or wait longer with --lock-wait",
    ),
    (
        "can't open lock file",
        "; this iptables is too old to keep its lock elsewhere: mount an emptyDir at /run",
    ),
    ("Permission denied", PERMISSION),
    ("Operation not permitted", PERMISSION),
    ("unable to initialize table", NO_TABLE),
    ("Table does not exist", NO_TABLE),
    ("Failed to initialize nft", NO_NFT),
    ("Protocol not supported", NO_NFT),
];

const PERMISSION: &str = "; it needs CAP_NET_ADMIN over the network namespace, iptables-legacy \
                          CAP_NET_RAW too (securityContext.capabilities.add of the container)";
const NO_TABLE: &str = "; the kernel has no table nat for iptables-legacy, which needs \
                        CAP_NET_RAW and the module iptable_nat (for IPv6 ip6table_nat): load it \
                        on the node, or use iptables-nft";
const NO_NFT: &str = "; the kernel has no nf_tables: load the modules nf_tables and nft_compat \
                      on the node, or use iptables-legacy";

/// A program that ended with an error.
#[derive(Debug)]
pub(super) struct Failure {
    /// The error for the user.
    pub(super) error: Error,
    /// Whether a rule that was to be deleted had gone: somebody else was at work, and it is
    /// worth trying anew.
    pub(super) is_race: bool,
}

impl Failure {
    /// `tried` says what was tried and where, `input` is what the program was fed.
    pub(super) fn new(tried: String, ended: &Ended, input: &str) -> Self {
        let words = words(ended);
        let line = offending_line(&ended.stderr, input);
        let mut source = words.clone();
        if let Some((number, line)) = line {
            let line = shortened(line);
            let _ = write!(source, " (line {number}: {line})");
        }
        let advice = ADVICE.iter().find(|(sign, _)| words.contains(sign));
        Self {
            error: Error::System {
                tried,
                source: source.into(),
                advice: advice
                    .map(|(_, advice)| (*advice).to_owned())
                    .unwrap_or_default(),
            },
            is_race: line.is_some_and(|(_, line)| line.starts_with("-D ")),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            is_race: false,
        }
    }
}

/// All it said, on one line; without what repeats the line's number or names the manual.
fn words(ended: &Ended) -> String {
    let said: Vec<&str> = ended
        .stderr
        .lines()
        .map(str::trim)
        .filter(|line| {
            !(line.is_empty()
                || line.starts_with("Try `")
                || line.starts_with("Error occurred at line")
                || line.starts_with('#'))
        })
        .collect();
    if said.is_empty() {
        return ended.status.to_string();
    }
    said.join(" ")
}

/// The line of the input that the program names, with its number from 1.
fn offending_line<'a>(stderr: &str, input: &'a str) -> Option<(usize, &'a str)> {
    let after = stderr.split("line").skip(1);
    let number = after.into_iter().find_map(|rest| {
        let rest = rest.trim_start_matches([':', ' ']);
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<usize>().ok()
    })?;
    let line = input.lines().nth(number.checked_sub(1)?)?;
    Some((number, line))
}

fn shortened(line: &str) -> String {
    const SHOWN: usize = 160;
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
