//! Who sees where a connection ends: listeners of this check's own in the sidecar's place, or,
//! where the sidecar listens already, the kernel's table of sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use osm_ebpf_common::{
    INBOUND_PORT, OUTBOUND_PORT, SIDECAR_UID,
    decision::{Direction, is_guarded_port},
};
use procfs::net::{TcpNetEntry, TcpState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{
    dial::{Dialled, as_sidecar, become_sidecar, reset},
    plan::Quiet,
    pod_network::{families, sockets},
};
use crate::error::{Error, Result, Tried as _};

/// How often who listens looks whether to stop, and the kernel's table is read.
const PAUSE: Duration = Duration::from_millis(10);

/// How many connections are remembered: outsiders may make any number meanwhile.
const REMEMBERED: usize = 1024;

/// A connection that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The port of the listener.
    pub port: u16,
    /// Where it wanted to go, as the listener is told; none where nobody asked.
    pub original: Option<Result<SocketAddr, String>>,
}

/// Sees connections arrive.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "one for each question")]
pub struct Witness {
    own: Listeners,
    /// Whether the sidecar's ports are not our own.
    pub sidecar_listens: bool,
    /// Whether the sidecar's listeners belong to its user.
    pub is_sidecar_s: bool,
    /// The sidecar's user, as this process numbers it.
    pub sidecar: u32,
    /// Whether this process is nowhere the sidecar, whichever user it is.
    pub is_elsewhere: bool,
    /// Whether the pod is in use: what is the sidecar's is never taken.
    is_live: bool,
    /// The port that is nobody else's.
    pub quiet: Quiet,
}

