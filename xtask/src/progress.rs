//! What a person sees while something takes long: a spinner on a terminal, plain lines elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use console::strip_ansi_codes;
use indicatif::{ProgressBar, ProgressStyle};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(120);

/// One thing that takes long. The spinner goes when this is dropped.
pub struct Progress {
    spinner: Option<ProgressBar>,
}

impl Progress {
    /// Says that `what` begins.
    pub fn start(what: &str) -> Self {
        if !on_terminal() {
            eprintln!("{what}");
            return Self { spinner: None };
        }
        let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed:.dim}  {wide_msg}")
            .expect("the template above is valid");
        let spinner = ProgressBar::new_spinner().with_style(style);
        spinner.set_prefix(what.to_owned());
        spinner.enable_steady_tick(TICK);
        Self {
            spinner: Some(spinner),
        }
    }

    /// Shows what is going on just now.
    pub fn status(&self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(line.trim().to_owned()),
            None => eprintln!("{}", strip_ansi_codes(line)),
        }
    }

    /// Prints a line that stays.
    pub fn line(&self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| eprintln!("{line}")),
            None => eprintln!("{}", strip_ansi_codes(line)),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// Whether someone watches.
pub fn on_terminal() -> bool {
    stderr().is_terminal()
}
