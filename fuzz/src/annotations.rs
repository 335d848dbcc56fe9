//! A pod's annotations: a line each, `key=value`.

use osm_agent::config::{Lists, MeshConfig, unknown_list_annotations};

use super::{check_message, verdicts};

/// Reads them, and asks the policy that they make together with the mesh's lists.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let pairs: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    for key in unknown_list_annotations(pairs.iter().map(|(key, _)| *key)) {
        assert!(Lists::from_annotations([(key, "any")]).is_ok(), "{key:?}");
    }
    match Lists::from_annotations(pairs.iter().copied()) {
        Ok(lists) => {
            verdicts::check(&MeshConfig::default(), &lists);
            let mesh = MeshConfig {
                lists: Lists {
                    outbound_ranges_included: ["10.0.0.0/8", "fd00::/8"]
                        .iter()
                        .filter_map(|range| range.parse().ok())
                        .collect(),
                    ..Lists::default()
                },
                ..MeshConfig::default()
            };
            verdicts::check(&mesh, &lists);
        }
        Err(error) => check_message(&error.to_string(), "annotation "),
    }
}