impl Witness {
    /// Listens on the sidecar's ports, unless the sidecar does, and on one more. With
    /// `extra` ports where they are free.
    ///
    /// # Errors
    /// Where it can't, or somebody else than the sidecar has its ports.
    pub fn open(dual: bool, extra: &[u16]) -> Result<Self> {
        let families = families(dual);
        let open_sidecar_s = || open_all(families, &[OUTBOUND_PORT, INBOUND_PORT]);
        let (opened, is_sidecar_s) = as_sidecar(open_sidecar_s);
        let (mut sockets, sidecar_listens) = match opened {
            Ok(sockets) => (sockets, false),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                check_whose(SIDECAR_UID)?;
                (Vec::new(), true)
            }
            // They are for the sidecar alone: nothing can be proven by listening there.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_sidecar_s => {
                (Vec::new(), false)
            }
            Err(error) => return Err(error).tried(|| "listen on the sidecar's ports"),
        };
        let quiet = open_quiet(families).tried(|| "listen on a port of the pod")?;
        let port = quiet.first().map_or(0, |(port, _)| *port);
        sockets.extend(quiet);
        for port in extra {
            // An application that has it already is no error. Some are for the sidecar alone.
            let open = || open_all(families, &[*port]);
            let is_guarded = is_guarded_port(*port);
            let opened = if is_guarded {
                as_sidecar(open).0
            } else {
                open()
            };
            sockets.extend(opened.unwrap_or_default());
        }
        Ok(Self {
            own: Listeners::start(sockets, is_sidecar_s),
            sidecar_listens,
            is_sidecar_s: is_sidecar_s || sidecar_listens,
            sidecar: SIDECAR_UID,
            is_elsewhere: false,
            is_live: false,
            quiet: Quiet(port),
        })
    }

    /// Listens on a port of its own and nowhere else: the sidecar's are the sidecar's, whether or
    /// not it has them just now.
    ///
    /// # Errors
    /// Where it can't, or somebody else than the sidecar has the sidecar's ports.
    pub fn watch(dual: bool, sidecar: u32) -> Result<Self> {
        check_whose(sidecar)?;
        let families = families(dual);
        let quiet = open_quiet(families).tried(|| "listen on a port of the pod")?;
        let port = quiet.first().map_or(0, |(port, _)| *port);
        Ok(Self {
            own: Listeners::start(quiet, false),
            sidecar_listens: true,
            is_sidecar_s: true,
            sidecar,
            is_elsewhere: false,
            is_live: true,
            quiet: Quiet(port),
        })
    }

    /// Whether the sidecar of a pod in use does not listen on that port.
    pub fn is_unheard(&self, port: u16) -> bool {
        let listens = |entry: &TcpNetEntry| {
            entry.state == TcpState::Listen
                && entry.local_address.port() == port
                && entry.uid == self.sidecar
        };
        self.is_live && !sockets().iter().any(listens)
    }

    /// Where a connection of this process's arrived, once it has and while it is open. With
    /// `is_inside`, its own end is in this pod.
    pub fn arrival_of(
        &self,
        connection: &Dialled,
        is_inside: bool,
        until: Instant,
    ) -> Option<Arrival> {
        let socket = connection.inode().filter(|_| is_inside);
        self.wait_for(connection.local, socket, || {
            Instant::now() > until || connection.is_reset()
        })
    }

    /// Where the connection from that address arrived, once it has.
    pub fn arrival(&self, from: SocketAddr, until: Instant) -> Option<Arrival> {
        self.wait_for(from, None, || Instant::now() > until)
    }

    fn wait_for(
        &self,
        from: SocketAddr,
        socket: Option<u64>,
        is_over: impl Fn() -> bool,
    ) -> Option<Arrival> {
        let from = canonical(from);
        loop {
            // What arrived before it was over is seen below.
            let is_over = is_over();
            let found = self.own.find(from).or_else(|| {
                let seen = || self.accepted_by_sidecar(from, socket);
                let port = self.sidecar_listens.then(seen)??;
                Some(Arrival {
                    port,
                    original: None,
                })
            });
            if found.is_some() || is_over {
                return found;
            }
            self.own.wait(PAUSE);
        }
    }

    /// The sidecar's port that a connection arrived at, while it is open.
    ///
    /// Behind eBPF, the own end's addresses in the kernel's table are not those that it is shown.
    fn accepted_by_sidecar(&self, from: SocketAddr, socket: Option<u64>) -> Option<u16> {
        let all = sockets();
        let own = socket.and_then(|inode| all.iter().find(|entry| entry.inode == inode));
        let ends = own.map(|own| (canonical(own.remote_address), canonical(own.local_address)));
        let entry = all.iter().find(|entry| {
            let (local, remote) = (
                canonical(entry.local_address),
                canonical(entry.remote_address),
            );
            let is_peer = ends == Some((local, remote)) || remote == from;
            let is_theirs = is_sidecar_s(entry.local_address.port())
                // Inbound, eBPF changes no address.
                || (socket.is_none() && self.is_live && entry.uid == self.sidecar);
            entry.state != TcpState::Listen && is_peer && is_theirs
        })?;
        let port = entry.local_address.port();
        Some(if is_sidecar_s(port) {
            port
        } else {
            INBOUND_PORT
        })
    }

    /// Whether a port of the pod is listened on here.
    pub fn listens_on(&self, port: u16) -> bool {
        self.own.ports.contains(&port)
    }
}

/// The sidecar's port of a direction.
pub const fn port_of(direction: Direction) -> u16 {
    match direction {
        Direction::Outbound => OUTBOUND_PORT,
        Direction::Inbound => INBOUND_PORT,
    }
}

const fn is_sidecar_s(port: u16) -> bool {
    port == OUTBOUND_PORT || port == INBOUND_PORT
}

type Arrivals = Arc<(Mutex<Vec<Accepted>>, Condvar)>;

#[derive(Debug)]
struct Accepted {
    peer: SocketAddr,
    arrival: Arrival,
    // Closed with the listeners: the other end has to see that it was connected.
    _stream: TcpStream,
}

