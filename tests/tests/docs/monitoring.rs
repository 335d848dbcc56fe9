//! What `docs/monitoring.md` says there is, and what there is.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{
    page::{self, Page},
    scene::Scene,
};

/// What things are called, and what is said of them.
type Named = BTreeSet<(String, String)>;

/// The first two columns of a table.
fn table(head: &str) -> Named {
    let page = Page::read("docs/monitoring.md".into());
    let rows = page.table(head)[1..].iter();
    rows.map(|row| (row[0].clone(), row[1].clone())).collect()
}

#[test]
fn metrics_in_the_table_are_those_of_a_node_with_a_pod() {
    let Some(scene) = Scene::set("node") else {
        return;
    };
    let text = scene.metrics();
    let helps = text.lines().filter_map(|line| line.strip_prefix("# HELP "));
    // Those are there while the kernel counts them, which is not this test's to say.
    let helps = helps.filter(|line| !line.starts_with("osm_bpf_run"));
    let found = helps.map(|line| {
        let (name, help) = line.split_once(' ').expect("a name and a text");
        (name.to_owned(), help.trim_end_matches('.').to_owned())
    });
    assert_eq!(table("metric"), found.collect());
}

#[test]
fn alerts_in_the_table_are_those_of_the_rules() {
    let path = page::root().join("deploy/monitoring/alerts.yaml");
    let text = fs::read_to_string(path).expect("the rules");
    let rules: Value = serde_saphyr::from_str(&text).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups").iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().expect("rules"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let found = rules.map(|rule| (text(&rule["alert"]), text(&rule["annotations"]["summary"])));
    assert_eq!(table("alert"), found.collect());
}
