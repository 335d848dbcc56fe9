//! The pods that are measured, made when they are first needed.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use osm_tests::{Agent, World};

use super::lists::Lists;
use super::peer::{Peer, Place};
use super::subject::{Subject, Way, listener};
use crate::peer::{Answer, Dial, Done, Expected, Load, Order, Serve, Served};
use crate::sample::Variant;

/// How much longer than its time a peer may take.
const GRACE: Duration = Duration::from_secs(20);

/// Fields go in this order: processes, pins, cgroups and namespaces.
#[derive(Debug)]
pub struct Stage {
    outside: Peer,
    subjects: HashMap<(Variant, Lists), Made>,
    agent: Agent,
    program: PathBuf,
    seed: u64,
    world: World,
}

/// A pod that was asked for.
#[derive(Debug)]
enum Made {
    Subject(Box<Subject>),
    /// Why it could not be made, where the run goes on without.
    LeftOut(String),
}

/// The cores that connections are measured on. Both ends are on one where these are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The client's.
    pub client: usize,
    /// The sidecar's.
    pub sidecar: usize,
}

/// What one pod has to do.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Which way its connections go.
    pub way: Way,
    /// What to do.
    pub load: Load,
    /// Where.
    pub cores: Cores,
    /// How long to do it unmeasured first.
    pub warm_up: Duration,
    /// How long to measure.
    pub slice: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the client says.
    pub client: Done,
    /// What the sidecar says.
    pub sidecar: Served,
    /// Bytes that went over the pod's loopback interface meanwhile.
    pub loopback_bytes: u64,
}

impl Stage {
    /// Makes what is common to all pods. `program` is the benchmark's own binary, as which peers run.
    ///
    /// # Errors
    /// Where something that it takes is missing.
    pub fn new(program: &Path, seed: u64) -> Result<Self> {
        let needs = "the line above says what is missing";
        let world = World::new().context(needs)?;
        let agent = Agent::new().context(needs)?;
        let place = Place {
            netns: &world.outside.netns,
            cgroup: None,
            uid: None,
            is_sidecar: false,
        };
        Ok(Self {
            outside: Peer::start("the client outside", program, place)?,
            subjects: HashMap::new(),
            agent,
            program: program.to_owned(),
            seed,
            world,
        })
    }

    /// Has the pod ready that is intercepted so; the reason where it has to be left out.
    ///
    /// # Errors
    /// Where it can't be made, and the run can't go on without: only iptables, with long lists, may fail.
    pub fn prepare(
        &mut self,
        variant: Variant,
        lists: Lists,
        cores: Cores,
    ) -> Result<Option<String>> {
        let key = (variant, lists);
        if !self.subjects.contains_key(&key) {
            let made = self.make(variant, lists)?;
            self.subjects.insert(key, made);
            if variant == Variant::EbpfShortcut && !self.takes_shortcut(lists, cores)? {
                let reason = "this agent has no shortcut".to_owned();
                self.subjects.insert(key, Made::LeftOut(reason));
            }
        }
        match &self.subjects[&key] {
            Made::Subject(_) => Ok(None),
            Made::LeftOut(reason) => Ok(Some(reason.clone())),
        }
    }

    /// Whether requests and responses go around the loopback interface.
    fn takes_shortcut(&mut self, lists: Lists, cores: Cores) -> Result<bool> {
        let run = Run {
            way: Way::Outbound,
            load: Load::Requests {
                connections: 1,
                size: 1024,
            },
            cores,
            warm_up: Duration::ZERO,
            slice: Duration::from_millis(50),
        };
        let outcome = self.measure(Variant::EbpfShortcut, lists, run)?;
        Ok(outcome.loopback_bytes < outcome.client.count * 2 * 1024 / 10)
    }

    fn make(&mut self, variant: Variant, lists: Lists) -> Result<Made> {
        let pod = self.world.add_pod();
        let how = (variant, lists, self.seed);
        match Subject::new(pod, &self.agent, &self.program, how) {
            Ok(subject) => Ok(Made::Subject(Box::new(subject))),
            Err(error) if variant.is_iptables() && lists != Lists::Empty => {
                Ok(Made::LeftOut(format!("{error:#}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Measures a pod that is ready.
    ///
    /// # Errors
    /// Where a connection fails, or was not intercepted as it should have been.
    pub fn measure(&mut self, variant: Variant, lists: Lists, run: Run) -> Result<Outcome> {
        let Some(Made::Subject(subject)) = self.subjects.get_mut(&(variant, lists)) else {
            bail!("there is no pod for {variant} with {lists}");
        };
        let (to, expect) = subject.route(run.way);
        let before = subject.loopback_bytes()?;
        let (client, acceptor) = match run.way {
            Way::Outbound => (&mut subject.client, &mut subject.sidecar),
            Way::Inbound => (&mut self.outside, &mut subject.sidecar),
            Way::ToApp => (&mut subject.sidecar, &mut subject.client),
        };
        acceptor.order(&Order::Serve(Serve {
            cpu: run.cores.sidecar,
            listener: listener(run.way),
            task: run.load.task(),
            expect,
        }))?;
        let limit = run.warm_up + run.slice + GRACE;
        client.order(&Order::Dial(dial(run, to)?))?;
        let done = match client.answer(limit)? {
            Answer::Done(done) => done,
            other => bail!("the client answers {other:?}"),
        };
        let served = match acceptor.answer(GRACE)? {
            Answer::Served(served) => served,
            other => bail!("who accepts answers {other:?}"),
        };
        assert_intercepted(&done, &served, expect)?;
        Ok(Outcome {
            client: done,
            sidecar: served,
            loopback_bytes: subject.loopback_bytes()? - before,
        })
    }
}

fn dial(run: Run, to: SocketAddrV4) -> Result<Dial> {
    Ok(Dial {
        cpu: run.cores.client,
        to,
        load: run.load,
        warm_up: run.warm_up.as_millis().try_into()?,
        millis: run.slice.as_millis().try_into()?,
    })
}

/// A figure counts only if every connection came to the sidecar, and the sidecar was told what had
/// been dialled; or, without interception, nothing.
fn assert_intercepted(done: &Done, served: &Served, expect: Expected) -> Result<()> {
    ensure!(
        done.connections == served.accepted && served.accepted > 0,
        "of {} connections, the sidecar accepted {}",
        done.connections,
        served.accepted
    );
    let expected = match expect {
        Expected::Destination(it) => it.to_string(),
        Expected::None | Expected::Anything => "none".to_owned(),
    };
    ensure!(
        served.unexpected == 0,
        "{} of {} connections did not report the original destination {expected}; the first said {}",
        served.unexpected,
        served.accepted,
        served.first_unexpected.as_deref().unwrap_or("nothing")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_counts_only_if_every_connection_was_intercepted() {
        let expect = Expected::Destination(SocketAddrV4::new([198, 51, 100, 10].into(), 80));
        // Made, accepted, not reporting the destination; whether that is right.
        let cases = [
            (10, 10, 0, true),
            (10, 9, 0, false),
            (10, 10, 1, false),
            (0, 0, 0, false),
        ];
        for (connections, accepted, unexpected, is_right) in cases {
            let done = Done {
                connections,
                ..Done::default()
            };
            let served = Served {
                accepted,
                unexpected,
                ..Served::default()
            };
            let outcome = assert_intercepted(&done, &served, expect);
            assert_eq!(
                outcome.is_ok(),
                is_right,
                "{done:?} {served:?}: {outcome:?}"
            );
        }
    }
}
