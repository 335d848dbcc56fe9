//! A MeshConfig, in YAML or JSON.

use osm_agent::config::{Lists, MeshConfig};

use super::{check_message, verdicts};

/// Reads it, and asks the policy that it makes.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match MeshConfig::parse(&text, "mesh.yaml") {
        Ok(mesh) => verdicts::check(&mesh, &Lists::default()),
        Err(error) => check_message(&error.to_string(), "mesh.yaml: "),
    }
}
