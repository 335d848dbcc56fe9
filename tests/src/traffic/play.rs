//! One connection from its first byte to its end.

use std::io;
use std::thread;
use std::time::Duration;

use socket2::Socket;

use super::receive::{Broken, Receiver};
use super::send::Sender;
use super::{End, Ending, Pair, Plan, Route, by_tcp};
use crate::actor;
use crate::process::spawn;

/// What a connection came to, both ends together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Bytes that were read, each of them right.
    pub bytes: u64,
    /// Bytes that sockets took, as far as their ends lived to say so.
    pub taken: u64,
    /// Bytes of these that TCP got, SYN and FIN among them.
    pub by_tcp: u64,
    /// How many of the two ends sent something of which TCP knows nothing.
    pub shortcuts: u64,
    /// How often a blocking call said that it would block.
    pub spurious: u64,
    /// How often `MSG_WAITALL` came short.
    pub short: u64,
}

/// How one end came out.
struct Outcome {
    played: Played,
    /// Bytes that it sent and read.
    sent: u64,
    read: u64,
    /// Why it could not send or read all.
    failed: Option<String>,
}

/// Plays the plan on a connection.
///
/// # Errors
/// A wrong, lost or doubled byte, a hang, or an end that the plan did not foresee: what is wrong,
/// with all that is needed to do it again.
pub fn play(plan: &Plan, route: Route, pair: Pair) -> Result<Played, String> {
    let Pair { client, server } = pair;
    let (one, other) = thread::scope(|scope| {
        let client = scope.spawn(|| one_end(plan, route, End::Client, client));
        let server = one_end(plan, route, End::Server, server);
        (client.join(), server)
    });
    let one = one.map_err(|_| "a thread panicked".to_owned())?;
    judge(plan, one, other).map_err(|error| {
        let (seed, number) = (plan.seed, plan.number);
        format!("{error}\n  seed {seed}, connection {number}, {route:?}\n  {plan:?}")
    })
}

fn one_end(plan: &Plan, route: Route, end: End, socket: Socket) -> Result<Outcome, String> {
    let outcome = match plan.ending {
        Ending::Reset(who, length) if who == end => abrupt(plan, end, socket, length, true),
        Ending::Close(who, length) if who == end => abrupt(plan, end, socket, length, false),
        Ending::KillSender(who, after) if who == end => {
            victim(socket, after, Some(plan.pattern(end).key()))
        }
        Ending::KillReader(who, after) if who == end => victim(socket, after, None),
        _ => to_the_end(plan, route, end, &socket),
    };
    outcome.map_err(|error| format!("{end:?}: {error}"))
}

/// Sends and reads at the same time, all that there is.
fn to_the_end(plan: &Plan, route: Route, end: End, socket: &Socket) -> Result<Outcome, String> {
    let half = plan.half(end);
    let text = |error: io::Error| error.to_string();
    let mut sender = Sender::new(socket, half, plan.pattern(end)).map_err(text)?;
    let mut receiver = Receiver::new(socket, half, plan.pattern(end.other())).map_err(text)?;
    let (written, read) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let written = sender.send(length(plan, end));
            if half.ends_early && written.is_ok() {
                return socket.shutdown(std::net::Shutdown::Write);
            }
            written
        });
        let read = receiver.receive();
        (writer.join(), read)
    });
    let written = written.map_err(|_| "the writer panicked".to_owned())?;
    let mut played = Played {
        bytes: receiver.done,
        spurious: receiver.spurious() + sender.spurious(),
        short: receiver.short,
        ..Played::default()
    };
    weigh(&mut played, route, socket, sender.done).map_err(text)?;
    let mut failed = written.err().map(|error| {
        let (done, of) = (sender.done, length(plan, end));
        format!("{end:?} could not send after {done} of {of} bytes: {error}")
    });
    match read {
        Ok(()) => {}
        Err(Broken::Failed(error)) if error.kind() != io::ErrorKind::TimedOut => {
            let done = receiver.done;
            failed = failed.or(Some(format!(
                "{end:?} could not read after {done} bytes: {error}"
            )));
        }
        Err(Broken::Failed(_)) => {
            return Err(format!("hangs: nothing to read after {}", receiver.done));
        }
        Err(Broken::Wrong(mismatch)) => return Err(mismatch.to_string()),
        Err(Broken::Peeked { offset }) => {
            return Err(format!("MSG_PEEK showed other bytes at offset {offset}"));
        }
    }
    Ok(Outcome {
        played,
        sent: sender.done,
        read: receiver.done,
        failed,
    })
}

