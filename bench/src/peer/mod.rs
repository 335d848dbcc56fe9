//! The two ends of every measured connection: a process inside a pod that does what it is told.
//!
//! One order a line on stdin, one answer a line on stdout, in JSON. A peer is a client or a
//! sidecar by what it is ordered to do. Nothing but the measured system calls is in its loops.

mod client;
mod echo;
mod order;
mod sidecar;
mod wait;

use std::io::{self, BufRead as _, Write as _};
use std::net::TcpListener;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::unistd::Pid;
use osm_tests::enter::Place;

pub use order::{
    Answer, Dial, Done, Expected, Listener, Load, Order, Serve, Served, Sockets, Task,
};

/// The sidecar's port for outbound connections.
pub const OUTBOUND_PORT: u16 = 15001;

/// The sidecar's port for inbound connections.
pub const INBOUND_PORT: u16 = 15003;

/// The port of a pod's application.
pub const APP_PORT: u16 = 8080;

/// How many handshakes may wait; the kernel's own limit (`somaxconn`) is the same.
const BACKLOG: i32 = 4096;

/// Where the peer lives, and what it is.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Listen as a sidecar does, not as an application
    #[arg(long)]
    sidecar: bool,
}

/// What a peer listens on.
enum Listeners {
    Sidecar {
        outbound: TcpListener,
        inbound: TcpListener,
    },
    App(TcpListener),
}

impl Listeners {
    fn open(is_sidecar: bool) -> Result<Self> {
        Ok(if is_sidecar {
            Self::Sidecar {
                outbound: listen(OUTBOUND_PORT)?,
                inbound: listen(INBOUND_PORT)?,
            }
        } else {
            let listener = listen(APP_PORT)?;
            // As that of a server that waits for everything in one place.
            let made = listener.set_nonblocking(true);
            made.context("having the application's listener not block")?;
            Self::App(listener)
        })
    }

    fn get(&self, which: Listener) -> Option<&TcpListener> {
        match (self, which) {
            (Self::Sidecar { outbound, .. }, Listener::Outbound) => Some(outbound),
            (Self::Sidecar { inbound, .. }, Listener::Inbound) => Some(inbound),
            (Self::App(app), Listener::App) => Some(app),
            _ => None,
        }
    }
}

/// Does what the lines on stdin say, until there are no more.
///
/// # Errors
/// Where it can't get to its place, can't listen or is told nonsense. What goes wrong with an order
/// is answered.
pub fn run(args: &Args) -> Result<()> {
    args.place.enter()?;
    // Paced connections start when they are due, not 50 µs later.
    prctl::set_timerslack(1).context("asking for exact timers")?;
    let listeners = Listeners::open(args.sidecar)?;
    answer(&Answer::Ready)?;
    for line in io::stdin().lock().lines() {
        let line = line.context("reading an order")?;
        let order = serde_json::from_str(&line).with_context(|| format!("not an order: {line}"))?;
        let outcome = obey(&order, &listeners);
        answer(&outcome.unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))))?;
    }
    Ok(())
}

fn obey(order: &Order, listeners: &Listeners) -> Result<Answer> {
    match order {
        Order::Dial(dial) => {
            pin(dial.cpu)?;
            client::run(dial).map(Answer::Done)
        }
        Order::Serve(serve) => {
            pin(serve.cpu)?;
            let listener = listeners.get(serve.listener);
            let listener = listener.context("this peer does not listen there")?;
            sidecar::run(serve, listener).map(Answer::Served)
        }
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let opening = || format!("listening on port {port}");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).with_context(opening)?;
    socket.set_reuse_address(true).with_context(opening)?;
    let address = std::net::SocketAddr::from(([0, 0, 0, 0], port));
    socket.bind(&address.into()).with_context(opening)?;
    socket.listen(BACKLOG).with_context(opening)?;
    Ok(socket.into())
}

/// Keeps this thread, and those that it starts, on one core.
fn pin(cpu: usize) -> Result<()> {
    let pinning = || format!("moving to core {cpu}");
    let mut set = CpuSet::new();
    set.set(cpu).with_context(pinning)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(pinning)
}

/// The seconds of processor time that this process has used, in user mode and in the kernel.
fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("reading the processor time")?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(std::time::Duration::from_micros(u64::try_from(micros)?).as_secs_f64())
}

fn answer(answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)
        .and_then(|()| out.flush())
        .context("answering")
}
