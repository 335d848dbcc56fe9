//! One socket of a client: the many ways to connect it, and what to do then.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use osm_tests::answer::{Connection, Echo, Transferred};
use osm_tests::request::{Dial, Family, Fastopen};
use osm_tests::sys;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::pattern::Pattern;

/// A socket under a client's control.
pub struct Handle {
    reader: BufReader<Socket>,
}

impl Handle {
    /// Takes a socket over.
    pub fn new(socket: Socket) -> Self {
        Self {
            reader: BufReader::new(socket),
        }
    }

    /// Makes the socket that `dial` describes, bound but not connected.
    pub fn open(dial: &Dial) -> io::Result<Self> {
        let family = dial.family.unwrap_or(match dial.to {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        });
        let protocol = if dial.mptcp {
            Protocol::MPTCP
        } else {
            Protocol::TCP
        };
        let socket = Socket::new(domain(family), Type::STREAM, Some(protocol))?;
        socket.set_tcp_nodelay(true)?;
        socket.set_reuse_address(dial.reuseaddr)?;
        if let Some(device) = &dial.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(mark) = dial.mark {
            socket.set_mark(mark)?;
        }
        if let Some(address) = dial.bind {
            socket.bind(&mapped(address, family).into())?;
        }
        Ok(Self::new(socket))
    }

    /// The socket itself.
    pub fn socket(&self) -> &Socket {
        self.reader.get_ref()
    }

    /// Connects, reads the greeting, has the payload echoed.
    pub fn connect(&mut self, id: u64, dial: &Dial) -> Connection {
        let start = Instant::now();
        let dialled = self.dial(dial);
        let mut connection = self.describe(id);
        connection.connected = dialled.is_ok();
        connection.error = dialled.err().map(|error| step_error(&error));
        if connection.connected && !dial.no_greeting {
            match self.greeting() {
                Ok(greeting) => connection.greeting = Some(greeting),
                Err(error) => connection.greeting_error = Some(step_error(&error)),
            }
        }
        connection.micros = micros(start);
        if let Some(payload) = &dial.payload
            && connection.connected
        {
            let echo = if dial.fastopen.is_some() {
                self.receive(payload.len())
            } else {
                self.send(payload)
            };
            connection.echoed = Some(echo.text);
        }
        // Fast open and MPTCP know their names only now.
        let names = self.describe(id);
        (connection.peer, connection.local) = (names.peer, names.local);
        connection
    }

    /// The socket's names.
    pub fn describe(&self, id: u64) -> Connection {
        let name = |address: io::Result<SockAddr>| address.ok().and_then(|it| it.as_socket());
        let peer = name(self.socket().peer_addr());
        Connection {
            id,
            connected: peer.is_some(),
            peer,
            local: name(self.socket().local_addr()),
            ..Connection::default()
        }
    }

    fn dial(&mut self, dial: &Dial) -> io::Result<()> {
        // What an earlier connection left.
        let unread = self.reader.buffer().len();
        self.reader.consume(unread);
        let socket = self.socket();
        let limit = Duration::from_millis(dial.timeout_ms);
        socket.set_read_timeout(Some(limit))?;
        socket.set_write_timeout(Some(limit))?;
        let family = match socket.domain()? {
            Domain::IPV6 => Family::V6,
            _ => Family::V4,
        };
        let to = mapped(dial.to, family).into();
        if let Some(how) = dial.fastopen {
            let payload = dial.payload.as_deref().unwrap_or_default();
            return fastopen(socket, &to, how, payload.as_bytes());
        }
        if dial.io_uring {
            return sys::connect_by_ring(socket.as_fd(), &to, limit);
        }
        if dial.nonblocking {
            socket.set_nonblocking(true)?;
            let result = connect_and_poll(socket, &to, limit);
            socket.set_nonblocking(false)?;
            return result;
        }
        socket.connect(&to)
    }

