//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::fchown;
use socket2::{Domain, Protocol, Socket, Type};

/// A listener as the command line has it: `ADDRESS:PORT[,v6only][,reuseport]`.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Where.
    pub address: SocketAddr,
    /// An IPv6 socket that takes no v4-mapped connections.
    pub v6only: bool,
    /// Shared with others that listen there.
    pub reuseport: bool,
    /// Whom the socket is given to, if not the process's user.
    pub owner: Option<u32>,
}

impl FromStr for Spec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split(',');
        let address = words.next().unwrap_or_default();
        let address = address
            .parse()
            .map_err(|error| anyhow!("{address:?} is not ADDRESS:PORT: {error}"))?;
        let mut spec = Self::at(address);
        for word in words {
            match word {
                "v6only" => spec.v6only = true,
                "reuseport" => spec.reuseport = true,
                _ => bail!("{word:?} is neither v6only nor reuseport"),
            }
        }
        Ok(spec)
    }
}

impl Spec {
    /// Without options.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            v6only: false,
            reuseport: false,
            owner: None,
        }
    }

    /// Opens the TCP listener.
    pub fn open(&self) -> Result<Socket> {
        let socket = self.bind()?;
        listen(&socket).with_context(|| format!("listening on {}", self.address))?;
        Ok(socket)
    }

    /// Opens it and does not listen yet.
    pub fn bind(&self) -> Result<Socket> {
        let listening = || format!("listening on {}", self.address);
        let domain = Domain::for_address(self.address);
        let socket =
            Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).with_context(listening)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(self.reuseport)?;
        if let Some(owner) = self.owner {
            fchown(&socket, Some(owner.into()), None).with_context(listening)?;
        }
        if self.address.is_ipv6() {
            socket.set_only_v6(self.v6only)?;
        }
        socket.bind(&self.address.into()).with_context(listening)?;
        Ok(socket)
    }
}

/// Listens on a socket that is bound.
pub fn listen(socket: &Socket) -> io::Result<()> {
    socket.listen(4096)
}

/// The address that a socket got.
pub fn local(socket: &Socket) -> Result<SocketAddr> {
    let address = socket.local_addr()?;
    address.as_socket().context("a socket without IP address")
}
