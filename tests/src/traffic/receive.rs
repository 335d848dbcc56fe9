//! The reading side of an end.

use std::io::{self, IoSliceMut, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv, recvmsg};
use socket2::Socket;

use super::{Half, Mismatch, Mode, Pattern, ReadBy, WATCHDOG};

/// Waits as an end waits: in the call, or in an epoll instance of its own.
#[derive(Debug)]
pub struct Waiter {
    epoll: Option<Epoll>,
    /// How often a blocking call said that it would block.
    pub spurious: u64,
}

impl Waiter {
    /// One for this socket, which is set to block or not to.
    ///
    /// # Errors
    /// Where the socket can't be set up.
    pub fn new(socket: &Socket, mode: Mode, wanted: EpollFlags) -> io::Result<Self> {
        socket.set_nonblocking(mode != Mode::Blocking)?;
        socket.set_read_timeout(Some(WATCHDOG))?;
        socket.set_write_timeout(Some(WATCHDOG))?;
        let trigger = match mode {
            Mode::Blocking => {
                return Ok(Self {
                    epoll: None,
                    spurious: 0,
                });
            }
            Mode::Level => EpollFlags::empty(),
            Mode::Edge => EpollFlags::EPOLLET,
        };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(socket.as_fd(), EpollEvent::new(wanted | trigger, 0))?;
        Ok(Self {
            epoll: Some(epoll),
            spurious: 0,
        })
    }

    /// Makes the call until it says something else than that it would block.
    ///
    /// # Errors
    /// Its error, or `TimedOut`: the connection hangs.
    pub fn until<T>(&mut self, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            let start = Instant::now();
            match call() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(start)?,
                done => return done,
            }
        }
    }

    fn wait(&mut self, start: Instant) -> io::Result<()> {
        let Some(epoll) = &self.epoll else {
            // The sockets' own timeouts are the watchdog.
            if start.elapsed() >= WATCHDOG {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.spurious += 1;
            return Ok(());
        };
        let limit = u16::try_from(WATCHDOG.as_millis()).unwrap_or(u16::MAX);
        let mut events = [EpollEvent::empty()];
        match epoll.wait(&mut events, EpollTimeout::from(limit)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads a stream and checks every byte of it.
#[derive(Debug)]
pub struct Receiver<'a> {
    socket: &'a Socket,
    half: &'a Half,
    pattern: Pattern,
    waiter: Waiter,
    rng: Rng,
    /// How many bytes have come, all of them right.
    pub done: u64,
    /// How often `MSG_WAITALL` came short although more was to come.
    pub short: u64,
}

/// Why a stream was not read to its end.
#[derive(Debug)]
pub enum Broken {
    /// A byte is wrong.
    Wrong(Mismatch),
    /// `MSG_PEEK` showed other bytes than were read then.
    Peeked {
        /// Where.
        offset: u64,
    },
    /// The connection failed.
    Failed(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Mismatch> for Broken {
    fn from(mismatch: Mismatch) -> Self {
        Self::Wrong(mismatch)
    }
}

impl<'a> Receiver<'a> {
    /// One for this end; `pattern` is what the other one sends.
    ///
    /// # Errors
    /// Where the socket can't be set up.
    pub fn new(socket: &'a Socket, half: &'a Half, pattern: Pattern) -> io::Result<Self> {
        Ok(Self {
            socket,
            half,
            pattern,
            waiter: Waiter::new(socket, half.mode, EpollFlags::EPOLLIN)?,
            rng: Rng::with_seed(half.seed ^ 2),
            done: 0,
            short: 0,
        })
    }

    /// How often a blocking call said that it would block.
    #[must_use]
    pub fn spurious(&self) -> u64 {
        self.waiter.spurious
    }

    /// Reads until the peer says that it is done.
    ///
    /// # Errors
    /// What was wrong with what came, or that no more came.
    pub fn receive(&mut self) -> Result<(), Broken> {
        let mut piece = vec![0; self.half.read_max];
        let mut came_short = false;
        loop {
            let wanted = self.rng.usize(1..=self.half.read_max);
            let by = self.half.read_by[self.rng.usize(..self.half.read_by.len())];
            let length = match by {
                ReadBy::Peek => self.peek(&mut piece[..wanted])?,
                _ => self.read(by, &mut piece[..wanted])?,
            };
            if length == 0 {
                return Ok(());
            }
            // What comes short is no surprise when no more comes.
            self.short += u64::from(came_short);
            self.pattern.check(self.done, &piece[..length])?;
            self.done += length as u64;
            let is_blocking = self.half.mode == Mode::Blocking;
            came_short = by == ReadBy::WaitAll && is_blocking && length < wanted;
            if self
                .half
                .read_pause
                .is_some_and(|it| self.rng.u32(0..it) == 0)
            {
                thread::sleep(Duration::from_millis(self.rng.u64(1..8)));
            }
        }
    }

    fn read(&mut self, by: ReadBy, piece: &mut [u8]) -> io::Result<usize> {
        let cuts = [(); 4].map(|()| self.rng.usize(0..=piece.len()));
        let socket = self.socket;
        self.waiter.until(|| match by {
            ReadBy::Readv => (&*socket).read_vectored(&mut cut(piece, cuts)),
            ReadBy::Recvmsg => {
                let parts = &mut cut(piece, cuts);
                let none = MsgFlags::empty();
                Ok(recvmsg::<()>(socket.as_raw_fd(), parts, None, none)?.bytes)
            }
            ReadBy::WaitAll => Ok(recv(socket.as_raw_fd(), piece, MsgFlags::MSG_WAITALL)?),
            _ => (&*socket).read(piece),
        })
    }

    /// Looks first, and expects to be given the same.
    fn peek(&mut self, piece: &mut [u8]) -> Result<usize, Broken> {
        let socket = self.socket;
        let length = self
            .waiter
            .until(|| Ok(recv(socket.as_raw_fd(), piece, MsgFlags::MSG_PEEK)?))?;
        let mut read = vec![0; length];
        if length > 0 {
            let again = self.waiter.until(|| (&*socket).read(&mut read))?;
            if read[..again] != piece[..again] || again == 0 {
                return Err(Broken::Peeked { offset: self.done });
            }
            // What was looked at comes out whole or in parts; the rest is read by the next call.
            return Ok(again);
        }
        Ok(0)
    }
}

/// Cuts into five parts, some of them empty.
fn cut(bytes: &mut [u8], mut cuts: [usize; 4]) -> [IoSliceMut<'_>; 5] {
    cuts.sort_unstable();
    let (one, rest) = bytes.split_at_mut(cuts[0]);
    let (two, rest) = rest.split_at_mut(cuts[1] - cuts[0]);
    let (three, rest) = rest.split_at_mut(cuts[2] - cuts[1]);
    let (four, five) = rest.split_at_mut(cuts[3] - cuts[2]);
    [one, two, three, four, five].map(IoSliceMut::new)
}
