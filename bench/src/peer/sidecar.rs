//! The sidecar's end. It asks every connection for its original destination, as sidecars do.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::OriginalDst;

use super::order::{Expected, LAST, Serve, Served, Sockets, Task};
use super::{cpu_seconds, echo, wait};

/// How much a sink reads at a time.
const CHUNK: usize = 64 << 10;

/// Carries out an order.
///
/// # Errors
/// Where a connection fails. A wrong original destination is no failure here, but counted.
pub fn run(serve: &Serve, listener: &TcpListener) -> Result<Served> {
    let before = cpu_seconds()?;
    let mut door = Door {
        listener,
        expect: serve.expect,
        served: Served::default(),
    };
    match serve.task {
        Task::Connections(Sockets::Blocking) => connections(&mut door)?,
        Task::Connections(Sockets::NonBlocking) => connections_by_poll(&mut door)?,
        Task::Echo { connections, size } => {
            let streams = door.accept_all(connections)?;
            echo::responses(&streams, size)?;
        }
        Task::Sink { connections } => sink(door.accept_all(connections)?)?,
    }
    let mut served = door.served;
    served.cpu_seconds = cpu_seconds()? - before;
    Ok(served)
}

/// Where connections come in, and are asked where they wanted to go.
struct Door<'a> {
    listener: &'a TcpListener,
    expect: Expected,
    served: Served,
}

impl Door<'_> {
    fn accept(&mut self, sockets: Sockets) -> Result<TcpStream> {
        let stream = match sockets {
            Sockets::Blocking => self.listener.accept().map(|(stream, _)| stream),
            Sockets::NonBlocking => wait::accept(self.listener),
        };
        let stream = stream.context("accepting")?;
        self.served.accepted += 1;
        self.ask(&stream);
        Ok(stream)
    }

    fn ask(&mut self, stream: &TcpStream) {
        if self.expect == Expected::Anything {
            return;
        }
        let original = original_destination(stream);
        let is_right = match (&original, self.expect) {
            (Ok(original), Expected::Destination(expected)) => *original == expected,
            (Err(_), Expected::None) => true,
            _ => false,
        };
        if !is_right {
            self.served.unexpected += 1;
            let shown = original.map_or_else(|error| error.to_string(), |it| it.to_string());
            self.served.first_unexpected.get_or_insert(shown);
        }
    }

    fn accept_all(&mut self, count: usize) -> Result<Vec<TcpStream>> {
        (0..count)
            .map(|_| {
                let stream = self.accept(Sockets::NonBlocking)?;
                stream.set_nodelay(true)?;
                Ok(stream)
            })
            .collect()
    }
}

fn original_destination(stream: &TcpStream) -> Result<SocketAddrV4, Errno> {
    let address = getsockopt(stream, OriginalDst)?;
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    Ok(SocketAddrV4::new(ip, u16::from_be(address.sin_port)))
}

fn connections(door: &mut Door<'_>) -> Result<()> {
    let mut byte = [0];
    loop {
        let mut stream = door.accept(Sockets::Blocking)?;
        stream.read_exact(&mut byte).context("reading the byte")?;
        if byte[0] == LAST {
            return Ok(());
        }
    }
}

fn connections_by_poll(door: &mut Door<'_>) -> Result<()> {
    let mut byte = [0];
    loop {
        let stream = door.accept(Sockets::NonBlocking)?;
        let count = wait::read(&stream, &mut byte).context("reading the byte")?;
        ensure!(count == 1, "a connection without a byte");
        if byte[0] == LAST {
            return Ok(());
        }
    }
}

/// Reads every stream to its end, on a thread each.
fn sink(streams: Vec<TcpStream>) -> Result<()> {
    thread::scope(|scope| {
        let readers: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(move || read_to_end(&stream)))
            .collect();
        let mut read = readers.into_iter().map(ScopedJoinHandle::join);
        read.try_for_each(|it| it.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn read_to_end(stream: &TcpStream) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    while wait::read(stream, &mut chunk).context("reading a stream")? > 0 {}
    Ok(())
}
