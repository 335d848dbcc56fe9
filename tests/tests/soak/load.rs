//! Connections of all kinds, each held against what is possible.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, Scope},
    time::Duration,
};

use fastrand::Rng;
use osm_tests::{Client, Connection, Dial, canonical};

use crate::{
    lists,
    pod::PodUnderLoad,
    possible::{Dialled, Landed},
};

/// More are of no use.
const VIOLATIONS_SHOWN: usize = 20;

/// Who connects, until the end.
#[derive(Default)]
pub struct Load {
    is_over: AtomicBool,
    summary: Mutex<Summary>,
}

/// What became of all connections.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// By who dialled and where it landed.
    counts: BTreeMap<(&'static str, &'static str), u64>,
    /// Those that failed, by the error.
    failed: BTreeMap<String, u64>,
    /// What the decision function does not allow.
    pub violations: Vec<String>,
}

/// A pod's clients.
struct Clients {
    app: Client,
    sidecar: Client,
    outside: Client,
    rng: Rng,
}

/// Ends the load when it goes.
pub struct Ending<'a>(&'a Load);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Relaxed);
    }
}

impl Load {
    /// Connects to and from a pod, one connection after the other, with a rest in between.
    pub fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        pod: &'scope PodUnderLoad,
        outside: Client,
        seed: u64,
        rest: Duration,
    ) {
        let mut clients = Clients {
            app: pod.pod.app(),
            sidecar: pod.pod.sidecar_client(),
            outside,
            rng: Rng::with_seed(seed),
        };
        scope.spawn(move || {
            while !self.is_over.load(Relaxed) {
                self.one(pod, &mut clients);
                thread::sleep(rest);
            }
        });
    }

    /// No more connections once this is dropped, by a panic too.
    pub const fn ending(&self) -> Ending<'_> {
        Ending(self)
    }

    /// Whether nothing happened yet that is not allowed.
    pub fn is_sound(&self) -> bool {
        self.locked().violations.is_empty()
    }

    /// What became of all connections until now.
    pub fn summary(&self) -> Summary {
        self.locked().clone()
    }

    fn one(&self, pod: &PodUnderLoad, clients: &mut Clients) {
        let rng = &mut clients.rng;
        let to = lists::remote(rng);
        let (client, dialled) = match rng.u8(0..10) {
            0 => (&mut clients.sidecar, Dialled::BySidecar(to)),
            1..4 => {
                let is_v6 = rng.bool();
                let own = [pod.pod.ip4(), pod.pod.ip6()][usize::from(is_v6)];
                let from = neighbour(own);
                let to = SocketAddr::new(own, lists::port(rng));
                (&mut clients.outside, Dialled::FromOutside(from, to))
            }
            _ => (&mut clients.app, Dialled::ByApp(to)),
        };
        let dial = Dial::from(dialled.to());
        let dial = if rng.bool() { dial.v6() } else { dial };
        let dial = if rng.bool() { dial.nonblocking() } else { dial };
        let begun = pod.possible.moment();
        let connection = client.connect(dial);
        client.reset(connection.id);
        let landed = landed(dialled.to(), &connection);
        let judged = pod.possible.judge(begun, dialled, &landed);
        self.locked().note(dialled, &landed);
        if let Err(states) = judged {
            let name = pod.pod.name();
            let what =
                format!("{name}: {dialled:?} landed {landed:?}, of {states:#?}\n{connection:?}");
            let mut summary = self.locked();
            if summary.violations.len() < VIOLATIONS_SHOWN {
                summary.violations.push(what);
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, Summary> {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Summary {
    /// How many connections landed where.
    pub fn landings(&self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        for (dialled, landed) in [
            ("by the app", "at the sidecar"),
            ("by the app", "directly"),
            ("by the sidecar", "directly"),
            ("from outside", "at the sidecar"),
            ("from outside", "directly"),
        ] {
            let count = self.counts.get(&(dialled, landed)).copied();
            all.push((format!("{dialled} landed {landed}"), count.unwrap_or(0)));
        }
        all
    }

    fn note(&mut self, dialled: Dialled, landed: &Landed) {
        let dialled = match dialled {
            Dialled::ByApp(_) => "by the app",
            Dialled::BySidecar(_) => "by the sidecar",
            Dialled::FromOutside(..) => "from outside",
        };
        let landed = match landed {
            Landed::AtSidecar(_) => "at the sidecar",
            Landed::Directly => "directly",
            Landed::Nowhere(error) => {
                *self.failed.entry(error.clone()).or_default() += 1;
                "nowhere"
            }
        };
        *self.counts.entry((dialled, landed)).or_default() += 1;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.counts.values().sum();
        let violations = self.violations.len();
        writeln!(f, "{total} connections, {violations} violations")?;
        for ((dialled, landed), count) in &self.counts {
            writeln!(f, "{count:>10} {dialled} landed {landed}")?;
        }
        for (error, count) in &self.failed {
            writeln!(f, "{count:>10} {error}")?;
        }
        for violation in &self.violations {
            writeln!(f, "{violation}")?;
        }
        Ok(())
    }
}

fn landed(dialled: SocketAddr, connection: &Connection) -> Landed {
    let Some(greeting) = &connection.greeting else {
        let error = connection.error.as_ref();
        let error = error.or(connection.greeting_error.as_ref());
        return Landed::Nowhere(error.cloned().unwrap_or_default());
    };
    let peer = connection.peer.map(canonical);
    if peer != Some(dialled) {
        return Landed::Nowhere(format!("getpeername says {peer:?}"));
    }
    if greeting.role == "sidecar" {
        Landed::AtSidecar(greeting.original.map(canonical))
    } else {
        Landed::Directly
    }
}

/// The outside's address in a pod's network.
fn neighbour(own: IpAddr) -> IpAddr {
    match own {
        IpAddr::V4(v4) => (u32::from(v4) - 1).to_be_bytes().into(),
        IpAddr::V6(v6) => (u128::from(v6) - 1).to_be_bytes().into(),
    }
}