/// What was sent, which way.
fn weigh(played: &mut Played, route: Route, socket: &Socket, taken: u64) -> io::Result<()> {
    let tcp = by_tcp(socket)?;
    played.taken += taken;
    played.by_tcp += tcp.sent;
    let shortcut = tcp.less_than(taken);
    played.shortcuts += u64::from(shortcut);
    if shortcut && matches!(route, Route::Bypassed | Route::Excluded) {
        return Err(io::Error::other(format!(
            "a bypassed connection took the shortcut: of {taken} bytes, TCP got {}",
            tcp.sent
        )));
    }
    Ok(())
}

/// Sends so much, reads nothing, and is gone.
fn abrupt(
    plan: &Plan,
    end: End,
    socket: Socket,
    length: u64,
    reset: bool,
) -> Result<Outcome, String> {
    let text = |error: io::Error| error.to_string();
    let mut sender = Sender::new(&socket, plan.half(end), plan.pattern(end)).map_err(text)?;
    let result = sender.send(length);
    if result.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
        return Err(format!("hangs: takes nothing after {} bytes", sender.done));
    }
    let sent = sender.done;
    drop(sender);
    if reset {
        socket.set_linger(Some(Duration::ZERO)).map_err(text)?;
    }
    drop(socket);
    Ok(Outcome {
        played: Played::default(),
        sent,
        read: 0,
        failed: None,
    })
}

/// Is in a process of its own, which is killed.
fn victim(socket: Socket, after: u64, key: Option<u64>) -> Result<Outcome, String> {
    let text = |error: io::Error| error.to_string();
    let mut command = actor::victim(&socket);
    drop(socket);
    if let Some(key) = key {
        command.args(["--key", &key.to_string()]);
    }
    let mut child = spawn(command).map_err(text)?;
    thread::sleep(Duration::from_millis(after));
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().map_err(text)?;
    Ok(Outcome {
        played: Played::default(),
        sent: 0,
        read: 0,
        failed: None,
    })
}

/// How much an end wants to send.
fn length(plan: &Plan, end: End) -> u64 {
    match plan.ending {
        // As long as the reader lives, and no longer.
        Ending::KillReader(who, _) if who != end => 1 << 40,
        _ => plan.half(end).length,
    }
}

/// Compares both ends with the plan.
fn judge(
    plan: &Plan,
    client: Result<Outcome, String>,
    server: Result<Outcome, String>,
) -> Result<Played, String> {
    let (client, server) = (client?, server?);
    if plan.ending == Ending::Orderly {
        let mut wrong = Vec::new();
        for (end, sender, reader) in [
            (End::Client, &client, &server),
            (End::Server, &server, &client),
        ] {
            let wanted = plan.half(end).length;
            let (sent, read) = (sender.sent, reader.read);
            if sent != wanted || read != wanted {
                let other = end.other();
                let by_tcp = sender.played.by_tcp;
                wrong.push(format!(
                    "of {wanted} bytes, {end:?} sent {sent}, {by_tcp} of them by TCP, and {other:?} \
                     read {read}"
                ));
            }
        }
        wrong.extend([client.failed, server.failed].into_iter().flatten());
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
    }
    let (one, other) = (client.played, server.played);
    Ok(Played {
        bytes: one.bytes + other.bytes,
        taken: one.taken + other.taken,
        by_tcp: one.by_tcp + other.by_tcp,
        shortcuts: one.shortcuts + other.shortcuts,
        spurious: one.spurious + other.spurious,
        short: one.short + other.short,
    })
}
