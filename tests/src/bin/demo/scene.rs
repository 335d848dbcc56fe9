//! The scene: a pod with an application and a sidecar, servers and a client outside.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use osm_tests::{Actor, Agent, Client, Dial, Event, Outcome, World, missing};

use crate::expectation::{Expected, Kept, Observed};
use crate::mode::{Lists, Mode};
use crate::sidecar::{Kind, Sidecar};
use crate::traces::{Before, Left, Traces};

/// Where the servers are, and the address of the client outside.
pub const WEB: &str = "198.51.100.10:80";
pub const MAIL: &str = "198.51.100.11:25";
pub const DB: &str = "203.0.113.7:5432";
pub const CLIENT: &str = "192.0.2.20";

/// The application's own servers: on every address of the pod.
pub const APP: &str = "10.77.1.2:8080";
pub const METRICS: &str = "10.77.1.2:9090";

/// How long each step of a connection may take.
const STEP: Duration = Duration::from_secs(2);

/// Who dials.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Who {
    /// The application in the pod, UID 1000.
    App,
    /// The same, from an IPv6 socket: to the v4-mapped address.
    AppV6,
    /// A process of the sidecar's user, 1500, in the pod.
    SidecarUser,
    /// The client outside.
    Outside,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// Who dials.
    pub who: Who,
    /// What is dialled.
    pub to: &'static str,
    /// What should come of it.
    pub expected: Expected,
}

