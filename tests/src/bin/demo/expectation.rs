//! What should come of a connection, and whether it did, by two witnesses: the sidecar, and the one
//! who answered.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use osm_tests::{Connection, Listener, canonical};

use crate::sidecar::Seen;

const REFUSED: &str = "ECONNREFUSED";

/// What should come of a connection.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// This listener of the sidecar gets it, told where it was to go; this server answers.
    Sidecar(Listener, &'static str),
    /// It goes to this server, and the sidecar sees nothing of it.
    Direct(&'static str),
    /// It is refused, and this server, which it was for, sees nothing of it.
    Refused(&'static str),
}

impl Expected {
    /// How many connections the sidecar sees.
    pub fn seen(self) -> usize {
        usize::from(matches!(self, Self::Sidecar(..)))
    }
}

/// What should have become of a connection that was made through the sidecar before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It works, and the application's socket reports what it reported before.
    Intercepted,
    /// It works.
    Alive,
    /// It is reset as soon as it is used.
    Reset,
}

/// What came of a connection.
#[derive(Debug)]
pub struct Observed {
    /// The address that was dialled, as the application's socket has it.
    pub dialled: SocketAddr,
    /// The address from which it should have been dialled.
    pub from: IpAddr,
    /// What the one who dialled says.
    pub connection: Connection,
    /// What was sent, and should have come back.
    pub payload: String,
    /// What the sidecar says.
    pub seen: Vec<Seen>,
    /// How many connections the server has seen that should not see any.
    pub leaked: usize,
}

impl Observed {
    /// Who answered, in a word.
    pub fn answer(&self) -> &str {
        match (&self.connection.greeting, &self.connection.error) {
            (Some(greeting), _) => &greeting.role,
            (None, Some(error)) if error == REFUSED => "refused",
            (None, _) => "nobody",
        }
    }

    /// Everything that is not as expected, in words.
    pub fn problems(&self, expected: Expected) -> Vec<String> {
        let mut problems = Problems(Vec::new());
        match expected {
            Expected::Sidecar(listener, by) => {
                self.check_answer(by, &mut problems);
                self.check_sidecar(listener, &mut problems);
            }
            Expected::Direct(by) => {
                self.check_answer(by, &mut problems);
                self.check_directness(&mut problems);
            }
            Expected::Refused(by) => {
                let error = self.connection.error.as_deref().unwrap_or("success");
                problems.compare("connect()", error, REFUSED);
                problems.compare(&format!("connections to {by}"), &self.leaked, &0);
                problems.compare("connections to the sidecar", &self.seen.len(), &0);
            }
        }
        problems.0
    }

    /// The application can't tell who is between it and the server.
    fn check_answer(&self, by: &str, problems: &mut Problems) {
        let connection = &self.connection;
        let Some(greeting) = &connection.greeting else {
            let error = connection.error.as_ref();
            let error = error.or(connection.greeting_error.as_ref());
            let error = error.map_or("no error", String::as_str);
            problems.add(format!("{by} does not answer: {error}"));
            return;
        };
        let echoed = connection.echoed.as_deref();
        problems.compare("who answers", greeting.role.as_str(), by);
        problems.compare("the echo", &echoed, &Some(self.payload.as_str()));
        problems.compare("getpeername()", &connection.peer, &Some(self.dialled));
        let from = connection.local.map(|local| canonical(local).ip());
        problems.compare("getsockname()", &from, &Some(self.from));
    }

    fn check_sidecar(&self, listener: Listener, problems: &mut Problems) {
        let dialled = canonical(self.dialled);
        if let [seen] = self.seen.as_slice() {
            problems.compare("the listener", &seen.listener, &listener);
            let peer = self.connection.local.map(canonical);
            problems.compare("the sidecar's peer", &Some(seen.peer), &peer);
            let told = &seen.original_destination;
            problems.compare("the original destination", told, &Ok(dialled));
        } else {
            problems.compare("connections to the sidecar", &self.seen.len(), &1);
        }
        let Some(greeting) = &self.connection.greeting else {
            return;
        };
        let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (local, peer) = match listener {
            Listener::Inbound => (SocketAddr::new(localhost, dialled.port()), localhost),
            Listener::Outbound | Listener::Plain => (dialled, self.from),
        };
        problems.compare("where the server was dialled", &greeting.local, &local);
        problems.compare("who dialled the server", &greeting.peer.ip(), &peer);
    }

    fn check_directness(&self, problems: &mut Problems) {
        problems.compare("connections to the sidecar", &self.seen.len(), &0);
        let Some(greeting) = &self.connection.greeting else {
            return;
        };
        let (local, dialled) = (
            self.connection.local.map(canonical),
            canonical(self.dialled),
        );
        problems.compare("who dialled the server", &Some(greeting.peer), &local);
        problems.compare("where the server was dialled", &greeting.local, &dialled);
    }
}

struct Problems(Vec<String>);

impl Problems {
    fn compare<T: PartialEq + Debug + ?Sized>(&mut self, what: &str, is: &T, should_be: &T) {
        if is != should_be {
            self.add(format!("{what}: {is:?}, not {should_be:?}"));
        }
    }

    fn add(&mut self, problem: String) {
        self.0.push(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osm_tests::Greeting;

    const APP: &str = "10.77.1.2:40000";
    const WEB: &str = "198.51.100.10:80";
    const VIA: Expected = Expected::Sidecar(Listener::Outbound, "web");
    const DIRECT: Expected = Expected::Direct("web");
    const REFUSAL: Expected = Expected::Refused("web");

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// A connection from the application to the web, of which all is as expected.
    fn right(expected: Expected) -> Observed {
        let via = matches!(expected, Expected::Sidecar(..));
        let refused = matches!(expected, Expected::Refused(_));
        let greeting = Greeting {
            role: "web".to_owned(),
            local: address(WEB),
            peer: address(if via { "10.77.1.2:50000" } else { APP }),
            original: None,
        };
        let seen = Seen {
            listener: Listener::Outbound,
            peer: address(APP),
            original_destination: Ok(address(WEB)),
        };
        Observed {
            dialled: address(WEB),
            from: address(APP).ip(),
            connection: Connection {
                connected: !refused,
                error: refused.then(|| REFUSED.to_owned()),
                peer: (!refused).then(|| address(WEB)),
                local: (!refused).then(|| address(APP)),
                greeting: (!refused).then_some(greeting),
                echoed: (!refused).then(|| "hello".to_owned()),
                ..Connection::default()
            },
            payload: "hello".to_owned(),
            seen: if via { vec![seen] } else { Vec::new() },
            leaked: 0,
        }
    }

    #[test]
    fn right_observation_has_no_problems() {
        for expected in [VIA, DIRECT, REFUSAL] {
            let problems = right(expected).problems(expected);
            assert!(problems.is_empty(), "{expected:?}: {problems:?}");
        }
    }

    #[test]
    fn right_observation_of_something_else_is_a_problem() {
        for expected in [VIA, DIRECT, REFUSAL] {
            for other in [VIA, DIRECT, REFUSAL] {
                let problems = right(other).problems(expected);
                let same = format!("{expected:?}") == format!("{other:?}");
                assert_eq!(problems.is_empty(), same, "{expected:?}, {other:?}");
            }
        }
    }

    #[test]
    fn any_one_witness_with_another_story_is_a_problem() {
        type Change = fn(&mut Observed);
        let elsewhere = |it: &mut Observed| it.dialled = address("198.51.100.11:80");
        let changes: [(Expected, Change); 10] = [
            (VIA, |it| {
                it.connection.peer = Some(address("127.0.0.1:15001"));
            }),
            (VIA, |it| {
                it.connection.local = Some(address("127.0.0.1:40000"));
            }),
            (VIA, |it| it.connection.echoed = None),
            (VIA, |it| it.seen[0].listener = Listener::Inbound),
            (VIA, |it| it.seen[0].peer = address("127.0.0.1:40000")),
            (VIA, |it| {
                it.seen[0].original_destination = Err("ENOENT".to_owned());
            }),
            (VIA, |it| it.seen.push(it.seen[0].clone())),
            (DIRECT, elsewhere),
            (DIRECT, |it| it.seen = right(VIA).seen),
            (REFUSAL, |it| it.leaked = 1),
        ];
        for (number, (expected, change)) in changes.into_iter().enumerate() {
            let mut observed = right(expected);
            change(&mut observed);
            assert!(!observed.problems(expected).is_empty(), "change {number}");
        }
    }
}
