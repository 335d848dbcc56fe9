//! Connections of every kind that a pod has, with both ends in the test's hands.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::poll::PollFlags;
use socket2::Socket;

use super::{Broker, wait};
use crate::actor::Actor;
use crate::agent::{Agent, Attach, Outcome};
use crate::need::{Need, missing};
use crate::world::{APP_UID, Pod, SIDECAR_UID, World};

/// A remote server's address.
const REMOTE: &str = "198.51.100.10:80";

/// A remote server that policies exclude.
const EXCLUDED: &str = "198.51.100.11:5432";

/// Where the sidecar finds the application.
const LOCAL: &str = "127.0.0.1:8081";

/// Where the application finds itself.
const OWN: &str = "127.0.0.1:8083";

/// Where the application serves with calls that wait: the shortcut is for listeners that never do.
const WAITING: u16 = 100;

/// As many connections may wait as anybody opens at once.
const BACKLOG: i32 = 16_384;

/// Which way a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// The application dials a remote address; the sidecar has it on 15001.
    Outbound,
    /// The sidecar dials the application at 127.0.0.1.
    Local,
    /// The application dials a remote server, and a proxying sidecar is between them.
    ProxiedOut,
    /// A remote client dials the application, and a proxying sidecar is between them.
    ProxiedIn,
    /// The application dials 127.0.0.1: nobody's business.
    Bypassed,
    /// The application dials a remote server on an excluded port.
    Excluded,
}

impl Route {
    /// Those that the shortcut may serve.
    pub const INTERCEPTED: [Self; 4] = [
        Self::Outbound,
        Self::Local,
        Self::ProxiedOut,
        Self::ProxiedIn,
    ];

    /// Are both sockets in the pod, with nobody between them?
    #[must_use]
    pub const fn is_direct(self) -> bool {
        !matches!(self, Self::ProxiedOut | Self::ProxiedIn)
    }
}

/// Whether the ends wait in their calls. The shortcut is for those that don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The one that dials, from before it dials.
    pub is_client_blocking: bool,
    /// The one that accepts, from when it has accepted.
    pub is_server_blocking: bool,
}

impl Kind {
    /// No end blocks.
    pub const NON_BLOCKING: Self = Self::new(false, false);

    /// All there are.
    pub const ALL: [Self; 4] = [
        Self::NON_BLOCKING,
        Self::new(false, true),
        Self::new(true, false),
        Self::new(true, true),
    ];

    /// One of them.
    #[must_use]
    pub const fn new(is_client_blocking: bool, is_server_blocking: bool) -> Self {
        Self {
            is_client_blocking,
            is_server_blocking,
        }
    }
}

/// Both ends of a connection.
#[derive(Debug)]
pub struct Pair {
    /// The one that dialled.
    pub client: Socket,
    /// The one that accepted.
    pub server: Socket,
}

/// Who dials, whom, and where it arrives.
#[derive(Debug)]
struct Line {
    dialler: Broker,
    to: SocketAddr,
    listener: Socket,
}

/// For each route, and for servers that wait in their calls.
type Lines = Vec<((Route, bool), Mutex<Line>)>;

/// Two pods with an agent: one whose sidecar is the test itself, one with a sidecar that proxies.
#[derive(Debug)]
pub struct Scene {
    lines: Lines,
    // They hold the listeners too, so that an agent that looks for these finds them.
    _listening: [Broker; 4],
    _sidecar: Mutex<Actor>,
    proxied: Pod,
    /// Everything around it.
    pub world: World,
    /// The agent that attaches them.
    pub agent: Agent,
}

impl Scene {
    /// Both pods attached, with this `spec` (YAML's flow style) as the mesh's; none where the test has
    /// to be skipped.
    #[must_use]
    #[track_caller]
    pub fn new(spec: &str) -> Option<Self> {
        if missing(&[Need::Root, Need::CgroupV2, Need::Agent]) {
            return None;
        }
        let (world, agent) = (World::new()?, Agent::new()?);
        let proxied = world.add_pod();
        let sidecar = proxied.sidecar_with(&["--quiet"]);
        let (listening, lines) = lines(&world, &proxied);
        let scene = Self {
            lines,
            _listening: listening,
            _sidecar: Mutex::new(sidecar),
            proxied,
            world,
            agent,
        };
        for outcome in scene.attach(spec) {
            let _ = outcome.succeeded();
        }
        scene.introduce();
        Some(scene)
    }

