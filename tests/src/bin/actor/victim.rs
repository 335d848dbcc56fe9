//! One end of a connection in a process of its own, which may be killed.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::poll::PollFlags;
use osm_tests::traffic::{Pattern, wait};
use socket2::Socket;

const PIECE: usize = 16 << 10;

/// The flags of a victim.
#[derive(clap::Args)]
pub struct Args {
    /// Send the bytes of the stream with this key; without it, take what comes, slowly
    #[arg(long)]
    key: Option<u64>,
    /// Send back what comes, to its end
    #[arg(long, conflicts_with = "key")]
    echo: bool,
}

/// Does it until killed, or until the peer is gone.
pub fn run(args: &Args) -> Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let socket = Socket::from(socket.context("stdin as a socket")?);
    match args.key {
        Some(key) => send_for_ever(&socket, Pattern::new(key)),
        None => take(&socket, args.echo),
    }
}

fn send_for_ever(socket: &Socket, pattern: Pattern) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    loop {
        pattern.fill(offset, &mut piece);
        send(socket, &piece)?;
        offset += piece.len() as u64;
    }
}

fn take(mut socket: &Socket, echo: bool) -> Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match socket.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) if echo => send(socket, &piece[..length])?,
            Ok(_) => thread::sleep(Duration::from_millis(1)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(socket, PollFlags::POLLIN)?;
            }
            Err(error) => return Err(error).context("taking"),
        }
    }
}

fn send(socket: &Socket, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match socket.send(rest) {
            Ok(length) => rest = &rest[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(socket, PollFlags::POLLOUT)?;
            }
            Err(error) => return Err(error).context("sending"),
        }
    }
    Ok(())
}
