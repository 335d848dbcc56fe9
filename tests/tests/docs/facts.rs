//! What the pages say exists.

use std::{collections::BTreeSet, fs, path::Path};

use osm_agent::config::{FIELDS, Lists, MeshConfig, unknown_list_annotations};
use osm_ebpf_common::reason::Reason;
use serde_json::Value;

use crate::page::{self, Block, Link, Mark, Page};

/// The fewest characters that say something.
const TELLING: usize = 8;

#[test]
fn links_lead_somewhere() {
    let mut problems = Vec::new();
    for page in page::all() {
        for link in page
            .links
            .iter()
            .filter(|link| !link.target.contains("://"))
        {
            if let Err(problem) = follow(&page, link) {
                problems.push(format!("{}: {}: {problem}", link.place, link.target));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn follow(page: &Page, link: &Link) -> Result<(), &'static str> {
    let (file, anchor) = link.target.split_once('#').unwrap_or((&link.target, ""));
    let target = match file {
        "" => page.path.clone(),
        _ => page.path.parent().unwrap_or(Path::new("")).join(file),
    };
    if !page::root().join(&target).exists() {
        return Err("there is no such file");
    }
    let is_there = anchor.is_empty() || Page::read(target).anchors.iter().any(|it| it == anchor);
    is_there.then_some(()).ok_or("the page has no such heading")
}

#[test]
fn index_has_every_page() {
    let pages = page::all();
    let docs = Path::new("docs");
    let index = pages
        .iter()
        .find(|page| page.path == docs.join("README.md"));
    let index = index.expect("docs has an index");
    let linked: BTreeSet<_> = index.links.iter().map(|it| docs.join(&it.target)).collect();
    for page in pages.iter().filter(|page| page.path.parent() == Some(docs)) {
        let is_in = linked.contains(&page.path) || page.path == index.path;
        assert!(is_in, "{} is not in the index", page.path.display());
    }
}

/// A link to a Rust file says that the file has the test that it is called by.
#[test]
fn tests_that_are_named_exist() {
    let mut problems = Vec::new();
    let mut count = 0;
    for page in page::all() {
        let directory = page::root().join(&page.path);
        let directory = directory.parent().expect("a directory");
        for link in page.links.iter().filter(|link| is_code(link)) {
            count += 1;
            let code = fs::read_to_string(directory.join(&link.target)).unwrap_or_default();
            if !has_test(&code, &link.text) {
                problems.push(format!("{}: {} in {}", link.place, link.text, link.target));
            }
        }
    }
    assert!(count > 20, "only {count} tests are named");
    assert!(
        problems.is_empty(),
        "no such test:\n{}",
        problems.join("\n")
    );
}

fn is_code(link: &Link) -> bool {
    Path::new(&link.target)
        .extension()
        .is_some_and(|it| it == "rs")
}

fn has_test(code: &str, name: &str) -> bool {
    let Some((before, _)) = code.split_once(&format!("fn {name}(")) else {
        return false;
    };
    let item = before.rsplit("\n\n").next().unwrap_or(before);
    ["#[test]", "#[rstest", "#[tokio::test"]
        .iter()
        .any(|it| item.contains(it))
}

#[test]
fn named_test_is_told_from_another_function() {
    let code =
        "#[test]\n#[cfg(x)]\nfn a() {}\n\nfn b() {}\n\n#[rstest]\n#[case(1)]\nfn c(x: u8) {}\n";
    let found = ["a", "b", "c", "d"].map(|name| has_test(code, name));
    assert_eq!(found, [true, false, true, false]);
}

#[test]
fn reasons_in_the_table_are_all_there_are() {
    let page = Page::read("docs/verdicts.md".into());
    let rows = page.table("reason");
    let names: Vec<_> = rows[1..].iter().map(|row| row[0].as_str()).collect();
    let all: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names, all);
    for row in rows {
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

/// Those in marked blocks, and those in tables whose first column is called `message`.
#[test]
fn messages_are_in_the_code() {
    let code = code();
    let mut problems = Vec::new();
    let mut count = 0;
    for page in page::all() {
        let blocks = page
            .blocks
            .iter()
            .filter(|block| block.mark == Mark::Message);
        let of_blocks = blocks.flat_map(|block| block.text.lines());
        let tables = page.tables.iter().filter(|table| table[0][0] == "message");
        let of_tables = tables.flat_map(|table| table[1..].iter().map(|row| row[0].as_str()));
        for message in of_blocks.chain(of_tables) {
            count += 1;
            let pieces: Vec<_> = message.split('…').map(str::trim).collect();
            let is_telling = pieces.iter().any(|piece| piece.len() >= TELLING);
            if !is_telling || pieces.iter().any(|piece| !code.contains(*piece)) {
                problems.push(format!("{}: {message}", page.path.display()));
            }
        }
    }
    assert!(count > 20, "only {count} messages are found");
    assert!(
        problems.is_empty(),
        "not in the code:\n{}",
        problems.join("\n")
    );
}

/// All of the agent's code, each text in it on one line.
fn code() -> String {
    let mut files = Vec::new();
    let mut directories = vec![page::root().join("osm-agent/src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(fs::read_to_string(&path).expect("a file of code"));
            }
        }
    }
    let text = files.concat();
    let mut lines = text.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let joined = lines.fold(first, |text, line| text + line.trim_start());
    joined.replace("\\\"", "\"")
}

#[test]
fn configuration_in_the_pages_is_what_the_parser_takes() {
    let mut count = 0;
    for page in page::all() {
        for block in &page.blocks {
            match block.language.as_str() {
                "yaml" => count += documents(block).iter().map(|it| check(block, it)).count(),
                "json" => {
                    let parsed = serde_json::from_str::<Value>(&block.text);
                    assert!(parsed.is_ok(), "{}: {parsed:?}", block.place);
                }
                _ => {}
            }
        }
    }
    assert!(count > 3, "only {count} documents are found");
}

fn documents(block: &Block) -> Vec<String> {
    block.text.split("\n---\n").map(str::to_owned).collect()
}

fn check(block: &Block, text: &str) {
    let place = &block.place;
    let value: Value =
        serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{place}: {error}"));
    let kind = value["kind"].as_str();
    let is_part = kind.is_none()
        && (value["spec"]["traffic"].is_object() || value["spec"]["sidecar"].is_object());
    if kind == Some("MeshConfig") || is_part {
        let head = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n";
        let whole = if is_part {
            format!("{head}{text}")
        } else {
            text.to_owned()
        };
        let parsed = MeshConfig::parse(&whole, place);
        assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
        for part in ["traffic", "sidecar"] {
            for name in value["spec"][part]
                .as_object()
                .into_iter()
                .flat_map(|it| it.keys())
            {
                let path = format!("spec.{part}.{name}");
                assert!(FIELDS.iter().any(|it| it.path == path), "{place}: {path}");
            }
        }
    }
    let annotations = value["metadata"]["annotations"].as_object();
    let annotations: Vec<_> = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .collect();
    let unknown: Vec<_> = unknown_list_annotations(annotations.iter().map(|it| it.0)).collect();
    assert!(unknown.is_empty(), "{place}: {unknown:?}");
    let lists = Lists::from_annotations(annotations);
    assert!(lists.is_ok(), "{place}: {}", lists.unwrap_err());
}

/// The CRD, wherever in `deploy` it is.
fn definition() -> Value {
    let mut directories = vec![page::root().join("deploy")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|it| it == "yaml") {
                let text = fs::read_to_string(&path).expect("a manifest");
                if text.contains("\nkind: CustomResourceDefinition\n") {
                    return serde_saphyr::from_str(&text).expect("YAML");
                }
            }
        }
    }
    panic!("there is no CRD in deploy");
}

#[test]
fn resource_definition_says_the_same_as_the_fields() {
    let definition = definition();
    let versions = definition["spec"]["versions"].as_array().expect("versions");
    for version in versions {
        let top = &version["schema"]["openAPIV3Schema"];
        let mut described = Vec::new();
        leaves(top, String::new(), &mut described);
        let mut expected: Vec<_> = FIELDS
            .iter()
            .map(|field| (field.path.to_owned(), field.about.to_owned()))
            .collect();
        described.sort();
        expected.sort();
        assert_eq!(described, expected, "{}", version["name"]);
    }
}

/// The fields that are no objects, with their descriptions.
fn leaves(schema: &Value, path: String, found: &mut Vec<(String, String)>) {
    let Some(properties) = schema["properties"].as_object() else {
        let about = schema["description"].as_str().unwrap_or_default();
        found.push((path, about.to_owned()));
        return;
    };
    for (name, schema) in properties {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        leaves(schema, path, found);
    }
}
