//! What runs in a machine.

use anyhow::{Result, bail};

/// Test programs with one purpose.
pub struct Suite {
    /// What it is called on the command line and in the table.
    pub name: &'static str,
    /// Its test programs, by the names of their targets.
    pub programs: &'static [&'static str],
    /// Whether `--quick` runs it too.
    pub is_quick: bool,
}

/// All of them, in the order in which they run.
pub const SUITES: [Suite; 6] = [
    Suite {
        name: "budget",
        programs: &["verifier_budget"],
        is_quick: true,
    },
    Suite {
        name: "fallback",
        programs: &["faults", "fallback"],
        is_quick: true,
    },
    Suite {
        name: "conformance",
        programs: &["conformance"],
        is_quick: true,
    },
    Suite {
        name: "iptables",
        programs: &["iptables"],
        is_quick: false,
    },
    Suite {
        name: "behaviour",
        programs: &["lists", "sockets", "outcomes", "settings"],
        is_quick: false,
    },
    Suite {
        name: "lifecycle",
        programs: &["upgrade", "repair", "cleanup", "node"],
        is_quick: false,
    },
];

/// The suites of these names, all if there is none.
///
/// # Errors
///
/// When there is no suite of a name.
pub fn select(names: &[String], quick: bool) -> Result<Vec<&'static Suite>> {
    for name in names {
        if !SUITES.iter().any(|suite| suite.name == name) {
            let known = SUITES.map(|suite| suite.name).join(", ");
            bail!("there is no suite {name}; there are {known}");
        }
    }
    let is_wanted = |suite: &&Suite| match names {
        [] => suite.is_quick || !quick,
        names => names.iter().any(|name| name == suite.name),
    };
    Ok(SUITES.iter().filter(is_wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_selected_by_name_or_by_haste() {
        let names = |wanted: &[&str], quick| {
            let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
            let suites = select(&wanted, quick).expect("these exist");
            suites.iter().map(|suite| suite.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[], false).len(), SUITES.len());
        assert_eq!(names(&[], true), ["budget", "fallback", "conformance"]);
        assert_eq!(names(&["lifecycle"], true), ["lifecycle"]);
        assert!(select(&["no-such-suite".into()], false).is_err());
    }
}
