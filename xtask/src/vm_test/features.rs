//! The table of features by kernel on a page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// What stands before and after the table.
const BEGIN: &str = "<!-- features: begin, written by cargo xtask vm-test -->\n";
const END: &str = "<!-- features: end -->\n";

/// The row of what is chosen without being told.
const MODE: &str = "mode `auto` takes";

/// By kernel, by feature: `yes` or `no`.
pub type Features = BTreeMap<String, BTreeMap<String, String>>;

/// What `osm-agent check -o json` says, as far as it is read.
#[derive(Deserialize)]
struct Check {
    mode: String,
    features: Vec<Feature>,
}

#[derive(Deserialize)]
struct Feature {
    name: String,
    status: String,
}

/// Reads what the agent printed.
///
/// # Errors
///
/// When it is something else.
pub fn read(json: &str) -> Result<BTreeMap<String, String>> {
    let start = json.find('{').context("it printed no JSON")?;
    let mut values = serde_json::Deserializer::from_str(&json[start..]).into_iter::<Check>();
    let check = values.next().context("it printed no JSON")??;
    let word = |status: &str| if status == "ok" { "yes" } else { "no" };
    let rows = check.features.iter();
    let rows = rows.map(|it| (format!("`{}`", it.name), word(&it.status).to_owned()));
    Ok(rows.chain([(MODE.to_owned(), check.mode)]).collect())
}

/// Reads the table on a page, if there is one.
pub fn parse(page: &str) -> Features {
    let mut features = Features::new();
    let mut lines = between(page).unwrap_or_default().lines().map(cells);
    let kernels = lines.next().unwrap_or_default();
    for row in lines.skip(1) {
        let Some((feature, statuses)) = row.split_first() else {
            continue;
        };
        for (kernel, status) in kernels.iter().skip(1).zip(statuses) {
            let of_kernel = features.entry(kernel.clone()).or_default();
            of_kernel.insert(feature.clone(), status.clone());
        }
    }
    features
}

/// The page with this table in place of its own.
///
/// # Errors
///
/// When it has no place for one.
pub fn replace(page: &str, features: &Features) -> Result<String> {
    let old = between(page).with_context(|| format!("no place: {BEGIN}{END}"))?;
    let (before, _) = page.split_once(BEGIN).unwrap_or_default();
    let after = &page[before.len() + BEGIN.len() + old.len()..];
    Ok(format!("{before}{BEGIN}{}{after}", render(features)))
}

fn between(page: &str) -> Option<&str> {
    let (_, rest) = page.split_once(BEGIN)?;
    rest.split_once(END).map(|(table, _)| table)
}

fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_matches('|');
    line.split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn render(features: &Features) -> String {
    let mut kernels: Vec<_> = features.keys().collect();
    kernels.sort_by_key(|kernel| numbers(kernel));
    let names: BTreeSet<_> = features.values().flat_map(BTreeMap::keys).collect();
    let mut text = String::from("| feature |");
    // Writing to a string can't fail.
    for kernel in &kernels {
        let _ = write!(text, " {kernel} |");
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(kernels.len()));
    for name in names {
        let _ = write!(text, "| {name} |");
        for kernel in &kernels {
            let status = features[*kernel].get(name).map_or("–", String::as_str);
            let _ = write!(text, " {status} |");
        }
        text.push('\n');
    }
    text
}

fn numbers(kernel: &str) -> Vec<u32> {
    kernel.split('.').filter_map(|it| it.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(table: &str) -> String {
        format!("# Kernels\n\n{BEGIN}{table}{END}\nMore.\n")
    }

    #[test]
    fn what_the_agent_printed_is_read() {
        let said = r#"noise
{"mode":"ebpf","features":[{"name":"btf","status":"ok","detail":""},
 {"name":"bpf","status":"missing"}]}
osm-agent: trailing words"#;
        let read = read(said).expect("it is JSON");
        let expected = [("`bpf`", "no"), ("`btf`", "yes"), (MODE, "ebpf")];
        let expected = expected.map(|(name, status)| (name.to_owned(), status.to_owned()));
        assert_eq!(read, BTreeMap::from(expected));
        assert!(super::read("no such command").is_err());
    }

    #[test]
    fn table_that_is_written_is_read_again() {
        let status = |word: &str| BTreeMap::from([("`btf`".to_owned(), word.to_owned())]);
        let features = Features::from([
            ("5.10".to_owned(), status("no")),
            ("6.1".to_owned(), status("yes")),
            ("6.12".to_owned(), status("yes")),
        ]);
        let written = replace(&page("| old |\n"), &features).expect("it has a place");
        let table =
            "| feature | 5.10 | 6.1 | 6.12 |\n|---|---|---|---|\n| `btf` | no | yes | yes |\n";
        assert_eq!(written, page(table));
        assert_eq!(parse(&written), features);
        assert!(replace("no place", &features).is_err());
        assert!(parse("no table").is_empty());
    }
}
