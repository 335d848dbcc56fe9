//! Becomes another program, in the same place.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The program and its arguments.
#[derive(clap::Args)]
pub struct Args {
    /// What to become: a path, or a name to be found in PATH
    program: PathBuf,
    /// Its arguments
    #[arg(last = true)]
    arguments: Vec<OsString>,
    /// Whose stdout and stderr are, so that it may open /dev/stdout
    #[arg(long)]
    output_of: Option<u32>,
}

impl Args {
    /// Opens what only root may reach: a path to the program.
    pub fn open(&self) -> Result<Option<File>> {
        if let Some(user) = self.output_of {
            let owner = Some(nix::unistd::Uid::from_raw(user));
            nix::unistd::fchown(std::io::stdout(), owner, None).context("giving stdout away")?;
            nix::unistd::fchown(std::io::stderr(), owner, None).context("giving stderr away")?;
        }
        if self.program.components().count() == 1 {
            return Ok(None);
        }
        let opening = || format!("opening {}", self.program.display());
        File::open(&self.program).with_context(opening).map(Some)
    }
}

/// Becomes it.
pub fn run(args: &Args, opened: Option<&File>) -> Result<Infallible> {
    let path = opened.map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
    let path = path.as_deref().map_or(args.program.as_path(), Path::new);
    let error = Command::new(path)
        .arg0(&args.program)
        .args(&args.arguments)
        // The one there was may be out of the user's reach.
        .current_dir("/")
        .exec();
    Err(error).with_context(|| format!("starting {}", args.program.display()))
}
