//! A client under remote control.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IoSlice};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use osm_tests::answer::{Answer, Connection, Echo, SocketOption};
use osm_tests::request::{Dial, Family, Request, STEP, Udp};
use osm_tests::sys;
use socket2::{Protocol, Socket, Type};

use crate::connect::{Handle, domain, step_error};
use crate::listen::{self, Spec};
use crate::{load, print};

/// Obeys until stdin ends.
pub fn run() -> Result<()> {
    let mut client = Client::default();
    print(&Answer::Ready);
    for line in io::stdin().lock().lines() {
        let line = line.context("reading a request")?;
        let answer = serde_json::from_str(&line)
            .with_context(|| format!("not a request: {line}"))
            .and_then(|request| client.obey(request));
        print(&answer.unwrap_or_else(|error| Answer::Failed {
            error: format!("{error:#}"),
        }));
    }
    Ok(())
}

#[derive(Default)]
struct Client {
    sockets: BTreeMap<u64, Handle>,
    last: u64,
    held: Vec<TcpStream>,
}

impl Client {
    fn obey(&mut self, request: Request) -> Result<Answer> {
        Ok(match request {
            Request::Connect(dial) => Answer::Connection(self.connect(&dial)),
            Request::Reconnect { id, to, timeout_ms } => {
                let mut dial = Dial::from(to);
                dial.timeout_ms = timeout_ms;
                Answer::Connection(self.socket(id)?.connect(id, &dial))
            }
            Request::Disconnect { id } => Answer::Connection(self.disconnect(id)?),
            Request::Names { id } => Answer::Connection(self.socket(id)?.describe(id)),
            Request::Send { id, text } => Answer::Echo(self.socket(id)?.send(&text)),
            Request::Transfer { id, bytes } => {
                Answer::Transferred(self.socket(id)?.transfer(bytes)?)
            }
            Request::Finish { id } => Answer::Echo(self.socket(id)?.finish()),
            Request::Close { id, reset } => {
                let handle = self.sockets.remove(&id);
                handle.context("no such socket")?.close(reset)?;
                Answer::Done
            }
            Request::Getsockopt {
                id,
                level,
                name,
                len,
            } => Answer::Option(self.option(id, level, name, len)?),
            Request::GiveSocket { path, family } => {
                give_socket(&path, family)?;
                Answer::Done
            }
            Request::TakeSocket { path } => {
                let handle = take_socket(&path)?;
                let id = self.keep(handle);
                Answer::Connection(self.socket(id)?.describe(id))
            }
            Request::Many(many) => {
                let (tally, held) = load::run(&many);
                self.held.extend(held);
                Answer::Tally(tally)
            }
            Request::AsUsers { orders } => Answer::Tallies {
                tallies: load::as_users(&orders)?,
            },
            Request::Release => {
                self.held.clear();
                Answer::Done
            }
            Request::Listen { address, reuseport } => {
                Answer::Connection(self.listen(address, reuseport))
            }
            Request::Bind { address, owner } => Answer::Connection(self.bind(address, owner)),
            Request::ListenOn { id } => Answer::Connection(self.listen_on(id)?),
            Request::Accept { id } => Answer::Connection(self.accept(id)?),
            Request::Udp(udp) => Answer::Echo(datagram(&udp).unwrap_or_else(|error| Echo {
                error: Some(step_error(&error)),
                ..Echo::default()
            })),
        })
    }

    fn connect(&mut self, dial: &Dial) -> Connection {
        match Handle::open(dial) {
            Ok(handle) => {
                let id = self.keep(handle);
                self.sockets
                    .get_mut(&id)
                    .map(|handle| handle.connect(id, dial))
                    .unwrap_or_default()
            }
            Err(error) => refused(&error),
        }
    }

    fn disconnect(&mut self, id: u64) -> Result<Connection> {
        let handle = self.socket(id)?;
        let result = sys::disconnect(handle.socket().as_fd());
        let mut connection = handle.describe(id);
        connection.error = result.err().map(|error| step_error(&error));
        Ok(connection)
    }

