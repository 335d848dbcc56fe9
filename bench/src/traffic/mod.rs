//! Connections and bytes, by every variant, interleaved.

mod cell;
pub mod lists;
mod peer;
pub mod plan;
mod rounds;
mod stage;
mod subject;

pub use rounds::{Options, measure};
