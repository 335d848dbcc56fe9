//! `osm-agent`: intercepts the TCP traffic of service-mesh pods.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use osm_agent::cli::Cli;

fn main() -> ExitCode {
    match Cli::of_process().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The status says it as well, where nobody reads this.
            let _ = writeln!(io::stderr(), "osm-agent: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
