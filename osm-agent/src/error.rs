//! The one error that commands end with.

use std::{fmt::Display, io, path::PathBuf};

/// Why a command failed. Its text says what was tried, on what, why it failed and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A list, a mode or the file that holds them is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::Error),

    /// What was asked for can't be done to this pod.
    #[error("{what}: {problem}; {advice}")]
    Input {
        /// The path, name or flag that was given.
        what: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        advice: String,
    },

    /// The kernel refused.
    #[error("cannot {tried}: {source}{advice}")]
    System {
        /// What was tried, and on what.
        tried: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// What to do, behind a semicolon; or nothing.
        advice: String,
    },

    /// What another agent left is not what this one understands.
    #[error("{}: {problem}; {advice}", path.display())]
    State {
        /// The state directory, or what in it.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        advice: String,
    },
}

/// What commands return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The exit status: 2 for usage and configuration, 1 for the rest.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Input { .. } => 2,
            Self::System { .. } | Self::State { .. } => 1,
        }
    }

    /// A bad input.
    pub fn input(
        what: impl Display,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::Input {
            what: what.to_string(),
            problem: problem.into(),
            advice: advice.into(),
        }
    }
}

/// Says what was being tried when an error came up.
pub trait Tried<T> {
    /// `cannot <tried>: <error>`, with the advice that fits the error.
    ///
    /// # Errors
    /// The error of `self`.
    fn tried<S: Into<String>>(self, tried: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: std::error::Error + Send + Sync + 'static> Tried<T> for Result<T, E> {
    fn tried<S: Into<String>>(self, tried: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::System {
            tried: tried().into(),
            advice: advice(&error),
            source: Box::new(error),
        })
    }
}

fn advice(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return match io.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "; run as root with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN".into()
                }
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => {
                    "; this kernel may lack it: Linux 5.15 or later with CONFIG_BPF_SYSCALL and \
                     CONFIG_CGROUP_BPF is needed"
                        .into()
                }
                Some(libc::ENOMEM | libc::ENOSPC) => {
                    "; the kernel has no room for it: nothing was changed".into()
                }
                _ => String::new(),
            };
        }
        cause = error.source();
    }
    String::new()
}
