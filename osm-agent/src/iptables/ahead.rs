//! Rules of others that come before ours and may take TCP connections away from them.
//!
//! Connections that are tried prove where those went; a rule for one address or one port is
//! found by reading only. Tables that `nft` made under other names are not read.

use super::{
    Iptables, Target,
    backend::Backend,
    save::{Jump, Saved},
    survey::Survey,
};
use crate::error::Result;

/// Targets that end a packet's way through its own table only.
const OF_ITS_TABLE: [&str; 2] = ["ACCEPT", "RETURN"];

impl Iptables {
    /// The rules of others that may take connections away from the rules of ours that are in
    /// force, in words; empty where there are none of ours.
    ///
    /// # Errors
    /// Where the tables can't be read.
    pub fn ahead(&self, target: &Target<'_>) -> Result<Vec<String>> {
        self.session(target, |session| Ok(session.survey(self.backend)?.ahead()))
    }
}

impl Survey {
    /// In a table that holds ours, all that comes before the jumps; in another one, which may
    /// be asked first as a whole, all that decides for good.
    fn ahead(&self) -> Vec<String> {
        let with_ours: Vec<Backend> = self.with_ours().collect();
        let mut ahead = Vec::new();
        for ((backend, family), saved) in self.iter().filter(|_| !with_ours.is_empty()) {
            let is_beside = !with_ours.contains(&backend);
            let rules = saved
                .ahead
                .iter()
                .filter(|it| !(is_beside && is_of_its_table(it)));
            ahead.extend(rules.map(|it| {
                let place = if is_beside {
                    format!(" of {backend}")
                } else {
                    String::new()
                };
                format!("{}{place}: -A {} {}", family.tool(), it.from, it.rule)
            }));
        }
        ahead
    }
}

fn is_of_its_table(it: &Jump) -> bool {
    OF_ITS_TABLE.contains(&it.to.as_str())
}

/// Targets after which the next rule is looked at.
const GOES_ON: [&str; 11] = [
    "AUDIT",
    "CONNMARK",
    "CONNSECMARK",
    "LOG",
    "MARK",
    "NFLOG",
    "RATEEST",
    "SECMARK",
    "SET",
    "TRACE",
    "ULOG",
];

impl Saved {
    /// Notes a rule of others if it is ahead of ours and may end the way of a TCP connection.
    pub(super) fn note_if_ahead(&mut self, from: &str, rule: &str) {
        let Some((_, ours)) = super::rules::HOOKS.iter().find(|(hook, _)| *hook == from) else {
            return;
        };
        let is_behind = self.jumps.iter().any(|it| it.is_right(from, ours));
        let to = super::canonical::target(rule).filter(|to| !GOES_ON.contains(&to.as_str()));
        if let Some(to) = to.filter(|_| !is_behind && super::canonical::may_be_tcp(rule)) {
            let (from, rule) = (from.to_owned(), rule.to_owned());
            self.ahead.push(Jump { from, to, rule });
        }
    }
}
