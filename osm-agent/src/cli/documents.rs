//! `osm-agent completions` and `osm-agent man`: what is made from the definition of the commands.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::{Cli, out::say};
use crate::error::{Result, Tried as _};

/// The name by which shells call this program.
const PROGRAM: &str = "osm-agent";

/// See [`super::Command::Completions`].
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  source <(osm-agent completions bash)
  osm-agent completions zsh > /usr/local/share/zsh/site-functions/_osm-agent")]
pub struct Completions {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), PROGRAM, &mut script);
        let script = String::from_utf8_lossy(&script);
        say(format_args!("{}", script.trim_end()));
    }
}

/// See [`super::Command::Man`].
#[derive(Args, Debug)]
pub struct Man {
    /// Where to put them; it has to be there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(self) -> Result<()> {
        let command = Cli::command().name(PROGRAM);
        clap_mangen::generate_to(command, &self.directory)
            .tried(|| format!("write the manual pages to {}", self.directory.display()))
    }
}