/// Everything that runs. Fields go in this order: processes, pins, cgroups and namespaces.
#[derive(Debug)]
pub struct Scene {
    sidecar: Option<Sidecar>,
    app: Client,
    sidecar_user: Client,
    outside: Client,
    servers: [(&'static str, Actor); 4],
    agent: Agent,
    mode: Mode,
    before: Before,
    world: World,
}

impl Scene {
    /// Sets it up, with a sidecar that runs and without interception.
    ///
    /// # Errors
    /// Where something that it takes is missing.
    pub fn new(kind: &Kind, mode: Mode) -> Result<Self> {
        let needs = "the line above says what is missing";
        let world = World::new().context(needs)?;
        let agent = Agent::new().context(needs)?;
        ensure!(!missing(&mode.needs()), needs);
        let before = Before::new(mode, &world.pod.netns)?;
        let (pod, outside) = (&world.pod, &world.outside);
        Ok(Self {
            servers: [
                ("web", outside.server("web", &[WEB])),
                ("mail", outside.server("mail", &[MAIL])),
                ("db", outside.server("db", &[DB])),
                ("app", pod.server("app", &["0.0.0.0:8080", "0.0.0.0:9090"])),
            ],
            app: pod.app(),
            sidecar_user: pod.sidecar_client(),
            outside: outside.client(),
            sidecar: Some(kind.start(pod)?),
            agent,
            mode,
            before,
            world,
        })
    }

    /// Has the sidecar running again.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start_sidecar(&mut self, kind: &Kind) -> Result<()> {
        self.sidecar = Some(kind.start(&self.world.pod)?);
        Ok(())
    }

    /// Ends the sidecar; its listeners are closed when this returns.
    pub fn stop_sidecar(&mut self) {
        self.sidecar = None;
    }

    /// Has the agent intercept the pod with these lists; what it said.
    ///
    /// # Errors
    /// Where it fails.
    pub fn attach(&self, lists: &Lists) -> Result<String> {
        let outcome = self.mode.attach(&self.agent, &self.world.pod, lists);
        self.said(&outcome, "intercept the pod")
    }

    /// Has the agent let go of the pod; what it said.
    ///
    /// # Errors
    /// Where it fails.
    pub fn detach(&self) -> Result<String> {
        let outcome = self.mode.detach(&self.agent, &self.world.pod);
        self.said(&outcome, "let go of the pod")
    }

    /// What interception has in the kernel now.
    ///
    /// # Errors
    /// Where that can't be known.
    pub fn traces(&self) -> Result<Traces> {
        Traces::of(&self.before, &self.world.pod.netns, self.agent.state())
    }

    /// What is left of these traces.
    ///
    /// # Errors
    /// Where that can't be known.
    pub fn left(&self, traces: &Traces) -> Result<Left> {
        traces.left(&self.world.pod.netns, self.agent.state())
    }

    /// Makes a connection and asks everybody about it. It stays open.
    ///
    /// # Errors
    /// Where the sidecar can't be understood.
    pub fn dial(&mut self, scenario: &Scenario) -> Result<Observed> {
        let Scenario { name, who, to, .. } = *scenario;
        let unwanted = match scenario.expected {
            Expected::Refused(server) => Some(server),
            _ => None,
        };
        if let Some(server) = unwanted {
            self.accepted_by(server)?;
        }
        let payload = format!("hello from {name}");
        let dial = Dial::to(to).timeout(STEP).payload(&payload);
        let dial = match who {
            Who::AppV6 => dial.v6(),
            Who::Outside => dial.bind(&format!("{CLIENT}:0")),
            Who::App | Who::SidecarUser => dial,
        };
        let destination = dial.to;
        let connection = self.client(who).connect(dial);
        Ok(Observed {
            dialled: match (who, destination) {
                (Who::AppV6, SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
                _ => destination,
            },
            from: self.address(who, destination.ip())?,
            connection,
            payload,
            seen: self.seen(scenario.expected.seen())?,
            leaked: unwanted.map_or(Ok(0), |server| self.accepted_by(server))?,
        })
    }

    /// Uses an established connection again, and asks everybody about it once more.
    ///
    /// # Errors
    /// Where the sidecar can't be understood or saw a new connection, or something else became of
    /// this one.
    pub fn use_again(&mut self, who: Who, before: &Observed, expected: Kept) -> Result<()> {
        let id = before.connection.id;
        let echo = self.client(who).send(id, "still here");
        let outcome = match &echo.error {
            None => echo.text.as_str(),
            Some(error) => error.as_str(),
        };
        let expected_outcome = match expected {
            Kept::Intercepted | Kept::Alive => "still here",
            Kept::Reset => "ECONNRESET",
        };
        ensure!(
            outcome == expected_outcome,
            "using it: {outcome:?}, not {expected_outcome:?}"
        );
        let seen = self.seen(0)?;
        ensure!(seen.is_empty(), "the sidecar saw a new one: {}", seen[0]);
        match expected {
            Kept::Intercepted => self.same_names(who, before),
            // Once detached, nobody is there to answer for the kernel.
            Kept::Alive | Kept::Reset => Ok(()),
        }
    }

    /// Fails unless the application's socket reports what it reported before.
    fn same_names(&mut self, who: Who, before: &Observed) -> Result<()> {
        let now = self.client(who).names(before.connection.id);
        let (peer, local) = (before.connection.peer, before.connection.local);
        ensure!(
            (now.peer, now.local) == (peer, local),
            "the socket's names changed from {peer:?}, {local:?} to {:?}, {:?}",
            now.peer,
            now.local
        );
        Ok(())
    }

    /// Closes a connection.
    pub fn close(&mut self, who: Who, observed: &Observed) {
        // Where no socket could be made, there is none.
        if observed.connection.id != 0 {
            self.client(who).close(observed.connection.id);
        }
    }

    fn client(&mut self, who: Who) -> &mut Client {
        match who {
            Who::App | Who::AppV6 => &mut self.app,
            Who::SidecarUser => &mut self.sidecar_user,
            Who::Outside => &mut self.outside,
        }
    }

    /// The address of the one who dials.
    fn address(&self, who: Who, to: IpAddr) -> Result<IpAddr> {
        Ok(match who {
            Who::Outside => CLIENT.parse()?,
            _ if to.is_loopback() => to,
            _ => self.world.pod.ip4(),
        })
    }

    fn seen(&mut self, expected: usize) -> Result<Vec<crate::sidecar::Seen>> {
        match &mut self.sidecar {
            Some(sidecar) => sidecar.seen(expected),
            None => Ok(Vec::new()),
        }
    }

    /// How many connections a server has accepted since it was last asked.
    fn accepted_by(&mut self, name: &str) -> Result<usize> {
        let server = self.servers.iter_mut().find(|(its, _)| *its == name);
        let (_, server) = server.with_context(|| format!("there is no server {name}"))?;
        let is_accepted = |event: &Event| matches!(event, Event::Accepted(_));
        Ok(server.drain().iter().filter(|it| is_accepted(it)).count())
    }

    fn said(&self, outcome: &Outcome, task: &str) -> Result<String> {
        if !outcome.status.success() {
            let (status, stderr) = (outcome.status, outcome.stderr.trim());
            bail!("osm-agent did not {task} ({status}): {stderr}");
        }
        let said = outcome.stdout.trim();
        let about = self.mode.subject(&self.world.pod);
        let said = said.strip_prefix(&about).unwrap_or(said);
        Ok(said.trim_start_matches(": ").to_owned())
    }
}
