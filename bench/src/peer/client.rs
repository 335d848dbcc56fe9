//! The application's end.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use super::order::{Dial, Done, LAST, Load, MORE, Sockets};
use super::{cpu_seconds, echo, wait};

/// How much a stream writes at a time.
const CHUNK: usize = 64 << 10;

/// Carries out an order.
///
/// # Errors
/// Where a connection fails.
pub fn run(dial: &Dial) -> Result<Done> {
    match dial.load {
        Load::Connections(sockets) => connections(dial, sockets),
        Load::Paced { rate } => paced(dial, rate),
        Load::Requests { connections, size } => {
            echo::requests(dial, &open(dial.to, connections)?, size)
        }
        Load::Streams { connections } => write_all(dial, &open(dial.to, connections)?),
    }
}

/// The time in which an order is measured.
pub struct Window {
    start: Instant,
    end: Instant,
    cpu_at_start: f64,
}

impl Window {
    /// Opens it for an order whose unmeasured part is over.
    pub fn open(dial: &Dial) -> Result<Self> {
        let cpu_at_start = cpu_seconds()?;
        let start = Instant::now();
        let end = start + Duration::from_millis(dial.millis);
        Ok(Self {
            start,
            end,
            cpu_at_start,
        })
    }

    /// Is it over?
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Closes it, now.
    pub fn close(&self, connections: u64, count: u64) -> Result<Done> {
        Ok(Done {
            connections,
            count,
            seconds: self.start.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds()? - self.cpu_at_start,
            micros: Vec::new(),
        })
    }
}

/// When the unmeasured part of an order is over.
pub fn warm_at(dial: &Dial) -> Instant {
    Instant::now() + Duration::from_millis(dial.warm_up)
}

fn connections(dial: &Dial, sockets: Sockets) -> Result<Done> {
    let connection = |byte| match sockets {
        Sockets::Blocking => connection(dial.to, byte).map(drop),
        Sockets::NonBlocking => connection_by_poll(dial.to, byte),
    };
    let mut warm = 1;
    let warm_at = warm_at(dial);
    while Instant::now() < warm_at {
        connection(MORE)?;
        warm += 1;
    }
    let window = Window::open(dial)?;
    let mut count = 0;
    while !window.is_over() {
        connection(MORE)?;
        count += 1;
    }
    let done = window.close(warm + count, count)?;
    connection(LAST)?;
    Ok(done)
}

/// Connect, one byte, close; the instant at which connect() returned.
fn connection(to: SocketAddrV4, byte: u8) -> Result<Instant> {
    let dialling = || format!("dialling {to}");
    let mut stream = TcpStream::connect(to).with_context(dialling)?;
    let connected = Instant::now();
    stream.write_all(&[byte]).with_context(dialling)?;
    let left = stream.read(&mut [0]).with_context(dialling)?;
    close(&stream, left)?;
    Ok(connected)
}

/// The same on a socket that does not block.
fn connection_by_poll(to: SocketAddrV4, byte: u8) -> Result<()> {
    let dialling = || format!("dialling {to}");
    let stream = wait::connect(to).with_context(dialling)?;
    wait::write_all(&stream, &[byte]).with_context(dialling)?;
    let left = wait::read(&stream, &mut [0]).with_context(dialling)?;
    close(&stream, left)
}

/// The sidecar closes first, and is then reset, so that neither end stays in TIME_WAIT: ports
/// never run short, and no measurement has to search among the sockets of the one before.
fn close(stream: &TcpStream, left: usize) -> Result<()> {
    ensure!(left == 0, "the sidecar answers, which none of ours does");
    SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    Ok(())
}

/// An open loop: the times are fixed beforehand, and what is late because something before it was
/// late has waited all the same.
fn paced(dial: &Dial, rate: f64) -> Result<Done> {
    let interval = Duration::from_secs_f64(1.0 / rate);
    let mut due = Instant::now() + interval;
    let warm_at = warm_at(dial);
    let mut warm = 1;
    while due < warm_at {
        wait_until(due);
        connection(dial.to, MORE)?;
        due += interval;
        warm += 1;
    }
    let window = Window::open(dial)?;
    let mut due = window.start + interval;
    let mut micros = Vec::new();
    while due < window.end {
        wait_until(due);
        let connected = connection(dial.to, MORE)?;
        micros.push((connected - due).as_secs_f64() * 1e6);
        due += interval;
    }
    let count = micros.len() as u64;
    let done = window.close(warm + count, count)?;
    connection(dial.to, LAST)?;
    micros.sort_unstable_by(f64::total_cmp);
    Ok(Done { micros, ..done })
}

/// Sleeps: on one core, spinning would take the other end's time.
fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        thread::sleep(left);
    }
}

/// Connections that don't block, as applications and sidecars have them that hold many.
fn open(to: SocketAddrV4, count: usize) -> Result<Vec<TcpStream>> {
    let one = |_| {
        let stream = wait::connect(to).with_context(|| format!("dialling {to}"))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    (0..count).map(one).collect()
}

/// Writes on all streams at once, and waits until the other end has read all of it.
fn write_all(dial: &Dial, streams: &[TcpStream]) -> Result<Done> {
    let until = |end: Instant| -> Result<u64> {
        thread::scope(|scope| {
            let writers: Vec<_> = streams
                .iter()
                .map(|stream| scope.spawn(move || write_until(stream, end)))
                .collect();
            let written = writers.into_iter().map(ScopedJoinHandle::join);
            written
                .map(|it| it.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .sum()
        })
    };
    until(warm_at(dial))?;
    let window = Window::open(dial)?;
    let count = until(window.end)?;
    // What is still on its way at the end was at the start as well: the buffers were full.
    let done = window.close(streams.len() as u64, count)?;
    for stream in streams {
        stream.shutdown(std::net::Shutdown::Write)?;
        let left = wait::read(stream, &mut [0]).context("waiting for the end of a stream")?;
        ensure!(left == 0, "a sink answers");
    }
    Ok(done)
}

fn write_until(stream: &TcpStream, end: Instant) -> Result<u64> {
    let chunk = vec![0x5a; CHUNK];
    let mut count = 0;
    while Instant::now() < end {
        wait::write_all(stream, &chunk).context("writing a stream")?;
        count += CHUNK as u64;
    }
    Ok(count)
}
