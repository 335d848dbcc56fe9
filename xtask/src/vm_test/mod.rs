//! `cargo xtask vm-test`: the tests on Debian's kernels, in virtual machines without hardware's help.

mod compile;
mod console;
mod features;
mod fetch;
mod index;
mod initramfs;
mod machine;
mod modules;
mod payload;
mod record;
mod suites;
mod table;
mod userland;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::build;
use crate::progress::Progress;
use crate::setup::{self, Need};
use crate::test;
use crate::workspace::Workspace;
use fetch::Kernel;
use machine::Machine;
use payload::Plan;
use suites::{SUITES, Suite};
use table::{Missing, Row};
use userland::Userland;

/// Long-term ones, and the newest.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.3"];

/// Two that `--quick` runs: the oldest, and the newest.
const QUICK_KERNELS: [&str; 2] = ["5.10", "7.3"];

/// Connections that the conformance test makes.
const CASES: u32 = 400;
/// The same for `--quick`.
const QUICK_CASES: u32 = 100;

/// Arguments of `vm-test`.
#[derive(clap::Args)]
pub struct Args {
    /// Which kernels, by version [default: 5.10,6.1,6.12,6.18,7.3].
    #[arg(long, value_delimiter = ',', value_name = "VERSION")]
    kernel: Vec<String>,
    /// Which kind of machine; another than this one takes what is compiled for it, and Debian's tools
    /// [default: this one's].
    #[arg(long, value_enum, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Which suites: budget, fallback, conformance, iptables, behaviour, lifecycle [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    suite: Vec<String>,
    /// Only tests whose names contain this; several are possible.
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Two kernels and the suites that take least, for CI.
    #[arg(long)]
    quick: bool,
    /// How many machines run at once; each takes a core and 2.5 GiB.
    #[arg(long, default_value_t = 2, value_name = "N")]
    jobs: usize,
    /// Write what these kernels can do to docs/kernels.md, and what their verifiers have to do to
    /// tests/verifier-budget.json, instead of comparing.
    #[arg(long)]
    record: bool,
}

impl Args {
    fn kernels(&self) -> Vec<String> {
        let standard: &[&str] = if self.quick { &QUICK_KERNELS } else { &KERNELS };
        if self.kernel.is_empty() {
            return standard.iter().map(ToString::to_string).collect();
        }
        self.kernel.clone()
    }

    /// For the test programs. What tests left out and why is in what passed ones printed.
    fn harness(&self) -> Vec<String> {
        let shown = "--show-output".to_owned();
        self.filter.iter().cloned().chain([shown]).collect()
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let cases = if self.quick { QUICK_CASES } else { CASES };
        let mut variables = vec![
            ("OSM_CONFORMANCE_CASES", cases.to_string()),
            ("RUST_BACKTRACE", "0".to_owned()),
        ];
        if self.record {
            variables.push(("OSM_VERIFIER_BUDGET", "record".to_owned()));
        }
        variables
    }
}

