//! What a node pays: enrolling, changing and withdrawing pods, and memory.

mod bare;
mod enrol;

use std::path::PathBuf;

use anyhow::Result;

use crate::sample::Sample;

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Few repetitions and few pods: to see that it runs.
    pub quick: bool,
    /// The agent's binary.
    pub agent: PathBuf,
}

/// Measures, and hands every reading over as soon as it is there.
///
/// # Errors
/// Where something can't be set up, or a connection was not intercepted that should have been.
pub fn measure(options: &Options, report: &mut dyn FnMut(Sample)) -> Result<()> {
    enrol::measure(options, report)
}
