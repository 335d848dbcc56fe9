//! Accepting connections, and telling about them.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use osm_tests::event::{Accepted, Listener};
use osm_tests::sys::original_destination;
use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// A connection that was just accepted.
pub struct Arrival {
    /// Its number.
    pub id: u64,
    /// The socket.
    pub stream: TcpStream,
    /// The peer that `accept` reported.
    pub from: SocketAddr,
    /// Where the listener is bound.
    pub listen: SocketAddr,
}

impl Arrival {
    /// Everything that the kernel says about it.
    pub fn describe(&self, role: &str, listener: Listener) -> Accepted {
        let local = self.local();
        Accepted {
            id: self.id,
            role: role.to_owned(),
            listener,
            listen: self.listen,
            local,
            peer: self.stream.peer_addr().unwrap_or(self.from),
            peer_from_accept: self.from,
            original_destination: original_destination(self.stream.as_fd(), local),
        }
    }

    /// The socket's own address.
    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().unwrap_or(self.listen)
    }
}

/// Hands all connections of a listener to `handle`, each in a task of its own.
pub async fn accept_all<F, T>(listener: TcpListener, handle: F) -> Result<()>
where
    F: Fn(Arrival) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let listen = listener.local_addr()?;
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // A peer that is gone again, or no more file descriptors.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let id = COUNT.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(handle(Arrival {
            id,
            stream,
            from,
            listen,
        }));
    }
}

/// Makes an open socket one of the runtime's.
pub fn adopt(socket: Socket) -> Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into()).context("handing a listener to the runtime")
}

/// The runtime of servers and sidecars.
pub fn runtime(threads: usize) -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all();
    builder.build().context("starting the runtime")
}

/// Makes the end of this connection a reset.
pub fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
