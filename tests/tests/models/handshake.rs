//! The hand-over of the original destination, from the socket that dialled to the one that the
//! sidecar accepts.
//!
//! | step here | there |
//! |---|---|
//! | `dials` | `connect::redirect` (`osm-ebpf/src/connect.rs`) |
//! | `leaves` | `handshake::connecting`, as the SYN is about to leave |
//! | `arrives` | `inbound::decide`, `listeners::assign` |
//! | `reads`, `takes` | `handshake::established`, `handshake::take` |
//! | `closes`, `is closed` | `handshake::state_changed` |
//! | what the sidecar is told | `option::answer` |
//!
//! Connections of IPv6 all go to one address, and those of IPv4 to one that stands for their
//! destination, which another one may share: so the two that come from one port, one after the
//! other, have the same key. A third one, with a key of its own, runs beside them.
//!
//! What the model takes for granted, because the kernel sees to it: a port is not used again
//! before what was sent from it has been received. Without that it does not hold:
//! see `late_packet_of_a_port_that_is_used_again_is_found`.

use crate::search::{Model, fails, holds};

const CONNECTIONS: usize = 3;
/// Which note each connection's is.
const KEYS: [usize; CONNECTIONS] = [0, 0, 1];

/// What may be wrong with the programs, or with what they go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wrong {
    #[default]
    Nothing,
    /// The note is made when the SYN has left.
    NotedLate,
    /// A note stays when the socket closes.
    NotRemoved,
    /// The acceptor leaves the note where it is.
    NotTaken,
    /// A connection that can't be remembered goes where it wanted.
    PassedWithoutMemory,
    /// Connections go to any listener on the port.
    AnyListener,
    /// The number of notes is not lowered as the socket closes.
    NotCounted,
    /// A port is used again while packets from it are on their way.
    PortUsedEarly,
}

/// The socket that dials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum App {
    #[default]
    Fresh,
    /// `connect` has sent it to the sidecar.
    Dialled,
    /// The SYN has left.
    SynSent,
    Established,
    /// It was closed in order: it waits for the other side.
    Closing,
    Closed,
    /// `connect` said `EPERM`.
    Refused,
    /// It went past the sidecar.
    Direct,
}

/// The other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Acceptor {
    #[default]
    None,
    /// The SYN is answered.
    SynReceived,
    /// `take` has read the note, which it will remove.
    Reads(Option<usize>),
    /// The sidecar has it, and is told this.
    Told(Option<usize>),
    /// It is with a listener that is not the sidecar's.
    Foreign,
    Reset,
}

/// What `REMEMBERED` says at the app's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Memory {
    #[default]
    Nothing,
    Remembered,
    /// The same, and that a note was made.
    Noted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Connection {
    app: App,
    acceptor: Acceptor,
    /// What is on its way to the acceptor.
    syn: bool,
    ack: bool,
    memory: Memory,
    /// Whether the note did not fit, or the app has left before it could be taken.
    may_be_lost: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    connections: [Connection; CONNECTIONS],
    /// `HANDSHAKES`: whose destination is noted under a key.
    notes: [Option<usize>; 2],
    /// `HANDSHAKES_OF_POD`.
    count: i8,
    /// Whether the sidecar listens, and how often it has been started.
    listens: bool,
    starts: u8,
}

struct HandOver(Wrong);

