//! The iptables fallback on the real kernel, with both tools: what is left in the tables.
//!
//! Where connections land is the business of the behaviour tests.

mod interceptor;
mod load;
#[path = "../mesh/mod.rs"]
mod mesh;
mod native;
mod rules;
mod scene;
mod settings;
mod tables;
mod trouble;
