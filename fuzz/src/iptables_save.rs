//! What `iptables-save` prints, and what is made of it: texts for `iptables-restore`, which are
//! carried out on a table that keeps rules as they are written.

use std::fmt::Write as _;

use osm_agent::{
    config::Lists,
    iptables::{CHAINS, Family, RuleSet, Rules, Saved, restoration, transaction},
    policy::Policy,
};

use super::verdicts::some_lists;

/// Reads it; if that works, puts rules in force in that table, others, the former ones again, and
/// none. What is there each time is what was wanted, and what is of others stays.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(read) = Saved::parse(&text) else {
        return;
    };
    let mut table = Table::read(&text);
    // Chain by chain, as iptables prints them.
    let before = table.saved();
    assert_eq!(
        (&before.chains, before.has_ours()),
        (&read.chains, read.has_ours())
    );
    let others = table.others();
    for lists in [Lists::default(), some_lists()] {
        let rules = RuleSet::new(&Policy::compile(&lists, true), &[]).expect("they can be written");
        for family in Family::ALL {
            table.put(family, rules.of(family).expect("both are intercepted"));
            assert_eq!(table.others(), others);
        }
    }
    table.put_back(&before);
    assert_eq!(table.others(), others);
    if let Some(text) = transaction(Family::V4, &table.saved(), None) {
        table.restore(&text);
    }
    assert!(!table.saved().has_ours());
    assert_eq!(transaction(Family::V4, &table.saved(), None), None);
    assert_eq!(table.others(), others);
}

/// A table nat, as far as texts go.
#[derive(Clone, Default)]
struct Table {
    chains: Vec<(String, Vec<String>)>,
}

impl Table {
    /// Reads what [`Saved::parse`] takes.
    fn read(text: &str) -> Self {
        let mut table = Self::default();
        let mut is_nat = false;
        for line in text.lines().map(str::trim_end) {
            if let Some(name) = line.strip_prefix('*') {
                is_nat = name == "nat";
            } else if line == "COMMIT" {
                is_nat = false;
            } else if is_nat && !line.starts_with('#') {
                let line = match line.strip_prefix('[') {
                    Some(rest) => rest.split_once("] ").map_or(rest, |(_, rule)| rule),
                    None => line,
                };
                if let Some((name, _)) = line.strip_prefix(':').and_then(|it| it.split_once(' ')) {
                    table.chain(name);
                } else if let Some(rule) = line.strip_prefix("-A ") {
                    let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
                    table.chain(chain).push(rule.to_owned());
                }
            }
        }
        table
    }

    fn put(&mut self, family: Family, wanted: &Rules) {
        if let Some(text) = transaction(family, &self.saved(), Some(wanted)) {
            self.restore(&text);
        }
        let saved = self.saved();
        assert!(saved.equals(wanted), "{saved:?}");
        assert!(saved.faults().is_empty(), "{:?}", saved.faults());
        assert_eq!(transaction(family, &saved, Some(wanted)), None);
    }

    fn put_back(&mut self, before: &Saved) {
        if let Some(text) = restoration(Family::V4, &self.saved(), before) {
            self.restore(&text);
        }
        let now = self.saved();
        assert_eq!(
            (&now.chains, by_chain(&now)),
            (&before.chains, by_chain(before))
        );
    }

    /// What the table is, by the parser that is looked at.
    fn saved(&self) -> Saved {
        Saved::parse(&self.print()).expect("what was read can be read again")
    }

    /// Does what `iptables-restore --noflush` does, or panics where that fails.
    fn restore(&mut self, text: &str) {
        for line in text.lines() {
            let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
            match command {
                "#" | "*nat" | "COMMIT" => {}
                "-A" => self.chain(chain).push(rule.to_owned()),
                "-D" => {
                    let rules = self.chain(chain);
                    let at = rules.iter().position(|it| it == rule);
                    rules.remove(at.expect("only what is there can be deleted"));
                }
                "-F" => self.known(chain).clear(),
                "-X" => {
                    assert!(self.known(chain).is_empty(), "{chain} is not empty");
                    self.chains.retain(|(name, _)| name != chain);
                }
                _ => match command.strip_prefix(':') {
                    Some(name) => self.chain(name).clear(),
                    None => panic!("iptables-restore knows no {line:?}"),
                },
            }
        }
    }

    fn print(&self) -> String {
        let mut text = String::from("*nat\n");
        for (name, _) in &self.chains {
            let _ = writeln!(text, ":{name} - [0:0]");
        }
        for (name, rules) in &self.chains {
            for rule in rules {
                let _ = writeln!(text, "-A {name} {rule}");
            }
        }
        text + "COMMIT\n"
    }

    fn chain(&mut self, name: &str) -> &mut Vec<String> {
        let at = self.chains.iter().position(|(it, _)| it == name);
        let at = at.unwrap_or_else(|| {
            self.chains.push((name.to_owned(), Vec::new()));
            self.chains.len() - 1
        });
        &mut self.chains[at].1
    }

    fn known(&mut self, name: &str) -> &mut Vec<String> {
        let mut chains = self.chains.iter_mut();
        let found = chains.find(|(it, _)| it == name);
        &mut found.expect("the chain is there").1
    }

    /// The rules that neither are in our chains nor lead there.
    fn others(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (name, rules) in self.chains.iter().filter(|(it, _)| !is_ours(it)) {
            for rule in rules {
                let text = format!("*nat\n-A {name} {rule}\nCOMMIT\n");
                let saved = Saved::parse(&text).expect("it was read before");
                if !saved.has_ours() {
                    found.push((name.clone(), rule.clone()));
                }
            }
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found
    }
}

/// The jumps, each chain's in their order.
fn by_chain(saved: &Saved) -> Vec<(String, String)> {
    let jumps = saved.jumps.iter();
    let mut jumps: Vec<_> = jumps.map(|it| (it.from.clone(), it.rule.clone())).collect();
    jumps.sort_by(|(one, _), (other, _)| one.cmp(other));
    jumps
}

fn is_ours(chain: &str) -> bool {
    CHAINS.contains(&chain)
}
