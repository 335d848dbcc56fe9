//! The loop: what is wanted and what is real come in, a pure function gives the actions, and
//! they are carried out. On every change, and from time to time.

mod datapath;
mod knowledge;
mod lists;
mod pass;
mod plan;
mod report;
mod requests;
mod sidecars;
mod survey;

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use crate::{
    daemon::{locate::Locator, source::Event},
    error::Result,
    iptables::Iptables,
};
use datapath::Datapath;
use knowledge::Knowledge;
use pass::Settled;
use requests::Requests;
use sidecars::Sidecars;

pub use plan::{Action, Cookie, Real, Step, plan};
pub use report::Outlets;

/// Many changes come at once, when a pod starts or a list is edited: they make one pass.
const SETTLE: Duration = Duration::from_millis(20);

/// How often pods are looked for that have not started, at first and after a while.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// How often the routes of pods with excluded interfaces are read.
const INTERFACES: Duration = Duration::from_secs(2);

/// What the loop works with.
#[derive(Debug)]
pub struct Options {
    /// Where the kernel state is.
    pub state_dir: PathBuf,
    /// How pods are found.
    pub locator: Locator,
    /// The fallback's tools.
    pub iptables: Iptables,
    /// Whether native IPv6 is intercepted as well.
    pub dual_stack: bool,
    /// How often everything is compared with the kernel, without any news.
    pub resync: Duration,
    /// Whether there is a source that says which pods there are. Without one, the pods are
    /// those that asked, and those that the kernel holds state of.
    pub has_source: bool,
}

/// The loop and what it knows.
pub struct Control {
    options: Options,
    datapath: Datapath,
    knowledge: Knowledge,
    settled: Settled,
    /// Why the last pass could not look at pods.
    survey_problem: Option<String>,
    requests: Requests,
    sidecars: Sidecars,
    outlets: Outlets,
    /// When everything was compared last.
    last_full: Option<Instant>,
    /// How long until pods that were not to be found, or failed, are tried again.
    look_again: Duration,
}

impl Control {
    /// Opens the state directory, and adopts what is in it. `tell` leads to the events of [`Self::run`].
    ///
    /// # Errors
    /// Where another agent has it, or it is none that this version understands.
    pub fn new(options: Options, outlets: Outlets, tell: Sender<Event>) -> Result<Self> {
        let datapath = Datapath::open(&options.state_dir, options.iptables.clone())?;
        match datapath.why_no_ebpf() {
            None => tracing::info!(state_dir = %options.state_dir.display(), "eBPF is at hand"),
            Some(why) => tracing::warn!("{why}; pods are intercepted by iptables, if at all"),
        }
        Ok(Self {
            knowledge: Knowledge::new(options.dual_stack, options.has_source),
            options,
            datapath,
            settled: Settled::default(),
            survey_problem: None,
            requests: Requests::default(),
            sidecars: Sidecars::new(tell),
            outlets,
            last_full: None,
            look_again: LOOK_AGAIN,
        })
    }

    /// Keeps the node's pods as they are wanted, until it is told to stop or whoever sends the
    /// events is gone. Interception stays in force then.
    pub fn run(mut self, events: &Receiver<Event>) {
        self.knowledge.touch_all();
        loop {
            let wait = self.until_next_pass();
            match events.recv_timeout(wait) {
                Ok(event) => {
                    self.look_again = LOOK_AGAIN;
                    let settled = Instant::now() + SETTLE;
                    if self.take(event) || self.take_more(events, settled) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.look_again = (self.look_again * 2).min(LOOK_AGAIN_AT_MOST);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.outlets.heartbeat.beat();
            self.pass();
        }
    }

    /// Takes in what arrives until a moment; says whether to stop.
    fn take_more(&mut self, events: &Receiver<Event>, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match events.recv_timeout(left) {
                Ok(event) => {
                    if self.take(event) {
                        return true;
                    }
                }
                Err(_) => return false,
            }
        }
    }

    /// Takes an event in; says whether to stop.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Pods(pods) => {
                self.knowledge.take_pods(pods);
                self.switch_lists();
            }
            Event::Mesh(mesh) => {
                self.knowledge.take_mesh(mesh);
                self.outlets.mesh(self.knowledge.mesh_problem());
                self.switch_lists();
            }
            Event::Cgroup(watched) => {
                if let Some(key) = self.sidecars.pod(&watched) {
                    self.knowledge.touch(key);
                }
            }
            Event::Request(request) => self.take_request(request),
            Event::Stop => return true,
        }
        false
    }

    fn until_next_pass(&self) -> Duration {
        let Some(last_full) = self.last_full else {
            return Duration::ZERO;
        };
        let resync = self.options.resync.saturating_sub(last_full.elapsed());
        let is_awaited = self.settled.is_incomplete()
            || self.survey_problem.is_some()
            || !self.requests.is_empty();
        let sooner = if is_awaited {
            self.look_again
        } else if self.settled.follows_interfaces() {
            INTERFACES
        } else {
            Duration::MAX
        };
        resync.min(sooner)
    }

    /// One pass over the pods that have to be looked at: all of them when it is time.
    fn pass(&mut self) {
        let begun = Instant::now();
        let is_due = self
            .last_full
            .is_none_or(|last| last.elapsed() >= self.options.resync);
        if is_due {
            self.knowledge.touch_all();
        }
        for key in self.settled.unsettled() {
            self.knowledge.touch(&key);
        }
        self.touch_awaited();
        let dirty = self.knowledge.take_dirty();
        if dirty.all {
            self.last_full = Some(begun);
        }
        self.carry_out(&dirty);
        self.answer_requests();
        self.forget_hints();
        self.outlets.passed(begun.elapsed());
    }
}
