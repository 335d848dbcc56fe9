//! The writing side of an end.

use std::fs::File;
use std::io::{self, IoSlice, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::epoll::EpollFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use socket2::{Socket, TcpKeepalive};

use super::receive::Waiter;
use super::{Half, Pattern, WriteBy};

/// What a pipe holds.
const PIPE: usize = 64 << 10;

/// Writes a stream piece by piece, and says how many bytes the socket took.
#[derive(Debug)]
pub struct Sender<'a> {
    socket: &'a Socket,
    half: &'a Half,
    pattern: Pattern,
    waiter: Waiter,
    rng: Rng,
    pipe: Option<(OwnedFd, OwnedFd)>,
    file: Option<File>,
    /// How many bytes the socket took.
    pub done: u64,
}

impl<'a> Sender<'a> {
    /// One for this end.
    ///
    /// # Errors
    /// Where the socket can't be set up.
    pub fn new(socket: &'a Socket, half: &'a Half, pattern: Pattern) -> io::Result<Self> {
        socket.set_tcp_nodelay(half.no_delay)?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(30)))?;
        Ok(Self {
            socket,
            half,
            pattern,
            waiter: Waiter::new(socket, half.mode, EpollFlags::EPOLLOUT)?,
            rng: Rng::with_seed(half.seed ^ 1),
            pipe: None,
            file: None,
            done: 0,
        })
    }

    /// Writes the first `length` bytes of the stream.
    ///
    /// # Errors
    /// The error of the call that failed; `TimedOut` where the socket takes nothing for too long.
    pub fn send(&mut self, length: u64) -> io::Result<()> {
        let mut piece = Vec::new();
        while self.done < length {
            let left = usize::try_from(length - self.done).unwrap_or(usize::MAX);
            piece.resize(self.rng.usize(1..=self.half.write_max).min(left), 0);
            self.pattern.fill(self.done, &mut piece);
            let by = self.half.write_by[self.rng.usize(..self.half.write_by.len())];
            let cork = self.half.cork && self.rng.u32(0..3) == 0;
            if cork {
                self.socket.set_tcp_cork(true)?;
            }
            match by {
                WriteBy::Sendfile => self.by_sendfile(&piece)?,
                WriteBy::Splice => self.by_splice(&piece)?,
                _ => self.by_copy(by, &piece)?,
            }
            if cork {
                self.socket.set_tcp_cork(false)?;
            }
            if self
                .half
                .write_pause
                .is_some_and(|it| self.rng.u32(0..it) == 0)
            {
                thread::sleep(Duration::from_millis(self.rng.u64(1..8)));
            }
        }
        Ok(())
    }

    /// How often a blocking call said that it would block.
    #[must_use]
    pub fn spurious(&self) -> u64 {
        self.waiter.spurious
    }

    fn by_copy(&mut self, by: WriteBy, piece: &[u8]) -> io::Result<()> {
        let mut rest = piece;
        while !rest.is_empty() {
            let parts = cut(rest, &mut self.rng);
            let socket = self.socket;
            let written = self.waiter.until(|| match by {
                WriteBy::Writev => (&*socket).write_vectored(&parts),
                WriteBy::Sendmsg => socket.send_vectored(&parts),
                WriteBy::SendMore => socket.send_with_flags(rest, libc::MSG_MORE),
                _ => (&*socket).write(rest),
            })?;
            self.done += written as u64;
            rest = &rest[written..];
        }
        Ok(())
    }

    fn by_sendfile(&mut self, piece: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(memfd_create(c"stream", MFdFlags::MFD_CLOEXEC)?.into()),
        };
        // A new file: TCP may still hold the pages of the last one.
        *file = memfd_create(c"stream", MFdFlags::MFD_CLOEXEC)?.into();
        file.write_all(piece)?;
        file.seek(SeekFrom::Start(0))?;
        let mut left = piece.len();
        while left > 0 {
            let socket = self.socket;
            let written = self
                .waiter
                .until(|| Ok(sendfile(socket, &*file, None, left)?))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.done += written as u64;
            left -= written;
        }
        Ok(())
    }

    fn by_splice(&mut self, piece: &[u8]) -> io::Result<()> {
        let (from, to) = match &mut self.pipe {
            Some(pipe) => pipe,
            none => none.insert(nix::unistd::pipe()?),
        };
        for part in piece.chunks(PIPE) {
            let mut into = part;
            while !into.is_empty() {
                into = &into[nix::unistd::write(to.as_fd(), into)?..];
            }
            let mut left = part.len();
            while left > 0 {
                let socket = self.socket;
                let written = self.waiter.until(|| {
                    let flags = SpliceFFlags::SPLICE_F_MOVE;
                    Ok(splice(from.as_fd(), None, socket, None, left, flags)?)
                })?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.done += written as u64;
                left -= written;
            }
        }
        Ok(())
    }
}

/// Cuts into up to five parts, some of them empty.
fn cut<'a>(bytes: &'a [u8], rng: &mut Rng) -> Vec<IoSlice<'a>> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    for _ in 0..rng.usize(0..5) {
        let (part, after) = rest.split_at(rng.usize(0..=rest.len()));
        parts.push(IoSlice::new(part));
        rest = after;
    }
    parts.push(IoSlice::new(rest));
    parts
}
