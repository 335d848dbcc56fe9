//! The benchmark. `cargo xtask bench` builds and runs it.
//!
//! Run as root in a mount namespace of its own. Exit status: 0 when everything was measured, 1 when
//! not, 128 and the signal's number after a signal. Whatever it made is gone when it ends.

#![forbid(unsafe_code)]

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Error, Result, bail, ensure};
use clap::{Parser, Subcommand};
use osm_bench::figure::figures;
use osm_bench::machine::Machine;
use osm_bench::progress::Progress;
use osm_bench::report::{Parameters, Report, tables};
use osm_bench::sample::Sample;
use osm_bench::traffic::plan::{self, Effort};
use osm_bench::{node, peer, plot, report, traffic};
use osm_tests::interrupt::{Interrupt, Interrupted};

/// What is measured of the agent's own work, as `--only` names it.
const NODE: &str = "node";

/// Measures what interception costs.
#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and report
    Run(Box<Run>),
    /// Report once more what was measured before
    Show(Show),
    /// One end of the measured connections
    #[command(hide = true)]
    Peer(peer::Args),
}

#[derive(clap::Args)]
struct Run {
    /// Measure for less than two minutes, to see that it runs
    #[arg(long)]
    quick: bool,
    /// Measure only these [default: all]
    #[arg(long, value_name = "MEASUREMENT", num_args = 1.., value_delimiter = ',',
        value_parser = measurements())]
    only: Vec<String>,
    /// Of what is chosen at random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds of every measurement [default: as many as it has by itself]
    #[arg(long)]
    rounds: Option<usize>,
    #[command(flatten)]
    results: Results,
}

#[derive(clap::Args)]
struct Show {
    /// The bench.json of a run
    json: PathBuf,
    #[command(flatten)]
    results: Results,
}

#[derive(clap::Args)]
struct Results {
    /// Where bench.json, bench.csv and the plots go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    output: PathBuf,
    /// The page to put tables and plots into
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Run(run) => bench(&run),
        Command::Show(show) => report::read(&show.json).and_then(|it| publish(&it, &show.results)),
        Command::Peer(args) => peer::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

fn failure(error: &Error) -> ExitCode {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        eprintln!("bench: {interrupted}; everything it had made is removed");
        return ExitCode::from(interrupted.exit_code());
    }
    eprintln!("bench: {error:#}");
    ExitCode::FAILURE
}

fn bench(run: &Run) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark makes namespaces and cgroups and intercepts connections in them; run it as root"
    );
    let interrupt = Interrupt::catch().context("taking over ^C")?;
    // The harness panics where a scene can't be built, and the hook has said why by then.
    let report = catch_unwind(AssertUnwindSafe(|| measure(run, &interrupt)));
    let report = report.unwrap_or_else(|panic| match panic.downcast::<Interrupted>() {
        Ok(interrupted) => Err((*interrupted).into()),
        Err(_) => bail!("the benchmark could not go on (see above); what it had made is removed"),
    });
    publish(&report?, &run.results)
}

/// Prints and writes what was measured.
fn publish(report: &Report, results: &Results) -> Result<()> {
    println!("{}", tables(report));
    report::write(report, &results.output)?;
    let plots = plot::draw(&report.figures, &results.output)?;
    if let Some(page) = &results.page {
        report::update(report, page, &results.output, &plots)?;
    }
    println!("written to {}", results.output.display());
    Ok(())
}

fn measure(run: &Run, interrupt: &Interrupt) -> Result<Report> {
    let machine = Machine::this();
    let start = Instant::now();
    let mut measurements = measurements();
    measurements.retain(|name| run.only.is_empty() || run.only.iter().any(|it| it == name));
    let options = traffic::Options {
        program: env::current_exe().context("the benchmark's own path")?,
        measurements: measurements
            .iter()
            .copied()
            .filter(|name| *name != NODE)
            .collect(),
        effort: Effort {
            is_quick: run.quick,
            rounds: run.rounds,
        },
        seed: run.seed,
    };
    let (mut samples, mut left_out) = (Vec::new(), Vec::new());
    traffic::measure(
        &options,
        interrupt,
        &mut |sample| samples.push(sample),
        &mut |it| left_out.push(it),
    )?;
    let report = |samples: &[Sample]| Report {
        machine: machine.clone(),
        parameters: Parameters {
            quick: run.quick,
            measurements: measurements.iter().copied().map(String::from).collect(),
            seed: run.seed,
            rounds: run.rounds,
            seconds: start.elapsed().as_secs_f64(),
        },
        figures: figures(samples),
        samples: samples.to_vec(),
        left_out: left_out.clone(),
    };
    if measurements.contains(&NODE) {
        // What took so long is not lost where the rest fails.
        report::write(&report(&samples), &run.results.output)?;
        measure_node(run.quick, interrupt, &mut samples)?;
    }
    Ok(report(&samples))
}

/// Everything that can be measured.
fn measurements() -> Vec<&'static str> {
    let traffic = plan::MEASUREMENTS.into_iter();
    traffic.chain([NODE]).collect()
}

fn measure_node(quick: bool, interrupt: &Interrupt, samples: &mut Vec<Sample>) -> Result<()> {
    let agent = osm_tests::agent::binary().context("OSM_AGENT has to name the agent's binary")?;
    let progress = Progress::start(NODE, 0);
    node::measure(&node::Options { quick, agent }, &mut |sample| {
        if let Err(interrupted) = interrupt.check() {
            // Nothing but the guards has to be done.
            resume_unwind(Box::new(interrupted));
        }
        progress.step(&format!("{} {}", sample.measurement, sample.setting));
        samples.push(sample);
    })
}