impl HandOver {
    /// The app's side.
    fn app(&self, state: &State, which: usize) -> Vec<(&'static str, State)> {
        let connection = state.connections[which];
        let mut found = Vec::new();
        let mut then = |name, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            found.push((name, next));
        };
        match connection.app {
            App::Fresh if self.may_begin(state, which) => {
                then("dials", &|next| {
                    let it = &mut next.connections[which];
                    (it.app, it.memory) = (App::Dialled, Memory::Remembered);
                });
                then("finds no memory", &|next| {
                    let passes = self.0 == Wrong::PassedWithoutMemory;
                    next.connections[which].app = if passes { App::Direct } else { App::Refused };
                });
            }
            App::Dialled => {
                then("leaves", &|next| self.leave(next, which, true));
                then("leaves, and no note fits", &|next| {
                    self.leave(next, which, false);
                });
            }
            App::SynSent | App::Established => {
                if connection.acceptor == Acceptor::Reset {
                    then("is closed", &|next| self.closed(next, which));
                } else {
                    if connection.acceptor == Acceptor::SynReceived
                        && connection.app == App::SynSent
                    {
                        then("is established", &|next| {
                            let it = &mut next.connections[which];
                            (it.app, it.ack) = (App::Established, true);
                        });
                    }
                    then("aborts", &|next| self.closed(next, which));
                }
                if self.0 == Wrong::NotedLate && connection.memory != Memory::Noted {
                    then("is noted late", &|next| Self::note(next, which));
                }
                if connection.app == App::Established {
                    // A note stays until the last state: the acceptor may not have taken it yet.
                    then("closes", &|next| {
                        next.connections[which].app = App::Closing;
                    });
                }
            }
            App::Closing if !connection.ack => {
                then("is closed", &|next| self.closed(next, which));
            }
            _ => {}
        }
        found
    }

    /// A port is free when the socket that had it is closed.
    fn may_begin(&self, state: &State, which: usize) -> bool {
        let before = (0..which).filter(|before| KEYS[*before] == KEYS[which]);
        before.map(|before| state.connections[before]).all(|it| {
            let is_received = !it.syn && !it.ack && !it.is_on_its_way();
            let is_over = matches!(it.app, App::Closed | App::Refused | App::Direct);
            is_over && (is_received || self.0 == Wrong::PortUsedEarly)
        })
    }

    fn leave(&self, state: &mut State, which: usize, fits: bool) {
        if fits && self.0 != Wrong::NotedLate {
            Self::note(state, which);
        }
        let it = &mut state.connections[which];
        it.may_be_lost = !fits;
        (it.app, it.syn) = (App::SynSent, true);
    }

    /// `BPF_NOEXIST`: a note that is there stays.
    fn note(state: &mut State, which: usize) {
        let note = &mut state.notes[KEYS[which]];
        if note.is_none() && state.connections[which].memory == Memory::Remembered {
            *note = Some(which);
            state.count += 1;
            state.connections[which].memory = Memory::Noted;
        }
    }

    /// The socket's last state.
    fn closed(&self, state: &mut State, which: usize) {
        let it = &mut state.connections[which];
        it.app = App::Closed;
        let is_taken = matches!(it.acceptor, Acceptor::Told(_) | Acceptor::Reads(_));
        it.may_be_lost |= !is_taken;
        if it.memory == Memory::Noted && self.0 != Wrong::NotRemoved {
            let was_there = state.notes[KEYS[which]].take().is_some();
            if was_there && self.0 != Wrong::NotCounted {
                state.count -= 1;
            }
        }
    }

    /// The acceptor's side: packets that arrive.
    fn acceptor(&self, state: &State, which: usize) -> Option<(&'static str, State)> {
        let mut next = state.clone();
        let key = KEYS[which];
        let it = &mut next.connections[which];
        if it.syn {
            it.syn = false;
            it.acceptor = match (it.app, state.listens) {
                (App::Closed, _) => Acceptor::None,
                (_, true) => Acceptor::SynReceived,
                (_, false) if self.0 == Wrong::AnyListener => Acceptor::Foreign,
                (_, false) => Acceptor::Reset,
            };
            return Some(("arrives", next));
        }
        match it.acceptor {
            Acceptor::SynReceived if it.ack => {
                it.ack = false;
                it.acceptor = Acceptor::Reads(state.notes[key]);
                Some(("reads", next))
            }
            // Its socket is gone without a word.
            Acceptor::SynReceived if it.app == App::Closed => {
                it.acceptor = Acceptor::None;
                Some(("is given up", next))
            }
            Acceptor::Reads(note) => {
                it.acceptor = Acceptor::Told(note);
                if note.is_some() && self.0 != Wrong::NotTaken {
                    let was_there = next.notes[key].take().is_some();
                    next.count -= i8::from(was_there);
                }
                Some(("takes", next))
            }
            _ => None,
        }
    }
}

