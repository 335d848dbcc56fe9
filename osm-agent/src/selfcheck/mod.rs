//! Proves from inside a pod, before its application starts, that interception is in force.
//!
//! It makes one connection for each path through the rules and compares where it ends, and what
//! the listener there is told it wanted, with what the decision function says:
//!
//! | path | caller | shows |
//! |---|---|---|
//! | outbound | this process | a remote destination ends at 15001, which is told what was dialled |
//! | the sidecar's bypass | user 1500 | the same destination does not |
//! | an excluded range, port or interface, outside of the inclusions | this process | it does not |
//! | the sidecar to its pod | user 1500 | the pod's own address ends at 15003, which is told |
//! | the app to its pod, both to localhost | both | they arrive where they were dialled |
//! | inbound, an excluded inbound port | a host that is made up | see `outside.rs` |
//!
//! **Who sees it.** Listeners of its own on 15001 and 15003, opened as user 1500 where that is
//! allowed. Where the sidecar listens already (the init container runs again), the kernel's
//! table of sockets: it shows at which port a connection ended, and not what the sidecar was told.
//!
//! **What it can't show.** That a connection goes out unredirected is seen by its not arriving at
//! the sidecar's listeners within [`NOTHING_WITHIN`]; where it went instead is the network's
//! affair. Without the privilege to be user 1500 or to inject packets those paths are reported
//! as not proven, which is no failure.
//!
//! Every connection ends with a reset, so that no port is left in `TIME_WAIT` for the sidecar.

mod dial;
mod frame;
mod live;
mod outside;
mod plan;
mod pod_network;
mod witness;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use osm_ebpf_common::maps::PolicyWord;

use crate::{error::Result, policy::Policy};
use dial::{DialError, dial};
pub use live::Live;
use plan::{Case, Expected, Untried, plan};
use pod_network::PodNetwork;
use witness::{Arrival, Witness, port_of};

/// How long a connection that has to arrive may take.
const ARRIVES_WITHIN: Duration = Duration::from_secs(3);

/// How long a connection that must not be redirected is watched. Redirected ones never leave the
/// pod, and arrive within a fraction of a millisecond.
pub const NOTHING_WITHIN: Duration = Duration::from_millis(400);

/// How often a connection is tried: the pod's network may just be coming up.
const ATTEMPTS: usize = 3;

/// How often a connection is tried that is reset before it is seen.
const RESETS: usize = 50;

/// By which means the pod is intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// eBPF, which redirects to listeners of the sidecar's user only.
    Ebpf,
    /// iptables.
    Iptables,
}

/// What came out for one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The path, in words.
    pub path: String,
    /// What came out.
    pub outcome: Outcome,
}

/// Whether a path does what it has to. Each with what was seen, or why nothing was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It does.
    Proven(String),
    /// It could not be tried.
    Unproven(String),
    /// It is refused, as it has to be while the sidecar does not listen.
    Unheard(String),
    /// It does not.
    Wrong(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, what) = match &self.outcome {
            Outcome::Proven(what) => ("proven", what),
            Outcome::Unproven(what) | Outcome::Unheard(what) => ("not proven", what),
            Outcome::Wrong(what) => ("wrong", what),
        };
        write!(f, "{}: {word}: {what}", self.path)
    }
}

/// Makes the connections, in the network namespace of this process, whose own addresses are
/// `own`. It takes half a second, and longer only where something is wrong: half a minute at most.
///
/// # Errors
/// Where it can't listen, or something else than the sidecar has its ports.
pub fn run(policy: &Policy, own: Vec<IpAddr>, means: Means) -> Result<Vec<Finding>> {
    to_the_end(|| find(policy, own, means))
}

/// Told to end, the process ends when what it made for the check is gone again.
pub fn to_the_end<T>(check: impl FnOnce() -> T) -> T {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let found = check();
    if let Ok(before) = before {
        // Else the process goes on as it is, and ends soon.
        let _ = before.thread_set_mask();
    }
    found
}

/// What all findings together say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Redirection works.
    Proven,
    /// It does not: what was seen.
    Wrong(String),
    /// It can't be told: the sidecar does not listen, and connections are refused.
    Unheard(String),
    /// It can't be told.
    Untried,
}

