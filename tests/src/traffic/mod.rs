//! Streams whose every byte is known, over every kind of connection that a pod has.
//!
//! Sockets are made by processes inside the pod ([`Broker`]) and handed to the test, which plays both
//! ends. What is sent is a function of the connection and the offset ([`Pattern`]), so that a wrong,
//! lost, doubled or swapped byte is seen where it is read. The same can be played over a connection
//! that nobody intercepts ([`Route::Bypassed`]), to compare.

mod broker;
mod pattern;
mod plan;
mod play;
mod receive;
mod scene;
mod send;
mod storm;
mod witness;

pub use broker::{Broker, Order};
pub use pattern::{Mismatch, Pattern};
pub use plan::{Ending, Half, Mode, Plan, ReadBy, WriteBy};
pub use play::{Played, play};
pub use scene::{Kind, Pair, Route, Scene, accept};
pub use storm::{Storm, Summary};
pub use witness::{ByTcp, by_tcp};

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a connection may stand still before it counts as hung.
pub const WATCHDOG: Duration = Duration::from_mins(1);

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The one that dialled.
    Client,
    /// The one that accepted.
    Server,
}

impl End {
    /// The one at the other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Waits until the socket is ready for this.
///
/// # Errors
/// `TimedOut` where it is not in [`WATCHDOG`].
pub fn wait(socket: impl AsFd, wanted: PollFlags) -> io::Result<()> {
    let limit = u16::try_from(WATCHDOG.as_millis()).unwrap_or(u16::MAX);
    let mut wanted = [PollFd::new(socket.as_fd(), wanted)];
    match poll(&mut wanted, PollTimeout::from(limit)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
