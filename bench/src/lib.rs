//! What interception costs: connections and bytes against iptables and against none, and what
//! the agent needs to enrol, change and withdraw pods.
//!
//! Each measurement returns [`sample::Sample`]s; everything behind them (medians, ratios, tables,
//! files, plots) is the same for all.

pub mod node;
pub mod sample;
