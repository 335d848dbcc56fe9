//! The text that turns what is there into what is wanted, in one transaction. Pure.

use std::fmt::Write as _;

use super::{
    rules::{CHAINS, Family, HOOKS, Rules, jump},
    save::Saved,
};

/// What `iptables-restore --noflush` is to be fed so that exactly the wanted rules are there;
/// without any, nothing of ours. None where that is so already.
///
/// A declared chain is emptied and filled within the transaction, and so are jumps moved:
/// there is no moment without rules. Chains, policies and rules of others are not named.
#[must_use]
pub fn transaction(family: Family, now: &Saved, wanted: Option<&Rules>) -> Option<String> {
    let Some(wanted) = wanted else {
        return now.has_ours().then(|| removal(family, now));
    };
    if now.equals(wanted) {
        return None;
    }
    let mut text = Text::new(family);
    for chain in CHAINS {
        text.declare(chain);
    }
    let keep = now.has_right_jumps();
    if !keep {
        text.delete_jumps(now);
    }
    for (chain, rules) in wanted.chains() {
        text.append(chain, rules);
    }
    if !keep {
        for (from, to) in HOOKS {
            text.append(from, &[jump(to)]);
        }
    }
    Some(text.commit())
}

/// What turns `now` back into `before`, after the other family could not follow. None where
/// they are equal.
#[must_use]
pub fn restoration(family: Family, now: &Saved, before: &Saved) -> Option<String> {
    if (&now.chains, &now.jumps) == (&before.chains, &before.jumps) {
        return None;
    }
    let mut text = Text::new(family);
    let (kept, gone): (Vec<&str>, Vec<&str>) = CHAINS
        .into_iter()
        .filter(|chain| now.chains.contains_key(*chain) || before.chains.contains_key(*chain))
        .partition(|chain| before.chains.contains_key(*chain));
    for chain in &kept {
        text.declare(chain);
    }
    let is_moved = now.jumps != before.jumps;
    if is_moved {
        text.delete_jumps(now);
    }
    for chain in &kept {
        text.append(chain, &before.chains[*chain]);
    }
    if is_moved {
        for it in &before.jumps {
            text.append(&it.from, std::slice::from_ref(&it.rule));
        }
    }
    text.remove_chains(&gone);
    Some(text.commit())
}

fn removal(family: Family, now: &Saved) -> String {
    let mut text = Text::new(family);
    text.delete_jumps(now);
    let chains: Vec<&str> = now.chains.keys().map(String::as_str).collect();
    text.remove_chains(&chains);
    text.commit()
}

struct Text(String);

impl Text {
    fn new(family: Family) -> Self {
        let tool = family.tool();
        Self(format!("# osm-agent: for {tool}-restore --noflush\n*nat\n"))
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{line}");
    }

    /// Makes the chain, or empties it.
    fn declare(&mut self, chain: &str) {
        self.line(format_args!(":{chain} - [0:0]"));
    }

    fn append(&mut self, chain: &str, rules: &[String]) {
        for rule in rules {
            self.line(format_args!("-A {chain} {rule}"));
        }
    }

    fn delete_jumps(&mut self, now: &Saved) {
        for it in &now.jumps {
            self.line(format_args!("-D {} {}", it.from, it.rule));
        }
    }

    fn remove_chains(&mut self, chains: &[&str]) {
        // They lead to each other: first all are emptied.
        for command in ["-F", "-X"] {
            for chain in chains {
                self.line(format_args!("{command} {chain}"));
            }
        }
    }

    fn commit(mut self) -> String {
        self.0.push_str("COMMIT\n");
        self.0
    }
}
