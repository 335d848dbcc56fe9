//! Somebody else's hands on what the agent depends on: it says so, repairs it, or leaves it alone.

mod help;
mod kernel;
#[path = "../mesh/mod.rs"]
mod mesh;
mod pods;
mod state;
