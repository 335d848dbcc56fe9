//! The node agent, from the pod that appears to the pod that disappears.

#[path = "../mesh/mod.rs"]
mod mesh;

#[path = "../init/container.rs"]
#[expect(dead_code, reason = "another test file uses the rest")]
mod container;

mod config;
mod confined;
mod deployed;
mod drift;
mod lifecycle;
mod many;
mod metrics;
mod requests;
mod restart;
mod trouble;

/// A server outside.
const REMOTE: &str = "198.51.100.10:80";

/// The `spec` of a mesh that wants this mode.
fn mode(mode: &str) -> String {
    format!("{{traffic: {{interceptionMode: {mode}}}}}")
}
