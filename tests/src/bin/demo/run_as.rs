//! Becomes a program that is not ours, in a pod, as its user.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::unistd::{Uid, fchown};

use osm_tests::enter::Place;

/// Where to go, and what to become there.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Whose stdout and stderr are, so that it may open /dev/stdout
    #[arg(long)]
    output_of: u32,
    /// The program
    program: PathBuf,
    /// Its arguments
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Goes there and becomes the program. The kernel kills it when its parent ends.
///
/// # Errors
/// Where a step of that fails; on success this does not return.
pub fn run(args: &Args) -> Result<Infallible> {
    let program = args.program.display();
    // Opened as root: the user may be barred from a directory on the way.
    let binary = File::open(&args.program).with_context(|| format!("opening {program}"))?;
    let owner = Some(Uid::from_raw(args.output_of));
    fchown(io::stdout(), owner, None).context("giving stdout away")?;
    fchown(io::stderr(), owner, None).context("giving stderr away")?;
    args.place.enter()?;
    let error = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()))
        .arg0(&args.program)
        .args(&args.arguments)
        .exec();
    Err(error).with_context(|| format!("starting {program}"))
}
