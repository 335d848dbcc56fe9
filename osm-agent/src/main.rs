//! `osm-agent`: intercepts the TCP traffic of service-mesh pods.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use osm_agent::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("osm-agent: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
