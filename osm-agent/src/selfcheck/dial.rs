//! Making connections, as one user or another.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use osm_ebpf_common::SIDECAR_UID;
use rustix::{
    process::getuid,
    thread::{Uid, set_thread_res_uid},
};
use socket2::SockRef;

use super::plan::Caller;

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    /// This process may not be the user that has to call.
    User(String),
    /// The connection was not made.
    Connect(io::Error),
}

/// A connection that ends with a reset, so that neither end leaves a port in TIME_WAIT.
#[derive(Debug)]
pub struct Dialled {
    stream: TcpStream,
    /// Its own address.
    pub local: SocketAddr,
}

impl Drop for Dialled {
    fn drop(&mut self) {
        reset(&self.stream);
    }
}

/// Makes the end of a connection a reset.
pub fn reset(stream: &TcpStream) {
    // Else it ends in the ordinary way, and its port is taken for a minute.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

impl Dialled {
    /// The number of its socket in the kernel's tables.
    pub fn inode(&self) -> Option<u64> {
        rustix::fs::fstat(&self.stream).ok().map(|it| it.st_ino)
    }

    /// Whether the other end has reset it: it is connected to nobody any more.
    pub fn is_reset(&self) -> bool {
        self.stream.peer_addr().is_err()
    }
}

/// Connects as the caller's user; `sidecar` is the sidecar's, as this process numbers it.
///
/// # Errors
/// Where the process may not be that user, or is not connected within `limit`.
pub fn dial(
    caller: Caller,
    sidecar: u32,
    to: SocketAddr,
    limit: Duration,
) -> Result<Dialled, DialError> {
    let connect = || {
        let stream = TcpStream::connect_timeout(&to, limit)?;
        let local = stream.local_addr()?;
        Ok(Dialled { stream, local })
    };
    as_caller(caller, sidecar, connect)
        .map_err(DialError::User)?
        .map_err(DialError::Connect)
}

/// Runs something on a thread of the caller's user: a socket belongs to whoever makes it.
///
/// # Errors
/// In words, where this process may not be that user.
pub fn as_caller<T: Send>(
    caller: Caller,
    sidecar: u32,
    run: impl FnOnce() -> T + Send,
) -> Result<T, String> {
    let own = getuid().as_raw();
    let user = match caller {
        Caller::Sidecar => sidecar,
        Caller::App if own == sidecar => 0,
        Caller::App => own,
    };
    if user == own {
        return Ok(run());
    }
    let become_and_run = || {
        become_user(user)?;
        Ok(run())
    };
    thread::scope(|scope| {
        scope
            .spawn(become_and_run)
            .join()
            .unwrap_or_else(|_| Err("the thread that was to connect panicked".into()))
    })
}

/// Opens listeners as the sidecar's user, by which the programs know them, or as this process's own where it
/// may not be that; says which.
pub fn as_sidecar<T: Send>(open: impl Fn() -> T + Send + Sync) -> (T, bool) {
    match as_caller(Caller::Sidecar, SIDECAR_UID, &open) {
        Ok(opened) => (opened, true),
        Err(_) => (open(), false),
    }
}

/// Makes this thread the sidecar's user, for good. Its listeners are asked for original
/// destinations by that user.
///
/// # Errors
/// In words, where this process may not be that user.
pub fn become_sidecar() -> Result<(), String> {
    become_user(SIDECAR_UID)
}

fn become_user(user: u32) -> Result<(), String> {
    // On Linux, users are the threads' own.
    let uid = Uid::from_raw(user);
    set_thread_res_uid(uid, uid, uid).map_err(|error| {
        format!(
            "this process may not be user {user} ({error}); it takes CAP_SETUID, which containers \
             have unless it is dropped"
        )
    })
}
