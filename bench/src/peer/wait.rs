//! Sockets that don't block, and waiting for them.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Socket, Type};

/// How long a connection may make no progress, in milliseconds.
const PATIENCE: u16 = 10_000;

/// Connects, and waits until that is done.
///
/// # Errors
/// That of the connection.
pub fn connect(to: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.connect(&SocketAddr::V4(to).into()) {
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
        other => other?,
    }
    until(&socket, PollFlags::POLLOUT)?;
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(socket.into()),
    }
}

/// Waits for a connection, and accepts it on a socket that does not block from its first moment on.
///
/// # Errors
/// That of the call.
pub fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    loop {
        match accept_with(listener, flags) {
            Err(rustix::io::Errno::WOULDBLOCK) => until(listener, PollFlags::POLLIN)?,
            other => return Ok(other?.into()),
        }
    }
}

/// Reads something, or the end.
///
/// # Errors
/// That of the call.
pub fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                until(stream, PollFlags::POLLIN)?;
            }
            other => return other,
        }
    }
}

/// Writes all of it.
///
/// # Errors
/// That of the call.
pub fn write_all(mut stream: &TcpStream, mut buffer: &[u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match stream.write(buffer) {
            Ok(written) => buffer = &buffer[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                until(stream, PollFlags::POLLOUT)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until a socket can go on, or has failed.
fn until(socket: impl AsFd, events: PollFlags) -> io::Result<()> {
    let ready = poll(
        &mut [PollFd::new(socket.as_fd(), events)],
        PollTimeout::from(PATIENCE),
    )?;
    if ready == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}
