//! Round by round, so that what the machine does meanwhile hits all variants alike.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use osm_tests::interrupt::Interrupt;

use super::cell::Cell;
use super::plan::{self, Block, Effort};
use super::stage::Stage;
use crate::progress::Progress;
use crate::report::LeftOut;
use crate::sample::Sample;

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The benchmark's own binary, as which peers run.
    pub program: PathBuf,
    /// Which of [`plan::MEASUREMENTS`].
    pub measurements: Vec<&'static str>,
    /// How thoroughly.
    pub effort: Effort,
    /// Of what is chosen at random.
    pub seed: u64,
}

/// Measures, and hands out samples as they come and what is left out.
///
/// # Errors
/// Where a connection fails or was not intercepted as it should have been, or a signal came.
pub fn measure(
    options: &Options,
    interrupt: &Interrupt,
    take: &mut dyn FnMut(Sample),
    leave_out: &mut dyn FnMut(LeftOut),
) -> Result<()> {
    let cores = plan::cores().context("asking which cores there are")?;
    let mut stage = Stage::new(&options.program, options.seed)?;
    for name in &options.measurements {
        let mut block = plan::block(name, options.effort, &cores);
        let progress = Progress::start("making pods", count(&block));
        for left_out in prepare(&mut stage, &mut block, interrupt, &progress)? {
            leave_out(left_out);
        }
        drop(progress);
        let progress = Progress::start(name, count(&block) * block.rounds);
        for round in 0..block.rounds {
            for cell in order(&block, round) {
                interrupt.check()?;
                progress.step(&format!("{} {}", cell.setting, cell.variant));
                cell.measure(&mut stage)?.into_iter().for_each(&mut *take);
            }
        }
    }
    Ok(())
}

fn count(block: &Block) -> usize {
    block.settings.iter().map(Vec::len).sum()
}

/// Has all pods of the block ready, and takes the cells out whose pods can't be made.
fn prepare(
    stage: &mut Stage,
    block: &mut Block,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<Vec<LeftOut>> {
    let mut left_out = Vec::new();
    for setting in &mut block.settings {
        let mut kept = Vec::new();
        for cell in setting.drain(..) {
            interrupt.check()?;
            progress.step(&format!("{} with {}", cell.variant, cell.lists));
            match stage.prepare(cell.variant, cell.lists, cell.cores)? {
                None => {
                    cell.warm_up(stage)?;
                    kept.push(cell);
                }
                Some(reason) => left_out.push(LeftOut {
                    measurement: cell.measurement.to_owned(),
                    setting: cell.setting,
                    variant: cell.variant,
                    reason,
                }),
            }
        }
        *setting = kept;
    }
    Ok(left_out)
}

/// The order of a round: the next setting and the next variant come first in the next one, and every
/// other round goes backwards, so that nobody always follows the same one.
fn order(block: &Block, round: usize) -> Vec<&Cell> {
    let mut cells = Vec::new();
    for setting in rotated(&block.settings, round) {
        cells.extend(rotated(setting, round));
    }
    if round % 2 == 1 {
        cells.reverse();
    }
    cells
}

fn rotated<T>(items: &[T], by: usize) -> impl Iterator<Item = &T> {
    let (behind, first) = items.split_at(by % items.len().max(1));
    first.iter().chain(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_rounds_gives_every_cell_every_place() {
        let effort = Effort {
            is_quick: true,
            rounds: None,
        };
        let block = plan::block("connections-inbound", effort, &[0, 1]);
        let cells = count(&block);
        let firsts: std::collections::HashSet<_> = (0..2 * cells)
            .map(|round| {
                (
                    &order(&block, round)[0].setting,
                    order(&block, round)[0].variant,
                )
            })
            .collect();
        assert_eq!(firsts.len(), cells);
        for round in 0..cells {
            assert_eq!(
                order(&block, round).len(),
                cells,
                "round {round} leaves something out"
            );
        }
        let follows = |round: usize| {
            let order = order(&block, round);
            (order[0].variant, order[1].variant)
        };
        assert_ne!(follows(0), follows(1));
    }
}
