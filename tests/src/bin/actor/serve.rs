//! A server: greets, then echoes.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use osm_tests::event::{Event, Greeting, Listener};
use tokio::io::{self, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::accept::{Arrival, accept_all, adopt, runtime};
use crate::listen::{Spec, local};
use crate::print;

/// The flags of a server.
#[derive(clap::Args)]
pub struct Args {
    /// The server's name, told to every client
    #[arg(long)]
    role: String,
    /// Where to listen
    #[arg(long = "listen", value_name = "ADDRESS:PORT[,v6only][,reuseport]")]
    listen: Vec<Spec>,
    /// Where to echo datagrams
    #[arg(long, value_name = "ADDRESS:PORT")]
    udp: Vec<SocketAddr>,
    /// Print no events for connections
    #[arg(long)]
    quiet: bool,
}

/// Serves until killed.
pub fn run(args: Args) -> Result<()> {
    runtime(2)?.block_on(serve(Arc::new(args)))
}

async fn serve(args: Arc<Args>) -> Result<()> {
    let mut tasks = JoinSet::new();
    let mut listen = Vec::new();
    for spec in &args.listen {
        let socket = spec.open()?;
        listen.push(local(&socket)?);
        let args = Arc::clone(&args);
        tasks.spawn(accept_all(adopt(socket)?, move |arrival| {
            greet_and_echo(arrival, Arc::clone(&args))
        }));
    }
    for address in &args.udp {
        let socket = UdpSocket::bind(address).await;
        let socket = socket.with_context(|| format!("binding udp {address}"))?;
        tasks.spawn(echo_datagrams(socket, Arc::clone(&args)));
    }
    print(&Event::Ready { listen });
    while let Some(end) = tasks.join_next().await {
        end??;
    }
    Ok(())
}

async fn greet_and_echo(mut arrival: Arrival, args: Arc<Args>) {
    let accepted = arrival.describe(&args.role, Listener::Plain);
    let greeting = Greeting {
        role: accepted.role.clone(),
        local: accepted.local,
        peer: accepted.peer,
        original: accepted.original_destination.as_ref().ok().copied(),
    };
    if !args.quiet {
        print(&Event::Accepted(accepted));
    }
    let Ok(mut line) = serde_json::to_vec(&greeting) else {
        return;
    };
    line.push(b'\n');
    // What goes wrong from here on is the client's to notice.
    if arrival.stream.write_all(&line).await.is_ok() {
        let (mut reader, mut writer) = arrival.stream.split();
        let _ = io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    }
}

async fn echo_datagrams(socket: UdpSocket, args: Arc<Args>) -> Result<()> {
    let mut buffer = vec![0; 65536];
    loop {
        // Errors are ICMP messages about earlier echoes.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let datagram = &buffer[..length];
        if !args.quiet {
            let text = String::from_utf8_lossy(datagram).into_owned();
            let role = args.role.clone();
            print(&Event::Datagram { role, peer, text });
        }
        let _ = socket.send_to(datagram, peer).await;
    }
}