    fn option(&mut self, id: u64, level: i32, name: i32, len: u32) -> Result<SocketOption> {
        let socket = self.socket(id)?.socket();
        Ok(match sys::getsockopt(socket.as_fd(), level, name, len) {
            Ok(value) => SocketOption { value, error: None },
            Err(error) => SocketOption {
                value: Vec::new(),
                error: Some(sys::error_name(&error)),
            },
        })
    }

    fn listen(&mut self, address: SocketAddr, reuseport: bool) -> Connection {
        let spec = Spec {
            reuseport,
            ..Spec::at(address)
        };
        self.keep_listener(spec.open())
    }

    fn bind(&mut self, address: SocketAddr, owner: Option<u32>) -> Connection {
        let spec = Spec {
            reuseport: owner.is_some(),
            owner,
            ..Spec::at(address)
        };
        self.keep_listener(spec.bind())
    }

    fn listen_on(&mut self, id: u64) -> Result<Connection> {
        let handle = self.socket(id)?;
        let result = listen::listen(handle.socket());
        let mut connection = handle.describe(id);
        connection.error = result.err().map(|error| step_error(&error));
        Ok(connection)
    }

    fn keep_listener(&mut self, opened: Result<Socket>) -> Connection {
        match opened {
            Ok(socket) => {
                let id = self.keep(Handle::new(socket));
                let mut connection = self.sockets[&id].describe(id);
                connection.connected = true;
                connection
            }
            Err(error) => match error.downcast_ref() {
                Some(error) => refused(error),
                None => refused(&io::Error::other(format!("{error:#}"))),
            },
        }
    }

    fn accept(&mut self, id: u64) -> Result<Connection> {
        let listener = self.socket(id)?.socket();
        listener.set_read_timeout(Some(STEP))?;
        Ok(match listener.accept() {
            Ok((socket, _)) => {
                let id = self.keep(Handle::new(socket));
                self.socket(id)?.describe(id)
            }
            Err(error) => refused(&error),
        })
    }

    fn keep(&mut self, handle: Handle) -> u64 {
        self.last += 1;
        self.sockets.insert(self.last, handle);
        self.last
    }

    fn socket(&mut self, id: u64) -> Result<&mut Handle> {
        self.sockets.get_mut(&id).context("no such socket")
    }
}

fn refused(error: &io::Error) -> Connection {
    Connection {
        error: Some(step_error(error)),
        ..Connection::default()
    }
}

fn give_socket(path: &Path, family: Family) -> Result<()> {
    let socket = Socket::new(domain(family), Type::STREAM, Some(Protocol::TCP))?;
    let deadline = Instant::now() + STEP;
    let stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            // The taker may not be there yet.
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            Err(error) => {
                return Err(error).with_context(|| format!("nobody takes {}", path.display()));
            }
        }
    };
    let descriptors = [socket.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    let parts = [IoSlice::new(b"x")];
    sendmsg::<()>(
        stream.as_raw_fd(),
        &parts,
        &control,
        MsgFlags::empty(),
        None,
    )
    .context("sending a socket")?;
    Ok(())
}

fn take_socket(path: &Path) -> Result<Handle> {
    let listener =
        UnixListener::bind(path).with_context(|| format!("binding {}", path.display()))?;
    // Whoever gives may be another user.
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(path, everyone)?;
    let (stream, _) = listener.accept().context("waiting for a socket")?;
    let socket = sys::receive_descriptor(&stream).context("taking a socket")?;
    Ok(Handle::new(socket.into()))
}

fn datagram(udp: &Udp) -> io::Result<Echo> {
    let anywhere = match udp.to {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let anywhere = anywhere.parse().map_err(io::Error::other)?;
    let socket = UdpSocket::bind(udp.from.unwrap_or(anywhere))?;
    socket.set_read_timeout(Some(Duration::from_millis(udp.timeout_ms)))?;
    if udp.connected {
        socket.connect(udp.to)?;
        socket.send(udp.text.as_bytes())?;
    } else {
        socket.send_to(udp.text.as_bytes(), udp.to)?;
    }
    let mut buffer = vec![0; 65536];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok(Echo {
        text: String::from_utf8_lossy(&buffer[..length]).into_owned(),
        from: Some(from),
        error: None,
    })
}
