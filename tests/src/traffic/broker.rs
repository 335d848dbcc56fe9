//! Sockets from processes inside a pod.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use socket2::Socket;

use crate::actor::Place;
use crate::process::{Process, unique_name};
use crate::sys;

/// What a broker is asked for. Each socket comes with the byte 0, or the error's number alone.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// A socket of the address' family, not connected.
    Socket {
        /// Whom it is for.
        to: SocketAddr,
    },
    /// A listening socket that does not block, of which the broker keeps a copy.
    Listen {
        /// Its address.
        at: SocketAddr,
        /// How many may wait.
        backlog: i32,
    },
    /// A connected socket.
    Connect {
        /// Whom to dial.
        to: SocketAddr,
        /// Whether it is to wait in its calls.
        is_blocking: bool,
    },
    /// Connections that the broker keeps; the byte alone is the answer.
    Keep {
        /// Whom to dial.
        to: SocketAddr,
        /// How often.
        count: u32,
    },
    /// On every connection that it keeps: send so many bytes of the stream whose key is the socket's own
    /// port, and read them back from an echo. The byte alone is the answer.
    Exchange {
        /// How many.
        length: usize,
    },
}

/// A process that makes sockets for the test, as some user in some pod. Killed on drop; the sockets
/// live on.
#[derive(Debug)]
pub struct Broker {
    stream: UnixStream,
    // Threads may share a broker, but not a process.
    _process: Mutex<Process>,
}

impl Broker {
    /// Starts one.
    #[must_use]
    #[track_caller]
    pub fn start(name: &str, place: &Place<'_>) -> Self {
        // In /tmp itself, where any user may find it.
        let path = std::env::temp_dir().join(unique_name());
        let listener = UnixListener::bind(&path).expect("a Unix socket in /tmp");
        let anybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&path, anybody).expect("our own file");
        let mut command = place.command();
        command.arg("broker").arg("--to").arg(&path);
        let process = Process::start(name, command);
        let accepted = listener.accept();
        let _ = std::fs::remove_file(&path);
        let (stream, _) = accepted.expect("the broker's connection");
        Self {
            stream,
            _process: Mutex::new(process),
        }
    }

    /// A socket of the family of `to`, not connected.
    ///
    /// # Errors
    /// The error of the call.
    pub fn socket(&mut self, to: SocketAddr) -> io::Result<Socket> {
        self.order(&Order::Socket { to })?;
        self.next()
    }

    /// A listening socket.
    ///
    /// # Errors
    /// The error of the call that failed.
    pub fn listen(&mut self, at: SocketAddr, backlog: i32) -> io::Result<Socket> {
        self.order(&Order::Listen { at, backlog })?;
        self.next()
    }

    /// A connected socket, which waits in its calls or does not.
    ///
    /// # Errors
    /// The error of the connection.
    pub fn connect(&mut self, to: SocketAddr, is_blocking: bool) -> io::Result<Socket> {
        self.order(&Order::Connect { to, is_blocking })?;
        self.next()
    }

    /// Has it dial and keep connections; [`Broker::done`] waits until all are established.
    ///
    /// # Errors
    /// Where the broker is gone.
    pub fn begin_keeping(&mut self, to: SocketAddr, count: u32) -> io::Result<()> {
        self.order(&Order::Keep { to, count })
    }

    /// Has it begin to send on all that it keeps, and to read it back; [`Broker::done`] waits for that.
    ///
    /// # Errors
    /// Where the broker is gone.
    pub fn begin_exchange(&mut self, length: usize) -> io::Result<()> {
        self.order(&Order::Exchange { length })
    }

    /// Waits for the end of what it does.
    ///
    /// # Errors
    /// What failed; `EILSEQ` where other bytes came back than were sent.
    pub fn done(&mut self) -> io::Result<()> {
        match sys::receive_byte(&self.stream)? {
            (0, _) => Ok(()),
            (error, _) => Err(io::Error::from_raw_os_error(error.into())),
        }
    }

    fn order(&mut self, order: &Order) -> io::Result<()> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.stream.write_all(line.as_bytes())
    }

    fn next(&mut self) -> io::Result<Socket> {
        match sys::receive_byte(&self.stream)? {
            (0, Some(descriptor)) => Ok(Socket::from(descriptor)),
            (0, None) => Err(io::ErrorKind::InvalidData.into()),
            (error, _) => Err(io::Error::from_raw_os_error(error.into())),
        }
    }
}
