//! What a person sees while it runs: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

/// Something of many steps. The bar goes when this is dropped.
#[derive(Debug)]
pub struct Progress {
    name: String,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Says that it begins; 0 steps where nobody knows how many there are.
    ///
    /// # Panics
    /// Never: the template is valid.
    #[must_use]
    pub fn start(name: &str, steps: usize) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = match steps {
                0 => "{prefix:.bold} {spinner} {pos} {elapsed:.dim}  {wide_msg}",
                _ => "{prefix:.bold} {bar:24} {pos}/{len} {elapsed:.dim}  {wide_msg}",
            };
            let style = ProgressStyle::with_template(style).expect("the template is valid");
            let bar = ProgressBar::new(steps as u64).with_style(style);
            bar.set_prefix(name.to_owned());
            bar
        });
        if bar.is_none() {
            eprintln!("{name} …");
        }
        Self {
            name: name.to_owned(),
            start: Instant::now(),
            bar,
        }
    }

    /// Says what comes next.
    pub fn step(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
            bar.set_message(what.to_owned());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => eprintln!("{}: {:.1} s", self.name, self.start.elapsed().as_secs_f64()),
        }
    }
}
