//! Requests and responses, on many connections at once.

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::client::{Window, warm_at};
use super::order::{Dial, Done};
use super::wait;

/// How many events are taken at a time.
const EVENTS: usize = 64;

/// How long a client waits for any of its responses, in milliseconds.
const PATIENCE: u16 = 10_000;

/// The client's part: every response is followed by the next request.
///
/// # Errors
/// Where a connection fails.
pub fn requests(dial: &Dial, streams: &[TcpStream], size: usize) -> Result<Done> {
    let mut many = Many::new(streams, size)?;
    for index in 0..streams.len() {
        many.send(index).context("sending the first requests")?;
    }
    let warm_at = warm_at(dial);
    while Instant::now() < warm_at {
        many.turn(PATIENCE.into())?;
    }
    let window = Window::open(dial)?;
    let mut count = 0;
    while !window.is_over() {
        let turn = many.turn(PATIENCE.into())?;
        ensure!(turn.closed == 0, "the sidecar closes a connection");
        count += turn.answered;
    }
    window.close(streams.len() as u64, count)
}

/// The sidecar's part: every message is sent back, until all connections are closed.
///
/// # Errors
/// Where a connection fails.
pub fn responses(streams: &[TcpStream], size: usize) -> Result<()> {
    let mut many = Many::new(streams, size)?;
    let mut open = streams.len() as u64;
    while open > 0 {
        open -= many.turn(EpollTimeout::NONE)?.closed;
    }
    Ok(())
}

/// Connections on which a whole message is answered with one of the same size.
struct Many<'a> {
    epoll: Epoll,
    streams: &'a [TcpStream],
    /// How much of its message each connection has got.
    got: Vec<usize>,
    message: Vec<u8>,
}

/// What came of one look at all connections.
#[derive(Default)]
struct Turn {
    answered: u64,
    closed: u64,
}

impl<'a> Many<'a> {
    fn new(streams: &'a [TcpStream], size: usize) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (index, stream) in streams.iter().enumerate() {
            epoll.add(stream, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        }
        Ok(Self {
            epoll,
            streams,
            got: vec![0; streams.len()],
            message: vec![0; size],
        })
    }

    /// Never blocks for long: at most one message is on its way in each direction.
    fn send(&self, index: usize) -> io::Result<()> {
        wait::write_all(&self.streams[index], &self.message)
    }

    fn turn(&mut self, patience: EpollTimeout) -> Result<Turn> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, patience)?;
        ensure!(count > 0, "no response in {PATIENCE} ms");
        let mut turn = Turn::default();
        for event in &events[..count] {
            let index = usize::try_from(event.data())?;
            match self.advance(index) {
                Ok(is_answered) => turn.answered += u64::from(is_answered),
                Err(error) if is_end(&error) => {
                    turn.closed += 1;
                    self.epoll.delete(&self.streams[index])?;
                }
                Err(error) => bail!("reading a message: {error}"),
            }
        }
        Ok(turn)
    }

    /// Reads what there is; whether it completed a message, which is answered.
    fn advance(&mut self, index: usize) -> io::Result<bool> {
        let mut stream = &self.streams[index];
        let got = &mut self.got[index];
        match stream.read(&mut self.message[*got..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => *got += read,
        }
        if *got < self.message.len() {
            return Ok(false);
        }
        *got = 0;
        self.send(index)?;
        Ok(true)
    }
}

/// Whether the other end has left, which clients do with responses under way.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
