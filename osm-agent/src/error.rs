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

    /// All was done, and still connections do not go where they have to.
    #[error("redirection does not work: {problem}; {advice}")]
    NotInForce {
        /// What was seen.
        problem: String,
        /// What to do.
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
    /// The exit status: 2 for usage and configuration, 126 where redirection was tried and does
    /// not work, 1 for the rest.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Input { .. } => 2,
            Self::System { .. } | Self::State { .. } => 1,
            Self::NotInForce { .. } => 126,
        }
    }

    /// Whether the kernel, or a policy of the machine, does not let it be done at all: another
    /// way may be open.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        let Self::System { source, .. } = self else {
            return false;
        };
        errno(source.as_ref()).is_some_and(|errno| {
            matches!(
                errno,
                libc::EINVAL
                    | libc::ENOSYS
                    | libc::EOPNOTSUPP
                    | libc::ENOPROTOOPT
                    | libc::ENODEV
                    | libc::EPERM
                    | libc::EACCES
            )
        })
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
            advice: why_not_said(&error) + &advice(&error),
            source: Box::new(error),
        })
    }
}

/// The system's words, where the error above it leaves them out.
fn why_not_said(error: &(dyn std::error::Error + 'static)) -> String {
    match errno(error).map(|errno| io::Error::from_raw_os_error(errno).to_string()) {
        Some(words) if !error.to_string().contains(&words) => format!(": {words}"),
        _ => String::new(),
    }
}

fn advice(error: &(dyn std::error::Error + 'static)) -> String {
    let advice = match errno(error) {
        Some(libc::EPERM | libc::EACCES) => {
            "run as root with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
        }
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOPROTOOPT) => {
            "this kernel may lack it: Linux 5.10 or later with CONFIG_BPF_SYSCALL and \
             CONFIG_CGROUP_BPF is needed"
        }
        Some(libc::ENOMEM | libc::ENOSPC) => "the kernel has no room for it: nothing was changed",
        _ => return String::new(),
    };
    format!("; {advice}")
}

/// The system's error at the bottom of an error.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
}