/// Compiles the tests, gets emulator and kernels, runs the machines and prints the table.
///
/// # Errors
///
/// When something needed can't be had or a build fails; failed tests show in the exit status.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    if args.jobs == 0 {
        bail!("--jobs has to be 1 at least");
    }
    let arch = args.arch.map_or_else(Arch::host, Ok)?;
    if args.record && !arch.is_host() {
        bail!("what is written down is of machines such as this: --record does not go with --arch");
    }
    let suites = suites::select(&args.suite, args.quick)?;
    let home = home(workspace, arch)?;
    setup::ensure(workspace, &needs(arch))?;
    let emulator = fetch::emulator(workspace, arch, &home)?;
    let userland = Userland::of(workspace, arch, &home, &emulator)?;
    let series = args.kernels();
    let kernels = fetch::kernels(workspace, arch, &home, &series)?;
    let built = compile::all(workspace, arch, &suites)?;
    let payload = payload::write(
        workspace,
        &home,
        &Plan {
            arch,
            userland: &userland,
            binaries: &built.binaries,
            next_agent: &built.next_agent,
            tests: &built.tests,
            suites: &suites,
            arguments: &args.harness(),
            variables: &args.variables(),
        },
    )?;
    let ground = Ground {
        workspace,
        arch,
        home,
        emulator,
        busybox: userland.busybox(),
        payload,
        expected: expected(&suites),
    };
    let mut rows = ground.all(series.into_iter().zip(kernels).collect(), args.jobs);
    record::settle(workspace, &mut rows, args.record)?;
    let names: Vec<_> = suites.iter().map(|suite| suite.name).collect();
    println!("\n{}", table::render(&rows, &names));
    if table::is_green(&rows) {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

/// Where machines of a kind are; those of another kind than this system have a place of their own.
fn home(workspace: &Workspace, arch: Arch) -> Result<PathBuf> {
    let mut home = workspace.target().join("vm-test");
    if !arch.is_host() {
        home.push(arch.platform());
    }
    fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    Ok(home)
}

/// What compiling for a kind of machine takes, and what is packed up for it.
fn needs(arch: Arch) -> Vec<Need> {
    let others: &[Need] = if arch.is_host() {
        &test::NEEDS
    } else {
        &[Need::Zigbuild]
    };
    [&build::NEEDS[..], others].concat()
}

/// What has to end in every machine.
fn expected(suites: &[&Suite]) -> Vec<(&'static str, &'static str)> {
    let suites = SUITES
        .iter()
        .filter(|suite| suites.iter().any(|it| it.name == suite.name));
    suites
        .flat_map(|suite| suite.programs.iter().map(|program| (suite.name, *program)))
        .collect()
}

/// What all machines have in common.
struct Ground<'a> {
    workspace: &'a Workspace,
    arch: Arch,
    home: PathBuf,
    emulator: PathBuf,
    busybox: PathBuf,
    payload: PathBuf,
    expected: Vec<(&'static str, &'static str)>,
}

impl Ground<'_> {
    /// Runs as many at once as may be; the rows are in the order of the kernels.
    fn all(&self, kernels: Vec<(String, Result<Kernel>)>, jobs: usize) -> Vec<Row> {
        let count = kernels.len();
        let progress = Progress::start(&format!("Running {count} machines, {jobs} at once"));
        let queue: Mutex<VecDeque<_>> = Mutex::new(kernels.into_iter().enumerate().collect());
        let rows = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..jobs.min(count) {
                scope.spawn(|| {
                    while let Some((place, (series, kernel))) = next(&queue) {
                        let row = self.row(series, kernel, &progress);
                        rows.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((place, row));
                    }
                });
            }
        });
        let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
        rows.sort_by_key(|(place, _)| *place);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    fn row(&self, series: String, kernel: Result<Kernel>, progress: &Progress) -> Row {
        let label = self.label(&series);
        let kernel = match kernel {
            Ok(kernel) => kernel,
            Err(error) => {
                return Row {
                    series,
                    label,
                    version: None,
                    outcome: Err(Missing::Skipped(format!("{error:#}"))),
                };
            }
        };
        let image = kernel.image();
        let version = image.as_ref().ok();
        let version = version.map(|(_, version)| self.label(version));
        let outcome = image.and_then(|(image, _)| self.machine(&kernel, &image, progress));
        Row {
            series,
            label,
            version,
            outcome: outcome.map_err(|error| Missing::Failed(format!("{error:#}"))),
        }
    }

    /// A kernel's version, with the kind of machine where that is not this system's.
    fn label(&self, version: &str) -> String {
        if self.arch.is_host() {
            return version.to_owned();
        }
        let suffix = self.arch.kernel_suffix();
        let version = version.strip_suffix(&suffix).unwrap_or(version);
        format!("{version} ({})", self.arch.platform())
    }

    fn machine(
        &self,
        kernel: &Kernel,
        image: &Path,
        progress: &Progress,
    ) -> Result<console::Console> {
        let series = &kernel.series;
        let home = self.home.join("run").join(series);
        fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
        let initramfs =
            initramfs::make(self.workspace, kernel, &self.busybox, &self.emulator, &home)?;
        let machine = Machine {
            arch: self.arch,
            emulator: &self.emulator,
            kernel: image,
            initramfs: &initramfs,
            payload: &self.payload,
            home: &home,
        };
        let (label, log) = (self.label(series), machine.log());
        progress.line(&format!("{label}: starts, log {}", log.display()));
        let tell = |what: &str| progress.line(&format!("{label}: {what}"));
        machine.run(self.workspace, &self.expected, &tell)
    }
}

fn next<T>(queue: &Mutex<VecDeque<T>>) -> Option<T> {
    queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_front()
}
