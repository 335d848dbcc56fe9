//! The node agent, from the pod that appears to the pod that disappears.

#[path = "../mesh/mod.rs"]
mod mesh;

mod lifecycle;
