//! Makes sockets where it lives and as whom it is, and hands them to the harness, which plays both
//! ends of a connection in one process.

use std::io::{self, BufRead as _, BufReader, IoSlice, Read as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use osm_tests::traffic::wait;
use osm_tests::traffic::{Order, Pattern};
use socket2::{Domain, Socket, Type};

/// The flags of a broker.
#[derive(clap::Args)]
pub struct Args {
    /// The Unix socket on which the harness waits
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
}

/// Obeys until the harness is gone.
pub fn run(args: &Args) -> Result<()> {
    let harness = UnixStream::connect(&args.to)
        .with_context(|| format!("connecting to {}", args.to.display()))?;
    let (mut listening, mut kept) = (Vec::new(), Vec::new());
    for line in BufReader::new(harness.try_clone()?).lines() {
        match serde_json::from_str(&line?)? {
            Order::Socket { to } => answer(&harness, &new(to))?,
            Order::Listen { at, backlog } => {
                let made = listen(at, backlog);
                answer(&harness, &made)?;
                listening.extend(made);
            }
            Order::Keep { to, count } => {
                let made: io::Result<Vec<_>> = (0..count).map(|_| connect(to, false)).collect();
                let result = made.map(|sockets| kept.extend(sockets));
                answer_with(&harness, error_number(&result), &[])?;
            }
            Order::Exchange { length } => {
                let result = exchange(&kept, length);
                answer_with(&harness, error_number(&result), &[])?;
            }
            Order::Connect { to, is_blocking } => {
                answer(&harness, &connect(to, is_blocking))?;
            }
        }
    }
    Ok(())
}

fn new(to: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(to), Type::STREAM, None)
}

fn listen(at: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let socket = new(at)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn connect(to: SocketAddr, is_blocking: bool) -> io::Result<Socket> {
    let socket = new(to)?;
    if is_blocking {
        socket.connect(&to.into())?;
        return Ok(socket);
    }
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        done => return done.map(|()| socket),
    }
    wait(&socket, PollFlags::POLLOUT)?;
    socket.take_error()?.map_or(Ok(socket), Err)
}

/// Sends on all, then reads what comes back from all.
fn exchange(sockets: &[Socket], length: usize) -> io::Result<()> {
    let bytes = |socket: &Socket| {
        let port = socket.local_addr()?.as_socket().map_or(0, |it| it.port());
        let mut bytes = vec![0; length];
        Pattern::new(port.into()).fill(0, &mut bytes);
        Ok::<_, io::Error>(bytes)
    };
    for socket in sockets {
        // There is room for as little as this.
        if socket.send(&bytes(socket)?)? != length {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    for mut socket in sockets {
        let mut read = vec![0; length];
        let mut filled = 0;
        while filled < length {
            wait(socket, PollFlags::POLLIN)?;
            filled += socket.read(&mut read[filled..])?;
        }
        if read != bytes(socket)? {
            return Err(io::Error::from_raw_os_error(libc::EILSEQ));
        }
    }
    Ok(())
}

/// One byte: 0 and the socket, or the number of the error.
fn answer(harness: &UnixStream, made: &io::Result<Socket>) -> Result<()> {
    let descriptors: Vec<_> = made.iter().map(AsRawFd::as_raw_fd).collect();
    answer_with(harness, error_number(made), &descriptors)
}

fn error_number<T>(result: &io::Result<T>) -> u8 {
    let error = result.as_ref().err();
    let number = error.map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn answer_with(harness: &UnixStream, byte: u8, descriptors: &[i32]) -> Result<()> {
    let byte = [byte];
    let parts = [IoSlice::new(&byte)];
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = match descriptors {
        [] => &[],
        _ => &rights[..],
    };
    let (to, none) = (harness.as_raw_fd(), MsgFlags::empty());
    loop {
        match sendmsg::<()>(to, &parts, control, none, None) {
            Ok(_) => return Ok(()),
            // Too many on their way: the harness takes them one by one.
            Err(Errno::ETOOMANYREFS) => std::thread::yield_now(),
            Err(error) => return Err(error).context("handing a socket over"),
        }
    }
}
