//! The agent as a library: configuration, policy and datapath.

pub mod config;
pub mod policy;
