//! What interception costs: connections and bytes against iptables and against none, and what
//! the agent needs to enrol, change and withdraw pods.
//!
//! Each measurement returns [`sample::Sample`]s; everything behind them (medians, ratios, tables,
//! files, plots) is the same for all.

#![forbid(unsafe_code)]

pub mod figure;
pub mod machine;
pub mod node;
pub mod peer;
pub mod plot;
pub mod progress;
pub mod report;
pub mod sample;
pub mod stats;
pub mod traffic;