/// Judges them together.
#[must_use]
pub fn verdict(findings: &[Finding]) -> Verdict {
    let all = |is_such: fn(&Outcome) -> Option<&String>| {
        let such = findings
            .iter()
            .filter_map(|it| Some(format!("{}: {}", it.path, is_such(&it.outcome)?)));
        such.collect::<Vec<_>>().join("; ")
    };
    let wrong = all(|outcome| match outcome {
        Outcome::Wrong(what) => Some(what),
        _ => None,
    });
    if !wrong.is_empty() {
        return Verdict::Wrong(wrong);
    }
    let unheard = all(|outcome| match outcome {
        Outcome::Unheard(what) => Some(what),
        _ => None,
    });
    if !unheard.is_empty() {
        return Verdict::Unheard(unheard);
    }
    // What would come out the same without any redirection proves none.
    let is_proven = |finding: &Finding| {
        let is_redirected = ["outbound", "inbound", "the sidecar to its pod"]
            .iter()
            .any(|path| finding.path.starts_with(path));
        is_redirected && matches!(finding.outcome, Outcome::Proven(_))
    };
    if findings.iter().any(is_proven) {
        Verdict::Proven
    } else {
        Verdict::Untried
    }
}

fn find(policy: &Policy, own: Vec<IpAddr>, means: Means) -> Result<Vec<Finding>> {
    let dual = policy.word(0).has(PolicyWord::DUAL_STACK);
    let network = PodNetwork::new(own);
    let witness = Witness::open(dual, &outside::direct_ports(policy))?;
    if means == Means::Ebpf && !witness.is_sidecar_s {
        let why = "this process may not be user 1500, and eBPF redirects to that user's \
                   listeners only; it takes CAP_SETUID";
        return Ok(vec![Finding {
            path: "every path".into(),
            outcome: Outcome::Unproven(why.into()),
        }]);
    }
    let mut findings = try_all(policy, &network, &witness);
    findings.extend(outside::inbound(policy, &network, &witness));
    Ok(findings)
}

/// All that can be tried with connections of the pod's own, at once.
fn try_all(policy: &Policy, network: &PodNetwork, witness: &Witness) -> Vec<Finding> {
    let (cases, untried) = plan(policy, network, witness.quiet);
    let mut findings = thread::scope(|scope| {
        let running: Vec<_> = cases
            .iter()
            .map(|case| (case, scope.spawn(|| try_case(case, witness))))
            .collect();
        let outcome = |thread: thread::ScopedJoinHandle<'_, Outcome>| {
            let panicked = |_| Outcome::Wrong("the check itself panicked".into());
            thread.join().unwrap_or_else(panicked)
        };
        running
            .into_iter()
            .map(|(case, thread)| Finding {
                path: name(case.path, case.to.is_ipv6()),
                outcome: outcome(thread),
            })
            .collect::<Vec<_>>()
    });
    findings.extend(untried.iter().map(|Untried { path, is_v6, why }| Finding {
        path: name(path, *is_v6),
        outcome: Outcome::Unproven((*why).into()),
    }));
    findings
}

fn name(path: &str, is_v6: bool) -> String {
    if is_v6 {
        format!("{path} (IPv6)")
    } else {
        path.to_owned()
    }
}

fn try_case(case: &Case, witness: &Witness) -> Outcome {
    let mut outcome = try_until_seen(case, witness);
    for _ in 1..ATTEMPTS {
        if !matches!(outcome, Outcome::Wrong(_)) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        outcome = try_until_seen(case, witness);
    }
    outcome
}

/// A sidecar in use resets what it can't reach: often it is faster than who looks.
fn try_until_seen(case: &Case, witness: &Witness) -> Outcome {
    let tries = match case.expected {
        Expected::Redirected(_) => RESETS,
        // It may reach somebody, who is not to be called again and again.
        Expected::NotRedirected | Expected::Direct => 1,
    };
    let mut seen = (0..tries).filter_map(|_| try_once(case, witness));
    seen.next()
        .unwrap_or_else(|| Outcome::Unproven(was_reset(case.to)))
}

