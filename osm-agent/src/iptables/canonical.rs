//! Rules as iptables prints them, made comparable.
//!
//! Versions of iptables differ in the order of matches, in which they load by name, and in
//! how they write protocols, addresses and quotes.

use std::borrow::Cow;

use ipnet::IpNet;

/// A word of a rule, quotes and escapes taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word<'a> {
    text: Cow<'a, str>,
    was_quoted: bool,
}

/// The rule in a form that is equal for equal rules. `rule` is what follows `-A CHAIN `.
///
/// It is for comparing only: two different rules never become equal, as far as their options
/// do not depend on their order.
pub(super) fn canonical(rule: &str) -> String {
    let mut options: Vec<String> = options(rule)
        .into_iter()
        .filter_map(|option| option.canonical())
        .collect();
    options.sort_unstable();
    options.join(" ")
}

/// Where a rule leads: the name behind `-j` or `-g`.
pub(super) fn target(rule: &str) -> Option<String> {
    options(rule)
        .into_iter()
        .filter(|option| matches!(option.name.as_ref(), "-j" | "-g"))
        .find_map(|option| option.values.into_iter().next())
        .map(Cow::into_owned)
}

/// Whether the rule's protocol lets TCP meet it.
pub(super) fn may_be_tcp(rule: &str) -> bool {
    let options = options(rule);
    let mut protocols = options.iter().filter(|option| option.name == "-p");
    protocols.next().is_none_or(|option| {
        let value = option.values.first().map(AsRef::as_ref);
        matches!(value, Some("tcp" | "6" | "all" | "0")) != option.is_negated
    })
}

/// An option with what belongs to it.
struct Switch<'a> {
    is_negated: bool,
    name: Cow<'a, str>,
    values: Vec<Cow<'a, str>>,
}

impl Switch<'_> {
    /// None for what says nothing: loading a match that its options name anyway, and a range
    /// that holds every address.
    fn canonical(&self) -> Option<String> {
        let values: Vec<Cow<'_, str>> = match (self.name.as_ref(), self.values.as_slice()) {
            ("-m", _) => return None,
            ("-p", [protocol]) if protocol == "6" => vec!["tcp".into()],
            ("-s" | "-d", [range]) => match parse_range(range) {
                Some(range) if range.prefix_len() == 0 && !self.is_negated => return None,
                Some(range) => vec![range.trunc().to_string().into()],
                None => vec![range.clone()],
            },
            (_, values) => values.to_vec(),
        };
        let negation = if self.is_negated { "! " } else { "" };
        Some(format!("{negation}{} {values:?}", self.name))
    }
}

fn parse_range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| {
        text.parse()
            .ok()
            .map(|address: std::net::IpAddr| address.into())
    })
}

fn options(rule: &str) -> Vec<Switch<'_>> {
    let mut words = words(rule).into_iter().peekable();
    let mut options: Vec<Switch<'_>> = Vec::new();
    let mut is_negated = false;
    while let Some(word) = words.next() {
        let is_bare = !word.was_quoted;
        if is_bare && word.text == "!" {
            is_negated = true;
        } else if is_bare && word.text.starts_with('-') {
            let is_comment = word.text == "--comment";
            let mut option = Switch {
                is_negated: std::mem::take(&mut is_negated),
                name: word.text,
                values: Vec::new(),
            };
            // A comment may look like anything, and is not always printed with quotes.
            if is_comment {
                option.values.extend(words.next().map(|word| word.text));
            }
            options.push(option);
        } else if let Some(option) = options.last_mut() {
            option.values.push(word.text);
        }
    }
    options
}

fn words(rule: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = rule.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = if first == '"' {
            quoted(&rest[1..])
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let word = Word {
                text: rest[..end].into(),
                was_quoted: false,
            };
            (word, &rest[end..])
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

/// A word up to its closing quote, and what comes after it.
fn quoted(text: &str) -> (Word<'_>, &str) {
    let mut word = String::new();
    let mut chars = text.char_indices();
    let mut rest = "";
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => {
                rest = &text[at + 1..];
                break;
            }
            '\\' => word.extend(chars.next().map(|(_, char)| char)),
            _ => word.push(char),
        }
    }
    let word = Word {
        text: word.into(),
        was_quoted: true,
    };
    (word, rest)
}
