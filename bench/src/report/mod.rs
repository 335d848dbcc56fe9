//! What comes out: a table to read, files to reckon with.

mod files;
mod names;
mod number;
mod page;
mod table;

pub use files::{read, write};
pub use names::title;
pub use number::{compact, count, percent, ratio, short};
pub use page::update;
pub use table::tables;

use serde::{Deserialize, Serialize};

use crate::figure::Figure;
use crate::machine::Machine;
use crate::sample::{Sample, Variant};

/// Something that was not measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// The measurement.
    pub measurement: String,
    /// The setting.
    pub setting: String,
    /// The variant.
    pub variant: Variant,
    /// Why not.
    pub reason: String,
}

/// How a run was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Parameters {
    /// Whether it was only to see that it runs.
    pub quick: bool,
    /// The measurements.
    pub measurements: Vec<String>,
    /// Of what was chosen at random.
    pub seed: u64,
    /// How many rounds, where not as many as each measurement has by itself.
    pub rounds: Option<usize>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// All of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// How.
    pub parameters: Parameters,
    /// What was read.
    pub samples: Vec<Sample>,
    /// The samples, put together.
    pub figures: Vec<Figure>,
    /// What is missing.
    pub left_out: Vec<LeftOut>,
}
