//! What was found of one feature.

use serde::Serialize;

/// A feature of the kernel or of the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name, which does not change.
    pub name: String,
    /// What it is for.
    #[serde(rename = "for")]
    pub for_: For,
    /// Whether it is there.
    pub status: Status,
    /// More about it; of what is missing, the kernel's or the program's words.
    pub detail: String,
}

/// What a feature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum For {
    /// Interception by eBPF.
    Ebpf,
    /// Interception by iptables.
    Iptables,
    /// The loopback shortcut, with which eBPF can do more.
    Shortcut,
}

/// Whether a feature is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It is.
    Ok,
    /// It is not.
    Missing,
    /// It could not be tried.
    Unknown,
}

impl Status {
    /// The name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// The features probed so far.
#[derive(Debug, Default)]
pub(super) struct Features(pub(super) Vec<Feature>);

impl Features {
    /// Notes what came out of a probe: a detail, or why it failed. Says whether it is there.
    pub(super) fn note(
        &mut self,
        name: &str,
        for_: For,
        result: Result<impl Into<String>, String>,
    ) -> bool {
        let is_ok = result.is_ok();
        let (status, detail) = match result {
            Ok(detail) => (Status::Ok, detail.into()),
            Err(why) => (Status::Missing, why),
        };
        self.push(name, for_, status, &detail);
        is_ok
    }

    /// Notes what can't be tried.
    pub(super) fn unknown(&mut self, name: &str, for_: For, why: &str) {
        self.push(name, for_, Status::Unknown, why);
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|feature| feature.name == name)
    }

    fn push(&mut self, name: &str, for_: For, status: Status, detail: &str) {
        self.0.push(Feature {
            name: name.into(),
            for_,
            status,
            detail: in_one_line(detail),
        });
    }
}

/// An error and what caused it, down to the kernel's words.
pub(super) fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    let mut said = String::new();
    for error in all.map(ToString::to_string) {
        if said.is_empty() {
            said = error;
        } else if !said.contains(&error) {
            said = format!("{said}: {error}");
        }
    }
    said
}

fn in_one_line(text: &str) -> String {
    const SHOWN: usize = 300;
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
