//! Many random connections at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Plan, Played, Route, Scene, play};

/// What is asked of a storm.
#[derive(Clone, Copy, Debug)]
pub struct Storm<'a> {
    /// Gives every connection its plan.
    pub seed: u64,
    /// How many are open at once.
    pub parallel: usize,
    /// How many there are in all, from number 0 on.
    pub connections: u64,
    /// No new one is opened after this time.
    pub time: Duration,
    /// Which ways they go, in turn.
    pub routes: &'a [Route],
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Summary {
    /// Connections that were played to their end.
    pub connections: u64,
    /// All of them together.
    pub played: Played,
    /// For each way: connections, and ends that took the shortcut.
    pub routes: BTreeMap<String, (u64, u64)>,
    /// The connection that took longest.
    pub slowest: (Duration, u64),
    /// What went wrong, as far as it was noted.
    pub faults: Vec<String>,
}

/// Between two disturbances.
const PAUSE: Duration = Duration::from_millis(100);

/// One fault is as good as many.
const ENOUGH: usize = 5;

impl Storm<'_> {
    /// Plays them all. Ends early at the fifth fault.
    #[must_use]
    pub fn run(&self, scene: &Scene) -> Summary {
        self.run_disturbed(scene, |_| thread::sleep(PAUSE))
    }

    /// Plays them all, while something is done over and over.
    pub fn run_disturbed(&self, scene: &Scene, disturb: impl Fn(u64) + Sync) -> Summary {
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let summary = Mutex::new(Summary::default());
        let end = Instant::now() + self.time;
        let players = AtomicUsize::new(self.parallel);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut turn = 0;
                while players.load(Ordering::Relaxed) > 0 {
                    disturb(turn);
                    turn += 1;
                    thread::sleep(PAUSE);
                }
            });
            for _ in 0..self.parallel {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.connections {
                            break;
                        }
                        let route = self.route(number);
                        let start = Instant::now();
                        let result = self.one(scene, number);
                        let mut summary = summary.lock().expect("nobody panics here");
                        summary.slowest = summary.slowest.max((start.elapsed(), number));
                        summary.add(route, result);
                        stop.store(summary.faults.len() >= ENOUGH, Ordering::Relaxed);
                    }
                    players.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        summary.into_inner().expect("nobody panics here")
    }

    /// Plays the one with this number.
    ///
    /// # Errors
    /// See [`play`].
    pub fn one(&self, scene: &Scene, number: u64) -> Result<Played, String> {
        let route = self.route(number);
        let plan = Plan::new(self.seed, number);
        let pair = scene
            .connect(route, plan.kind)
            .map_err(|error| format!("connection {number}, {route:?}: {error}"))?;
        play(&plan, route, pair)
    }

    fn route(&self, number: u64) -> Route {
        let count = self.routes.len() as u64;
        let at = usize::try_from(number % count).unwrap_or(0);
        self.routes[at]
    }
}

impl Summary {
    fn add(&mut self, route: Route, result: Result<Played, String>) {
        let played = match result {
            Ok(played) => played,
            Err(fault) => return self.faults.push(fault),
        };
        self.connections += 1;
        let all = &mut self.played;
        all.bytes += played.bytes;
        all.taken += played.taken;
        all.by_tcp += played.by_tcp;
        all.shortcuts += played.shortcuts;
        all.spurious += played.spurious;
        all.short += played.short;
        let (connections, shortcuts) = self.routes.entry(format!("{route:?}")).or_default();
        *connections += 1;
        *shortcuts += played.shortcuts;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Played {
            bytes,
            taken,
            by_tcp,
            spurious,
            short,
            ..
        } = self.played;
        writeln!(
            f,
            "{} connections, {bytes} bytes read, each of them checked; {} faults",
            self.connections,
            self.faults.len()
        )?;
        writeln!(
            f,
            "{taken} bytes given to sockets, of which TCP got {by_tcp}"
        )?;
        for (route, (connections, shortcuts)) in &self.routes {
            writeln!(
                f,
                "{route}: {connections} connections, {shortcuts} ends that used the shortcut"
            )?;
        }
        write!(
            f,
            "{spurious} blocking calls said EAGAIN, {short} MSG_WAITALL came short"
        )?;
        let (time, number) = self.slowest;
        write!(f, "\nslowest: {number}, {:.1} s", time.as_secs_f64())?;
        for fault in &self.faults {
            write!(f, "\nFAULT: {fault}")?;
        }
        Ok(())
    }
}
