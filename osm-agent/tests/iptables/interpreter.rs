//! Enough of iptables to say what a rule set does with a connection.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

/// The first packet of a connection.
#[derive(Clone, Debug)]
pub struct Packet {
    pub destination: IpAddr,
    pub port: u16,
    /// The owner of the socket; none for packets from outside.
    pub uid: Option<u32>,
    /// By which interface it comes in.
    pub input: &'static str,
    /// By which interface it leaves.
    pub output: &'static str,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Direct,
    Redirected(u16),
    Translated(IpAddr),
}

/// A table, by chains.
pub struct Table<'a> {
    chains: HashMap<&'a str, Vec<Rule<'a>>>,
}

#[derive(Default)]
struct Rule<'a> {
    matches: Vec<(bool, &'a str, &'a str)>,
    target: &'a str,
    argument: &'a str,
}

impl<'a> Table<'a> {
    /// Reads what `iptables-restore` is fed.
    pub fn parse(text: &'a str) -> Self {
        let mut chains: HashMap<&str, Vec<Rule<'_>>> = HashMap::new();
        for line in text.lines() {
            if let Some(rule) = line.strip_prefix("-A ") {
                let (chain, rule) = rule.split_once(' ').unwrap();
                chains.entry(chain).or_default().push(Rule::parse(rule));
            }
        }
        Self { chains }
    }

    /// Sends a packet through a built-in chain.
    pub fn decide(&self, hook: &str, packet: &Packet) -> Fate {
        self.walk(hook, packet).unwrap_or(Fate::Direct)
    }

    fn walk(&self, chain: &str, packet: &Packet) -> Option<Fate> {
        for rule in self.chains.get(chain).into_iter().flatten() {
            if !rule.takes(packet) {
                continue;
            }
            let fate = match rule.target {
                "RETURN" => return None,
                "REDIRECT" => Some(Fate::Redirected(rule.argument.parse().unwrap())),
                "DNAT" => Some(Fate::Translated(rule.argument.parse().unwrap())),
                chain => self.walk(chain, packet),
            };
            if fate.is_some() {
                return fate;
            }
        }
        None
    }
}

impl<'a> Rule<'a> {
    fn parse(text: &'a str) -> Self {
        let (before, rest) = text.split_once("-m comment --comment \"").unwrap();
        let (_, after) = rest.split_once("\" ").unwrap();
        let mut rule = Self::default();
        let mut is_negated = false;
        let mut words = before.split_whitespace().chain(after.split_whitespace());
        while let Some(word) = words.next() {
            match word {
                "!" => is_negated = true,
                "-m" => drop(words.next()),
                "-j" => rule.target = words.next().unwrap(),
                "--to-ports" | "--to-destination" => rule.argument = words.next().unwrap(),
                name => {
                    let value = words.next().unwrap();
                    rule.matches
                        .push((std::mem::take(&mut is_negated), name, value));
                }
            }
        }
        rule
    }

    fn takes(&self, packet: &Packet) -> bool {
        self.matches.iter().all(|(is_negated, name, value)| {
            let holds = match *name {
                "-p" => *value == "tcp",
                "-d" => value
                    .parse::<IpNet>()
                    .unwrap()
                    .contains(&packet.destination),
                "-i" => *value == packet.input,
                "-o" => *value == packet.output,
                "--uid-owner" => packet.uid == Some(value.parse().unwrap()),
                "--dports" => value.split(',').any(|port| port.parse() == Ok(packet.port)),
                _ => panic!("{name} is not known here"),
            };
            holds != *is_negated
        })
    }
}
