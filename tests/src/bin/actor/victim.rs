//! One end of a connection in a process of its own, which is to be killed.

use std::io;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use osm_tests::traffic::Pattern;
use socket2::Socket;

const PIECE: usize = 16 << 10;

/// The flags of a victim.
#[derive(clap::Args)]
pub struct Args {
    /// Send the bytes of the stream with this key; without it, take what comes, slowly
    #[arg(long)]
    key: Option<u64>,
}

/// Does it until killed, or until the peer is gone.
pub fn run(args: &Args) -> Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let socket = Socket::from(socket.context("stdin as a socket")?);
    match args.key {
        Some(key) => send(&socket, &Pattern::new(key)),
        None => take(&socket),
    }
}

fn send(socket: &Socket, pattern: &Pattern) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    loop {
        pattern.fill(offset, &mut piece);
        offset += socket.send(&piece).context("sending")? as u64;
    }
}

fn take(mut socket: &Socket) -> Result<()> {
    let mut piece = vec![0; PIECE];
    while io::Read::read(&mut socket, &mut piece).context("taking")? > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
