//! What the programs log, put into the log of this process.

use std::{io, os::fd::AsFd as _, thread};

use aya_log::EbpfLogger;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{Ebpf, objects};
use crate::error::{Result, Tried as _};

/// The name of the program by which the records of all of a version are found.
const PROGRAM: &str = "socket_events";

impl Ebpf {
    /// From now on, and as long as this process lives, what the programs of this version log is in
    /// its own log, as of `osm_ebpf`. Before it comes what was logged while nobody read it, as far as that
    /// was kept.
    ///
    /// # Errors
    /// Where the records can't be read.
    pub fn follow_log(&self) -> Result<()> {
        if objects::log_level() == objects::LogLevel::Off {
            return Ok(());
        }
        let tried = || "read what the BPF programs log";
        let mut programs = self.programs.held().iter();
        let program = programs
            .find(|held| held.path.ends_with(PROGRAM))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .tried(tried)?;
        let mut logger = EbpfLogger::init_from_id(program.id).tried(tried)?;
        let follow = move || {
            loop {
                logger.flush();
                let mut waiting = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
                match poll(&mut waiting, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => {
                        tracing::warn!("cannot wait for what the BPF programs log: {error}");
                        return;
                    }
                }
            }
        };
        let reader = thread::Builder::new().name("osm-bpf-log".into());
        reader.spawn(follow).tried(tried)?;
        Ok(())
    }
}