impl Connection {
    /// Whether its acceptor still works on what it was sent.
    const fn is_on_its_way(&self) -> bool {
        matches!(self.acceptor, Acceptor::SynReceived | Acceptor::Reads(_))
    }
}

impl Model for HandOver {
    type State = State;

    fn start(&self) -> State {
        State::default()
    }

    fn steps(&self, state: &State) -> Vec<(String, State)> {
        let mut found = Vec::new();
        for which in 0..CONNECTIONS {
            let app = self.app(state, which).into_iter();
            let steps = app.chain(self.acceptor(state, which));
            found.extend(steps.map(|(name, next)| (format!("{which} {name}"), next)));
        }
        // The sidecar starts, and stops once.
        if state.starts < 2 {
            let mut next = state.clone();
            (next.listens, next.starts) = (!state.listens, state.starts + 1);
            found.push((format!("the sidecar listens: {}", next.listens), next));
        }
        found
    }

    fn fault(&self, state: &State) -> Option<String> {
        for (which, it) in state.connections.iter().enumerate() {
            if it.app == App::Direct || it.acceptor == Acceptor::Foreign {
                return Some(format!("connection {which} goes past the sidecar"));
            }
            let Acceptor::Told(told) = it.acceptor else {
                continue;
            };
            match told {
                Some(_) if state.notes[KEYS[which]] == Some(which) => {
                    return Some(format!("what {which} dialled is still noted"));
                }
                Some(told) if told != which => {
                    return Some(format!(
                        "the acceptor of {which} is told what {told} dialled"
                    ));
                }
                None if !it.may_be_lost => {
                    return Some(format!("the acceptor of {which} is told nothing"));
                }
                _ => {}
            }
        }
        (state.count < 0).then(|| "fewer notes than none".into())
    }

    fn fault_at_end(&self, state: &State) -> Option<String> {
        if state.notes.iter().any(Option::is_some) {
            return Some("a note is left".into());
        }
        if state.count != 0 {
            return Some(format!(
                "{} notes are counted and none is there",
                state.count
            ));
        }
        let is_over = |it: &Connection| {
            matches!(it.app, App::Closed | App::Refused) && !it.syn && !it.is_on_its_way()
        };
        let stuck = state.connections.iter().position(|it| !is_over(it));
        stuck.map(|which| format!("connection {which} is stuck"))
    }
}

#[test]
fn every_acceptor_is_told_what_its_own_app_dialled() {
    holds("hand-over", &HandOver(Wrong::Nothing), 20_000);
}

#[test]
fn wrong_programs_of_the_hand_over_are_found() {
    let cases = [
        (
            "noted when the SYN has left",
            Wrong::NotedLate,
            "told nothing",
        ),
        ("not removed at close", Wrong::NotRemoved, "a note is left"),
        ("not taken", Wrong::NotTaken, "is still noted"),
        (
            "passed without memory",
            Wrong::PassedWithoutMemory,
            "past the sidecar",
        ),
        ("any listener", Wrong::AnyListener, "past the sidecar"),
        ("not counted", Wrong::NotCounted, "none is there"),
    ];
    for (name, wrong, words) in cases {
        fails(name, &HandOver(wrong), words);
    }
}

#[test]
fn late_packet_of_a_port_that_is_used_again_is_found() {
    let early = HandOver(Wrong::PortUsedEarly);
    fails("a port used again early", &early, "is told what 1 dialled");
}
