//! A transparent proxy: forwards every connection to where it wanted to go.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, anyhow};
use osm_tests::event::{Event, Listener};
use osm_tests::sys::{error_name, original_destination};
use osm_tests::{SLOWNESS, canonical};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::accept::{Arrival, accept_all, adopt, reset, runtime};
use crate::listen::{Spec, local};
use crate::print;

const BUFFER: usize = 64 << 10;

/// How long what can't be forwarded stays open. Who dialled asks for the names of its socket meanwhile: the
/// kernel forgets them with the reset.
const BEFORE_RESET: Duration = Duration::from_millis(20).saturating_mul(SLOWNESS);

/// The flags of a sidecar.
#[derive(clap::Args)]
pub struct Args {
    /// Where to take the application's connections [default: 0.0.0.0:15001]
    #[arg(long, value_name = "ADDRESS:PORT[,v6only][,reuseport]")]
    outbound: Vec<Spec>,
    /// Where to take connections to the pod [default: 0.0.0.0:15003]
    #[arg(long, value_name = "ADDRESS:PORT[,v6only][,reuseport]")]
    inbound: Vec<Spec>,
    /// Take no outbound connections
    #[arg(long, conflicts_with = "outbound")]
    no_outbound: bool,
    /// Take no inbound connections
    #[arg(long, conflicts_with = "inbound")]
    no_inbound: bool,
    /// Where the application is: `localhost` or an address
    #[arg(long, value_name = "HOST", default_value = "localhost")]
    local_proxy: LocalProxy,
    /// Listening sockets for each listener, sharing its port
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Print no events for connections
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug)]
enum LocalProxy {
    Localhost,
    Address(IpAddr),
}

impl FromStr for LocalProxy {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "localhost" {
            return Ok(Self::Localhost);
        }
        let address = text
            .parse()
            .map_err(|_| anyhow!("neither localhost nor an address"))?;
        Ok(Self::Address(address))
    }
}

struct Sidecar {
    local_proxy: LocalProxy,
    quiet: bool,
    listen: Vec<SocketAddr>,
}

/// Forwards until killed.
pub fn run(args: Args) -> Result<()> {
    runtime(2)?.block_on(forward_all(args))
}

async fn forward_all(args: Args) -> Result<()> {
    let outbound = or_default(args.outbound, args.no_outbound, 15001);
    let inbound = or_default(args.inbound, args.no_inbound, 15003);
    let outbound = outbound.into_iter().map(|spec| (spec, Listener::Outbound));
    let inbound = inbound.into_iter().map(|spec| (spec, Listener::Inbound));
    let mut open = Vec::new();
    let mut listen = Vec::new();
    for (mut spec, kind) in outbound.chain(inbound) {
        spec.reuseport |= args.workers > 1;
        for _ in 0..args.workers {
            let socket = spec.open()?;
            // Workers share the port that the first one gets.
            spec.address = local(&socket)?;
            open.push((adopt(socket)?, kind));
        }
        listen.push(spec.address);
    }
    let sidecar = Arc::new(Sidecar {
        local_proxy: args.local_proxy,
        quiet: args.quiet,
        listen: listen.clone(),
    });
    print(&Event::Ready { listen });
    let mut tasks = JoinSet::new();
    for (listener, kind) in open {
        let sidecar = Arc::clone(&sidecar);
        tasks.spawn(accept_all(listener, move |arrival| {
            let sidecar = Arc::clone(&sidecar);
            async move { sidecar.forward(arrival, kind).await }
        }));
    }
    while let Some(end) = tasks.join_next().await {
        end??;
    }
    Ok(())
}

fn or_default(given: Vec<Spec>, none: bool, port: u16) -> Vec<Spec> {
    if none || !given.is_empty() {
        return given;
    }
    vec![Spec::at((Ipv4Addr::UNSPECIFIED, port).into())]
}

impl Sidecar {
    async fn forward(&self, mut arrival: Arrival, listener: Listener) {
        let id = arrival.id;
        let wanted = if self.quiet {
            original_destination(arrival.stream.as_fd(), arrival.local())
        } else {
            let accepted = arrival.describe("sidecar", listener);
            let wanted = accepted.original_destination.clone();
            print(&Event::Accepted(accepted));
            wanted
        };
        let to = match wanted {
            Ok(wanted) => self.target(wanted, listener),
            Err(error) => {
                reset(&arrival.stream);
                return self.tell(&Event::NoOriginalDestination {
                    id,
                    listener,
                    error,
                });
            }
        };
        let mut upstream = match self.dial(to).await {
            Ok(upstream) => upstream,
            Err(error) => {
                tokio::time::sleep(BEFORE_RESET).await;
                reset(&arrival.stream);
                return self.tell(&Event::NotForwarded { id, to, error });
            }
        };
        let copied =
            copy_bidirectional_with_sizes(&mut arrival.stream, &mut upstream, BUFFER, BUFFER).await;
        let (up, down) = *copied.as_ref().unwrap_or(&(0, 0));
        let error = copied.err().map(|error| error_name(&error));
        if error.is_some() {
            // A reset on one side is a reset on the other.
            reset(&arrival.stream);
            reset(&upstream);
        }
        self.tell(&Event::Closed {
            id,
            up,
            down,
            error,
        });
    }

    /// Where a connection really goes: what came for the pod is for the application in it.
    fn target(&self, wanted: SocketAddr, listener: Listener) -> SocketAddr {
        let wanted = canonical(wanted);
        let ip = match (listener, self.local_proxy) {
            (Listener::Inbound, LocalProxy::Address(ip)) => ip,
            (Listener::Inbound, LocalProxy::Localhost) if wanted.is_ipv4() => {
                Ipv4Addr::LOCALHOST.into()
            }
            (Listener::Inbound, LocalProxy::Localhost) => Ipv6Addr::LOCALHOST.into(),
            (Listener::Outbound | Listener::Plain, _) => wanted.ip(),
        };
        SocketAddr::new(ip, wanted.port())
    }

    async fn dial(&self, to: SocketAddr) -> Result<TcpStream, String> {
        let is_own = |listen: &SocketAddr| listen.port() == to.port() && to.ip().is_loopback();
        if self.listen.iter().any(is_own) {
            return Err("loop".to_owned());
        }
        let upstream = connect(to).await.map_err(|error| error_name(&error))?;
        let _ = upstream.set_nodelay(true);
        Ok(upstream)
    }

    fn tell(&self, event: &Event) {
        if !self.quiet {
            print(event);
        }
    }
}

/// The ports from which a sidecar dials: below those that the kernel gives to applications. A server that
/// sees one of them knows whom it talks to.
const OWN_PORTS: Range<u16> = 20_000..32_000;

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Sidecars in one pod begin at different ports.
    let first = usize::try_from(std::process::id()).map_or(0, |pid| pid.wrapping_mul(1009));
    for _ in OWN_PORTS {
        let next = first.wrapping_add(NEXT.fetch_add(1, Relaxed)) % OWN_PORTS.len();
        let port = OWN_PORTS.start + u16::try_from(next).unwrap_or_default();
        let (socket, own): (_, IpAddr) = match to {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::UNSPECIFIED.into()),
        };
        socket.set_reuseaddr(true)?;
        let connected = match socket.bind((own, port).into()) {
            Ok(()) => socket.connect(to).await,
            Err(error) => Err(error),
        };
        match connected.as_ref().map_err(io::Error::kind) {
            Err(io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {}
            _ => return connected,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
