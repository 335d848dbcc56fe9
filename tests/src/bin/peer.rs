//! A process that speaks to a Unix socket as badly as it is told.
//!
//! `peer SOCKET STEP…`, one step after the other, on connections that stay open:
//!
//! | step | does |
//! |---|---|
//! | `connect`, `connect=N` | opens one connection more, or N |
//! | `send=TEXT` | sends it, with `\n` for a line feed |
//! | `fill=N` | sends N bytes without a line feed |
//! | `drip=MS` | sends a byte every MS milliseconds, until nobody takes it |
//! | `shut` | closes its direction |
//! | `read` | prints all that comes, to the end; `(nothing)` where that is nothing |
//! | `ask=N` | opens N connections, one after the other; each asks and prints the answer |
//! | `leave` | closes all connections |
//! | `orphan` | leaves them to another process, and ends |
//! | `listen=TEXT` | takes the socket's place, and answers one connection with TEXT |
//! | `say=TEXT` | prints it |
//! | `wait` | until a line is read, or standard input ends |
//!
//! What fails because the other side closed is not complained about.
#![forbid(unsafe_code)]

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

const ENROL: &[u8] = b"{\"version\":1,\"request\":\"enrol\"}\n";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let socket = args.next().context("peer SOCKET STEP…")?;
    let mut peer = Peer {
        socket,
        open: Vec::new(),
    };
    for step in args {
        let (step, value) = step.split_once('=').unwrap_or((&step, ""));
        peer.step(step, value).with_context(|| step.to_owned())?;
    }
    Ok(())
}

struct Peer {
    socket: String,
    open: Vec<UnixStream>,
}

impl Peer {
    fn step(&mut self, step: &str, value: &str) -> Result<()> {
        match step {
            "connect" => {
                for _ in 0..number(value)? {
                    self.open.push(UnixStream::connect(&self.socket)?);
                }
            }
            "send" => tolerate(
                self.last()?
                    .write_all(value.replace("\\n", "\n").as_bytes()),
            ),
            "fill" => tolerate(self.last()?.write_all(&vec![b'x'; number(value)?])),
            "drip" => {
                let pause = Duration::from_millis(number(value)? as u64);
                while self.last()?.write_all(b" ").is_ok() {
                    thread::sleep(pause);
                }
            }
            "shut" => self.last()?.shutdown(Shutdown::Write)?,
            "read" => say(&read(self.last()?)),
            "ask" => {
                for _ in 0..number(value)? {
                    let mut stream = UnixStream::connect(&self.socket)?;
                    tolerate(stream.write_all(ENROL));
                    say(&read(&mut stream));
                }
            }
            "leave" => self.open.clear(),
            "orphan" => {
                let stream = self.open.pop().context("no connection")?;
                let held = Stdio::from(OwnedFd::from(stream));
                let _ = Command::new("sleep").arg("5").stdin(held).spawn()?;
                std::process::exit(0);
            }
            "listen" => {
                let listener = UnixListener::bind(&self.socket)?;
                say("listening");
                let (mut stream, _) = listener.accept()?;
                tolerate(stream.write_all(value.replace("\\n", "\n").as_bytes()));
            }
            "say" => say(value),
            "wait" => {
                let _ = io::stdin().lock().read_line(&mut String::new());
            }
            _ => bail!("no such step"),
        }
        Ok(())
    }

    fn last(&mut self) -> Result<&mut UnixStream> {
        self.open.last_mut().context("no connection")
    }
}

fn number(text: &str) -> Result<usize> {
    Ok(if text.is_empty() { 1 } else { text.parse()? })
}

fn tolerate(written: io::Result<()>) {
    if let Err(error) = written {
        eprintln!("not sent: {error}");
    }
}

fn read(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    match String::from_utf8_lossy(&text).trim_end() {
        "" => "(nothing)".into(),
        text => text.into(),
    }
}

fn say(line: &str) {
    println!("{line}");
}