    fn greeting<T: serde::de::DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::other)
    }

    /// Sends text and reads as much back.
    pub fn send(&mut self, text: &str) -> Echo {
        match self.reader.get_mut().write_all(text.as_bytes()) {
            Ok(()) => self.receive(text.len()),
            Err(error) => Echo {
                error: Some(step_error(&error)),
                ..Echo::default()
            },
        }
    }

    fn receive(&mut self, bytes: usize) -> Echo {
        let mut data = vec![0; bytes];
        let result = self.reader.read_exact(&mut data);
        Echo {
            text: match result {
                Ok(()) => String::from_utf8_lossy(&data).into_owned(),
                Err(_) => String::new(),
            },
            from: None,
            error: result.err().map(|error| step_error(&error)),
        }
    }

    /// Closes the sending half and reads to the end.
    pub fn finish(&mut self) -> Echo {
        let mut data = Vec::new();
        let shut = self.socket().shutdown(Shutdown::Write);
        let result = shut.and_then(|()| self.reader.read_to_end(&mut data));
        Echo {
            text: String::from_utf8_lossy(&data).into_owned(),
            from: None,
            error: result.err().map(|error| step_error(&error)),
        }
    }

    /// Sends a pattern while reading it back.
    pub fn transfer(&mut self, bytes: u64) -> io::Result<Transferred> {
        let start = Instant::now();
        let mut writer = self.socket().try_clone()?;
        let pattern = Arc::new(Pattern::new());
        let sent = Arc::clone(&pattern);
        let sender = thread::spawn(move || sent.send(&mut writer, bytes));
        let mut done = Transferred {
            intact: true,
            ..Transferred::default()
        };
        let mut buffer = vec![0; 64 << 10];
        while done.received < bytes && done.error.is_none() {
            match self.reader.read(&mut buffer) {
                Ok(0) => done.error = Some("EOF".to_owned()),
                Ok(length) => {
                    done.intact &= pattern.matches(done.received, &buffer[..length]);
                    done.received += length as u64;
                }
                Err(error) => done.error = Some(step_error(&error)),
            }
        }
        let (sent, error) = sender.join().unwrap_or_default();
        done.sent = sent;
        done.error = done.error.or(error);
        done.micros = micros(start);
        Ok(done)
    }

    /// Closes it, with RST if wanted.
    pub fn close(self, reset: bool) -> io::Result<()> {
        if reset {
            self.socket().set_linger(Some(Duration::ZERO))?;
        }
        drop(OwnedFd::from(self.reader.into_inner()));
        Ok(())
    }
}

/// The family as socket calls have it.
pub fn domain(family: Family) -> Domain {
    match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    }
}

/// The name of an error; `timeout` for what a socket reports when its time is up.
pub fn step_error(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINPROGRESS | libc::ETIME) => "timeout".to_owned(),
        _ => sys::error_name(error),
    }
}

/// Microseconds since `start`.
pub fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn mapped(address: SocketAddr, family: Family) -> SocketAddr {
    match (address.ip(), family) {
        (IpAddr::V4(ip), Family::V6) => (ip.to_ipv6_mapped(), address.port()).into(),
        _ => address,
    }
}

fn fastopen(socket: &Socket, to: &SockAddr, how: Fastopen, payload: &[u8]) -> io::Result<()> {
    let sent = match how {
        Fastopen::Connect => {
            setsockopt(socket, sockopt::TcpFastOpenConnect, &true)?;
            socket.connect(to)?;
            socket.send(payload)?
        }
        Fastopen::Sendto => socket.send_to_with_flags(payload, to, libc::MSG_FASTOPEN)?,
    };
    if sent == payload.len() {
        return Ok(());
    }
    (&*socket).write_all(&payload[sent..])
}

fn connect_and_poll(socket: &Socket, to: &SockAddr, limit: Duration) -> io::Result<()> {
    match socket.connect(to) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        result => return result,
    }
    let limit = PollTimeout::try_from(limit).map_err(io::Error::other)?;
    let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut waiting, limit)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.take_error()?.map_or(Ok(()), Err)
}
