//! Which way a socket's bytes went.

use std::io;
use std::os::fd::AsFd;

use crate::sys::{self, Question};

/// `tcpi_bytes_acked` and `tcpi_bytes_received` of `struct tcp_info` (`linux/tcp.h`).
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;

/// As much of `struct tcp_info` as we read.
const INFO_LENGTH: u32 = 136;

/// SYN and FIN count as bytes to TCP.
const FLAGS: u64 = 2;

/// What a socket gave to TCP, and got from it. What took the shortcut is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByTcp {
    /// Bytes that TCP was given to send, SYN and FIN among them.
    pub sent: u64,
    /// Bytes that have come by TCP, the FIN among them.
    pub received: u64,
}

impl ByTcp {
    /// Did TCP not get all of the bytes that the socket took? Not seen with one or two bytes.
    #[must_use]
    pub const fn less_than(self, taken: u64) -> bool {
        self.sent + FLAGS < taken
    }

    /// Did TCP get none of the bytes that the socket took?
    #[must_use]
    pub const fn sent_nothing(self) -> bool {
        self.sent <= FLAGS
    }
}

/// Asks the socket: `TCP_INFO` for what was acknowledged, `SIOCOUTQ` for what was not.
///
/// # Errors
/// The error of a call; `InvalidData` on kernels that don't count.
pub fn by_tcp(socket: impl AsFd) -> io::Result<ByTcp> {
    // In this order: what is acknowledged meanwhile counts twice, and not never.
    let waiting = sys::ask(socket.as_fd(), Question::Unacknowledged)?;
    let info = sys::getsockopt(
        socket.as_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        INFO_LENGTH,
    )?;
    let counter = |at: usize| {
        let bytes = info.get(at..at + 8).and_then(<[u8]>::first_chunk);
        bytes
            .map(|it| u64::from_ne_bytes(*it))
            .ok_or(io::ErrorKind::InvalidData)
    };
    Ok(ByTcp {
        sent: counter(BYTES_ACKED)? + u64::try_from(waiting).unwrap_or(0),
        received: counter(BYTES_RECEIVED)?,
    })
}
