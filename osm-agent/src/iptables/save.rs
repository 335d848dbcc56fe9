//! What `iptables-save -t nat` says, as far as it concerns us. Pure.

use std::collections::BTreeMap;

use super::{
    canonical::{canonical, target},
    rules::{CHAINS, HOOKS, REDIRECT, Rules, digest, jump, outbound_redirect},
};

/// The part of a table nat that is ours, and whether there is another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Those of our chains that are there, with their rules as printed behind `-A CHAIN `.
    pub chains: BTreeMap<String, Vec<String>>,
    /// The rules of other chains that lead into ours, in order.
    pub jumps: Vec<Jump>,
    /// Whether the table holds chains or rules of others.
    pub has_others: bool,
    /// Whether it is a table of others that iptables can neither show nor write.
    pub is_native: bool,
    /// The rules of others that come before our jump in its hook and may end the way of a TCP
    /// connection; all of the hook's where there is no jump of ours.
    pub ahead: Vec<Jump>,
}

/// A rule of a chain that is not ours, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The chain that holds it.
    pub from: String,
    /// The chain that it leads to.
    pub to: String,
    /// The rule as printed behind `-A CHAIN `.
    pub rule: String,
}

/// Why the text says nothing that could be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// `nft` made rules in the table that iptables has no words for.
    #[error("the table nat holds rules made with nft, which iptables can't show")]
    Native,
    /// The text ends before the table does.
    #[error("iptables-save ends in the middle of the table nat")]
    Truncated,
    /// A line that no version of iptables prints.
    #[error("iptables-save prints what nobody knows: {0:?}")]
    Odd(String),
}

impl Saved {
    /// Reads what `iptables-save` printed. Other tables than nat are left aside; a text
    /// without any is one without rules.
    ///
    /// # Errors
    /// Where there may be rules of ours that the text does not show.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        let mut saved = Self::default();
        let mut table: Option<&str> = None;
        for line in text.lines() {
            let line = line.trim_end();
            if line.starts_with("# Table `nat' is incompatible") {
                return Err(Unreadable::Native);
            }
            if let Some(name) = line.strip_prefix('*') {
                table = Some(name);
            } else if line == "COMMIT" {
                table = None;
            } else if table == Some("nat") {
                saved.take(line)?;
            }
        }
        match table {
            Some("nat") => Err(Unreadable::Truncated),
            _ => Ok(saved),
        }
    }

    /// A table that was made with `nft` and is known to hold no chain of ours.
    #[must_use]
    pub fn native() -> Self {
        Self {
            has_others: true,
            is_native: true,
            ..Self::default()
        }
    }

    /// Whether there is anything of ours.
    #[must_use]
    pub fn has_ours(&self) -> bool {
        !self.chains.is_empty() || !self.jumps.is_empty()
    }

    /// Whether exactly these rules are there, in their order; counters do not count.
    #[must_use]
    pub fn equals(&self, wanted: &Rules) -> bool {
        self.has_right_jumps()
            && wanted.chains().all(|(chain, rules)| {
                let now = self.chains.get(chain).map_or(&[][..], Vec::as_slice);
                self.chains.contains_key(chain)
                    && now
                        .iter()
                        .map(|rule| canonical(rule))
                        .eq(rules.iter().map(|rule| canonical(rule)))
            })
    }

    /// Whether each hook leads into its chain once, and nothing else leads into ours.
    #[must_use]
    pub fn has_right_jumps(&self) -> bool {
        self.jumps.len() == HOOKS.len()
            && HOOKS
                .iter()
                .all(|(from, to)| self.jumps.iter().any(|it| it.is_right(from, to)))
    }

    /// What somebody else did to rules of ours, in words; empty where they are as some agent
    /// left them, under whatever lists.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for chain in CHAINS
            .iter()
            .filter(|chain| !self.chains.contains_key(**chain))
        {
            faults.push(format!("the chain {chain} was gone"));
        }
        for (from, to) in HOOKS {
            match self.jumps.iter().filter(|it| it.is_right(from, to)).count() {
                1 => {}
                0 => faults.push(format!("the jump from {from} to {to} was gone")),
                count => faults.push(format!("there were {count} jumps from {from} to {to}")),
            }
        }
        for it in &self.jumps {
            if !HOOKS.iter().any(|(from, to)| it.is_right(from, to)) {
                faults.push(format!("{} led to {} by {:?}", it.from, it.to, it.rule));
            }
        }
        faults.extend(self.changed_chain());
        faults
    }

    /// The rules of one of our chains, where they are those that its digest was written for.
    #[must_use]
    pub fn chain_as_written(&self, chain: &str) -> Option<&[String]> {
        let rules = self.rules(chain);
        let is_as_written = self.rules(REDIRECT).concat().contains(&digest(rules));
        is_as_written.then_some(rules)
    }

    fn rules(&self, chain: &str) -> &[String] {
        self.chains.get(chain).map_or(&[], Vec::as_slice)
    }

    fn changed_chain(&self) -> Option<String> {
        let rules = |chain: &str| self.rules(chain);
        let [first, second, third, _] = CHAINS;
        let chains = [first, second, third];
        let digests = chains.map(|chain| digest(rules(chain)));
        let written: Vec<String> = rules(REDIRECT).iter().map(|rule| canonical(rule)).collect();
        if written == [canonical(&outbound_redirect(&digests))] {
            return None;
        }
        let noted = rules(REDIRECT).concat();
        let changed = chains
            .iter()
            .zip(&digests)
            .filter(|(_, digest)| !noted.contains(*digest));
        let mut names: Vec<&str> = changed.map(|(chain, _)| *chain).collect();
        if names.is_empty() || names.len() == chains.len() {
            names = vec![REDIRECT];
        }
        Some(format!("somebody had changed {}", names.join(" and ")))
    }

    fn take(&mut self, line: &str) -> Result<(), Unreadable> {
        let odd = || Unreadable::Odd(line.chars().take(120).collect());
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(declaration) = line.strip_prefix(':') {
            let (name, policy) = declaration.split_once(' ').ok_or_else(odd)?;
            if is_ours(name) {
                self.chains.entry(name.to_owned()).or_default();
            } else if policy.starts_with('-') {
                self.has_others = true;
            }
            return Ok(());
        }
        // With counters, a line begins with them: `[1:60] -A …`.
        let line = match line.strip_prefix('[') {
            Some(rest) => rest.split_once("] ").ok_or_else(odd)?.1,
            None => line,
        };
        let rule = line.strip_prefix("-A ").ok_or_else(odd)?;
        let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
        let to = target(rule).filter(|to| is_ours(to));
        match (is_ours(chain), to) {
            (true, _) => self
                .chains
                .entry(chain.to_owned())
                .or_default()
                .push(rule.to_owned()),
            (false, Some(to)) => self.jumps.push(Jump {
                from: chain.to_owned(),
                to,
                rule: rule.to_owned(),
            }),
            (false, None) => {
                self.has_others = true;
                self.note_if_ahead(chain, rule);
            }
        }
        Ok(())
    }
}

impl Jump {
    /// Whether it is what we write there.
    pub(super) fn is_right(&self, from: &str, to: &str) -> bool {
        self.from == from && self.to == to && canonical(&self.rule) == canonical(&jump(to))
    }
}

fn is_ours(chain: &str) -> bool {
    CHAINS.contains(&chain)
}