#[derive(Debug)]
struct Listeners {
    ports: Vec<u16>,
    arrivals: Arrivals,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Listeners {
    fn start(sockets: Vec<(u16, TcpListener)>, as_sidecar: bool) -> Self {
        let (arrivals, stop) = (Arrivals::default(), Arc::new(AtomicBool::new(false)));
        let ports = sockets.iter().map(|(port, _)| *port).collect();
        let accept = |(port, listener)| {
            let (arrivals, stop) = (Arc::clone(&arrivals), Arc::clone(&stop));
            thread::spawn(move || {
                if as_sidecar && is_sidecar_s(port) {
                    // It was possible when the listener was opened.
                    let _ = become_sidecar();
                }
                accept_all(port, &listener, &arrivals, &stop);
            })
        };
        Self {
            ports,
            threads: sockets.into_iter().map(accept).collect(),
            arrivals,
            stop,
        }
    }

    fn find(&self, from: SocketAddr) -> Option<Arrival> {
        let arrivals = self
            .arrivals
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut found = arrivals.iter().filter(|accepted| accepted.peer == from);
        found.next_back().map(|accepted| accepted.arrival.clone())
    }

    fn wait(&self, limit: Duration) {
        let arrivals = self
            .arrivals
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Whether there is news is looked at by the caller.
        drop(self.arrivals.1.wait_timeout(arrivals, limit));
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept_all(port: u16, listener: &TcpListener, arrivals: &Arrivals, stop: &AtomicBool) {
    let pause = PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let _ = poll(
            &mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)],
            pause,
        );
        while let Ok((stream, peer)) = listener.accept() {
            reset(&stream);
            let arrival = Arrival {
                port,
                original: Some(original_destination(&stream)),
            };
            let (list, news) = &**arrivals;
            let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
            if list.len() == REMEMBERED {
                list.remove(0);
            }
            list.push(Accepted {
                peer: canonical(peer),
                arrival,
                _stream: stream,
            });
            news.notify_all();
        }
    }
}

/// What a sidecar asks: `SO_ORIGINAL_DST` at `SOL_IP` or `SOL_IPV6`.
fn original_destination(stream: &TcpStream) -> Result<SocketAddr, String> {
    let socket = SockRef::from(stream);
    let is_v6 = stream.local_addr().is_ok_and(|local| local.is_ipv6());
    let answer = if is_v6 {
        socket.original_dst_v6()
    } else {
        socket.original_dst_v4()
    };
    let address = answer.map_err(|error| error.to_string())?;
    let address = address.as_socket().ok_or("not an address")?;
    Ok(canonical(address))
}

fn open_quiet(families: &[Domain]) -> io::Result<Vec<(u16, TcpListener)>> {
    let first = open(Domain::IPV4, 0)?;
    let port = first.local_addr()?.port();
    let mut sockets = vec![(port, first)];
    if families.contains(&Domain::IPV6) {
        sockets.push((port, open(Domain::IPV6, port)?));
    }
    Ok(sockets)
}

fn open_all(families: &[Domain], ports: &[u16]) -> io::Result<Vec<(u16, TcpListener)>> {
    let all = families
        .iter()
        .flat_map(|family| ports.iter().map(|port| (*family, *port)));
    all.map(|(family, port)| Ok((port, open(family, port)?)))
        .collect()
}

fn open(family: Domain, port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(family, Type::STREAM, Some(Protocol::TCP))?;
    let any: IpAddr = if family == Domain::IPV6 {
        socket.set_only_v6(true)?;
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    // An earlier run's connections may not be quite over; a listener still keeps it out.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Refuses a pod in which something else has the sidecar's ports.
fn check_whose(sidecar: u32) -> Result<()> {
    let other = sockets().into_iter().find(|entry| {
        entry.state == TcpState::Listen
            && is_sidecar_s(entry.local_address.port())
            && entry.uid != sidecar
    });
    let Some(other) = other else {
        return Ok(());
    };
    let (port, user) = (other.local_address.port(), other.uid);
    Err(Error::System {
        tried: "check the redirection".into(),
        source: format!("user {user} listens on port {port} of this pod").into(),
        advice: format!(
            "; that port is the sidecar's, which is user {sidecar}: have the application use \
             another one"
        ),
    })
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
