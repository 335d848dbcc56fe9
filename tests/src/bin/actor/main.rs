//! A process in a scene: a server, a transparent sidecar, or a client under remote control.
//!
//! It is started as root, joins a cgroup, enters a network namespace, becomes the wanted user, and
//! then does its part. The harness starts it; by hand, `actor --help` explains the flags.

#![forbid(unsafe_code)]

mod accept;
mod broker;
mod client;
mod connect;
mod exec;
mod listen;
mod load;
mod pattern;
mod serve;
mod sidecar;
mod victim;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use osm_tests::answer::Answer;
use osm_tests::enter::Place;
use osm_tests::event::Event;
use serde::Serialize;

#[derive(Parser)]
#[command(about = "A process in a scene")]
struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Greet every connection, then echo; prints an event for each
    Serve(serve::Args),
    /// Forward every connection to its original destination; prints an event for each
    Sidecar(sidecar::Args),
    /// Do what the JSON lines on stdin say, and answer in JSON lines
    Client,
    /// Make sockets as the harness asks, and hand them to it
    Broker(broker::Args),
    /// Become another program
    Exec(exec::Args),
    /// Send or take a stream on the socket that stdin is, until killed
    Victim(victim::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let opened = match &args.part {
        Part::Exec(args) => args.open(),
        _ => Ok(None),
    };
    let entered = args.place.enter();
    let (result, is_client) = match args.part {
        Part::Serve(args) => (entered.and_then(|()| serve::run(args)), false),
        Part::Sidecar(args) => (entered.and_then(|()| sidecar::run(args)), false),
        Part::Broker(args) => (entered.and_then(|()| broker::run(&args)), false),
        Part::Exec(args) => {
            let started = opened.and_then(|opened| {
                entered?;
                exec::run(&args, opened.as_ref())
            });
            (started.map(|never| match never {}), false)
        }
        Part::Victim(args) => (entered.and_then(|()| victim::run(&args)), false),
        Part::Client => (entered.and_then(|()| client::run()), true),
    };
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let error = format!("{error:#}");
    if is_client {
        print(&Answer::Failed { error });
    } else {
        print(&Event::Failed { error });
    }
    ExitCode::FAILURE
}

/// Writes one line. A harness that is gone kills this process anyway, so errors don't matter.
fn print(line: &impl Serialize) {
    if let Ok(mut text) = serde_json::to_vec(line) {
        text.push(b'\n');
        let _ = io::stdout().lock().write_all(&text);
    }
}