    /// Has the applications answer once: the shortcut is for those that were seen not to wait.
    fn introduce(&self) {
        for (route, is_blocking) in [Route::Local, Route::ProxiedIn]
            .into_iter()
            .flat_map(|route| [(route, false), (route, true)])
        {
            let pair = self.connect(route, Kind::new(false, is_blocking));
            let pair = pair.unwrap_or_else(|error| panic!("{route:?}: {error}"));
            for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
                from.send(b"hello").expect("sending");
                wait(to, PollFlags::POLLIN).expect("something to read");
            }
        }
    }

    /// Attaches both pods, again.
    pub fn attach(&self, spec: &str) -> [Outcome; 2] {
        [&self.world.pod, &self.proxied].map(|pod| self.attach_of(pod, spec).run())
    }

    /// Detaches both pods.
    pub fn detach(&self) -> [Outcome; 2] {
        [&self.world.pod, &self.proxied].map(|pod| self.agent.detach(pod))
    }

    fn attach_of(&self, pod: &Pod, spec: &str) -> Attach<'_> {
        let text = format!(
            "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nspec: {spec}\n"
        );
        self.agent
            .attach(pod)
            .option("--mode", "ebpf")
            .config(&text)
            .annotation("openservicemesh.io/outbound-port-exclusion-list", "5432")
    }

    /// A new connection.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn connect(&self, route: Route, kind: Kind) -> io::Result<Pair> {
        self.connect_with(route, kind, |_| ())
    }

    /// A new connection, with something done between connect() and accept().
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn connect_with(
        &self,
        route: Route,
        kind: Kind,
        between: impl FnOnce(&Socket),
    ) -> io::Result<Pair> {
        let mut line = self.line(route, kind.is_server_blocking);
        let to = line.to;
        let client = line.dialler.connect(to, kind.is_client_blocking)?;
        between(&client);
        let (server, peer) = accept(&line.listener, kind.is_server_blocking)?;
        let local = client.local_addr()?.as_socket();
        if route.is_direct() && local.map(|it| it.port()) != Some(peer.port()) {
            return Err(io::Error::other("somebody else was accepted"));
        }
        Ok(Pair { client, server })
    }

    /// So many connections at once: the dialler sends this many bytes on each, which are echoed here, and reads them back. Returns this end of them. (Two ends of
    /// ten thousand connections are more files than a process may have open.)
    ///
    /// # Errors
    /// Where one can't be made or does not echo.
    pub fn echo_many(&self, route: Route, count: u32, length: usize) -> io::Result<Vec<Socket>> {
        let mut line = self.line(route, false);
        let to = line.to;
        // The queue of a listener is shorter (`somaxconn`).
        line.dialler.begin_keeping(to, count)?;
        let servers: Vec<_> = (0..count)
            .map(|_| accept(&line.listener, false).map(|(socket, _)| socket))
            .collect::<io::Result<_>>()?;
        line.dialler.done()?;
        line.dialler.begin_exchange(length)?;
        let mut bytes = vec![0; length];
        for mut server in &servers {
            let mut filled = 0;
            while filled < length {
                wait(server, PollFlags::POLLIN)?;
                filled += server.read(&mut bytes[filled..])?;
            }
            // There is room for as little as this.
            if server.send(&bytes)? != length {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        line.dialler.done()?;
        Ok(servers)
    }

    /// A socket that has not dialled yet, and whom to dial with it to go this way.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn dialling(&self, route: Route) -> io::Result<(Socket, SocketAddr)> {
        let mut line = self.line(route, false);
        let to = line.to;
        Ok((line.dialler.socket(to)?, to))
    }

    /// The listening socket at this way's end.
    ///
    /// # Errors
    /// Where it can't be duplicated.
    pub fn listener(&self, route: Route) -> io::Result<Socket> {
        self.line(route, false).listener.try_clone()
    }

    fn line(&self, route: Route, waits: bool) -> MutexGuard<'_, Line> {
        let waits = waits && matches!(route, Route::Local | Route::ProxiedIn);
        let line = self.lines.iter().find(|(it, _)| *it == (route, waits));
        let (_, line) = line.expect("there is a line for every route");
        line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the listener accepts next, and from where.
///
/// # Errors
/// The error of the call; `TimedOut` where nothing comes.
pub fn accept(listener: &Socket, is_blocking: bool) -> io::Result<(Socket, SocketAddr)> {
    wait(listener, PollFlags::POLLIN)?;
    let (socket, peer) = listener.accept()?;
    socket.set_nonblocking(!is_blocking)?;
    let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((socket, peer))
}

/// Starts the brokers and opens the listeners.
fn lines(world: &World, proxied: &Pod) -> ([Broker; 4], Lines) {
    let pod = &world.pod;
    let app = || Broker::start("app", &pod.place(APP_UID));
    let sidecar = || Broker::start("sidecar", &pod.place(SIDECAR_UID));
    let outside = || Broker::start("outside", &world.outside.place());
    let proxied_app = || Broker::start("proxied app", &proxied.place(APP_UID));
    let mut listening = [app(), sidecar(), outside(), proxied_app()];
    // Who dials, whom, who listens, and where.
    let mut line = |dialler, to: SocketAddr, broker: usize, at: SocketAddr| {
        let listener = listening[broker].listen(at, BACKLOG);
        let listener = listener.unwrap_or_else(|error| panic!("listening on {at}: {error}"));
        Mutex::new(Line {
            dialler,
            to,
            listener,
        })
    };
    let [remote, excluded, local, own] =
        [REMOTE, EXCLUDED, LOCAL, OWN].map(|it| it.parse::<SocketAddr>().expect("an address"));
    let outbound = (Ipv4Addr::UNSPECIFIED, 15001).into();
    let mut lines = vec![
        ((Route::Outbound, false), line(app(), remote, 1, outbound)),
        (
            (Route::ProxiedOut, false),
            line(proxied_app(), remote, 2, remote),
        ),
        ((Route::Bypassed, false), line(app(), own, 0, own)),
        ((Route::Excluded, false), line(app(), excluded, 2, excluded)),
    ];
    for waits in [false, true] {
        let port = local.port() + if waits { WAITING } else { 0 };
        let at = (Ipv4Addr::LOCALHOST, port).into();
        lines.push(((Route::Local, waits), line(sidecar(), at, 0, at)));
        let to = SocketAddr::new(proxied.ip4(), port);
        lines.push(((Route::ProxiedIn, waits), line(outside(), to, 3, at)));
    }
    (listening, lines)
}
