//! The way into a pod: cgroup, namespace, user.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, getppid, setgid, setgroups, setuid};

/// Where, and as whom, the process does its part.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Network namespace to enter
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Cgroup (v2) to join
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// User and group to become
    #[arg(long)]
    uid: Option<u32>,
}

impl Place {
    /// Goes there. Has to run before any other thread does. The kernel kills the process when its
    /// parent ends.
    ///
    /// # Errors
    /// Where a step of that fails.
    pub fn enter(&self) -> Result<()> {
        let parent = getppid();
        raise_file_limit()?;
        if let Some(dir) = &self.cgroup {
            let procs = dir.join("cgroup.procs");
            fs::write(&procs, "0").with_context(|| format!("joining {}", procs.display()))?;
        }
        if let Some(path) = &self.netns {
            let entering = || format!("entering {}", path.display());
            let netns = File::open(path).with_context(entering)?;
            setns(netns, CloneFlags::CLONE_NEWNET).with_context(entering)?;
        }
        if let Some(uid) = self.uid {
            setgroups(&[]).context("dropping groups")?;
            setgid(Gid::from_raw(uid)).context("changing the group")?;
            setuid(Uid::from_raw(uid)).context("changing the user")?;
        }
        // The kernel forgets the signal when the user changes.
        set_pdeathsig(Signal::SIGKILL).context("asking to die with the parent")?;
        ensure!(getppid() == parent, "the parent is gone");
        Ok(())
    }
}

fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of files")
}
