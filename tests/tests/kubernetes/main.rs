//! The agent as a process against a real API server, with exactly the role of `deploy/manifests`.
//!
//! `cargo xtask e2e-kubernetes` gets the servers and runs these tests; other commands leave them out.

mod cluster;
mod control_plane;
mod manifests;
#[path = "../mesh/mod.rs"]
mod mesh;
mod mesh_config;
mod node;
mod objects;
mod outage;
mod pods;
mod role;
mod scene;
mod server;