fn was_reset(to: SocketAddr) -> String {
    format!("whoever answers connections to {to} resets them before they are seen")
}

/// None where the other end reset it before it was seen anywhere.
fn try_once(case: &Case, witness: &Witness) -> Option<Outcome> {
    let to = case.to;
    if case.caller == plan::Caller::Sidecar && witness.is_elsewhere {
        let why = "who is not in the sidecar's container is not the sidecar: \
                   spec.sidecar.identity is uid-and-cgroup";
        return Some(Outcome::Unproven(why.into()));
    }
    let limit = match case.expected {
        Expected::NotRedirected => NOTHING_WITHIN,
        Expected::Redirected(_) | Expected::Direct => ARRIVES_WITHIN,
    };
    let deadline = Instant::now() + limit;
    let arrival = match dial(case.caller, witness.sidecar, to, limit) {
        Ok(connection) => {
            let arrival = witness.arrival_of(&connection, true, deadline);
            // With listeners of its own, whoever reset it is somebody else.
            if arrival.is_none() && witness.sidecar_listens && connection.is_reset() {
                return None;
            }
            Ok(arrival)
        }
        Err(DialError::User(why)) => return Some(Outcome::Unproven(why)),
        Err(DialError::Connect(error)) => Err(error),
    };
    Some(match case.expected {
        Expected::Redirected(direction) => {
            let port = port_of(direction);
            unheard(to, port, &arrival, witness).unwrap_or_else(|| redirected(to, port, arrival))
        }
        Expected::NotRedirected => not_redirected(to, arrival),
        Expected::Direct => direct(to, arrival),
    })
}

/// What is refused because the sidecar does not listen, in a pod in use.
fn unheard(to: SocketAddr, port: u16, seen: &Seen, witness: &Witness) -> Option<Outcome> {
    let is_refused = matches!(seen, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
    (is_refused && witness.is_unheard(port)).then(|| {
        Outcome::Unheard(format!(
            "the sidecar does not listen on {port}: {to} is refused, and does not get around it"
        ))
    })
}

type Seen = io::Result<Option<Arrival>>;

fn redirected(to: SocketAddr, port: u16, seen: Seen) -> Outcome {
    match seen {
        Ok(Some(Arrival {
            port: at,
            original: None,
        })) if at == port => Outcome::Proven(format!(
            "{to} arrived at the sidecar's {port}, which listens already"
        )),
        Ok(Some(Arrival {
            port: at,
            original: Some(Ok(original)),
        })) if at == port && original == to => Outcome::Proven(format!(
            "{to} arrived at {port}, with that original destination"
        )),
        other => Outcome::Wrong(format!(
            "{to} should arrive at {port} with that original destination, but {}",
            in_words(other)
        )),
    }
}

fn not_redirected(to: SocketAddr, seen: Seen) -> Outcome {
    match seen {
        Ok(Some(_)) => Outcome::Wrong(format!(
            "{to} should not be redirected, but {}",
            in_words(seen)
        )),
        Ok(None) => Outcome::Proven(format!("{to} was answered by somebody else")),
        Err(_) => Outcome::Proven(format!("{to} did not arrive at the sidecar's ports")),
    }
}

fn direct(to: SocketAddr, seen: Seen) -> Outcome {
    match seen {
        Ok(Some(arrival)) if arrival.port == to.port() => {
            Outcome::Proven(format!("{to} arrived there"))
        }
        other => Outcome::Wrong(format!("{to} should arrive there, but {}", in_words(other))),
    }
}

fn in_words(seen: Seen) -> String {
    match seen {
        Ok(Some(Arrival { port, original })) => match original {
            None => format!("it arrived at {port}"),
            Some(Ok(original)) => {
                format!("it arrived at {port} with the original destination {original}")
            }
            Some(Err(error)) => {
                format!("it arrived at {port} without an original destination ({error})")
            }
        },
        Ok(None) => "somebody else answered".into(),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => "nobody answered".into(),
        Err(error) => format!("it failed: {error}"),
    }
}
