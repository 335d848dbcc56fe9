//! What becomes of connections, as it happens.
//!
//! [`filter`] says which of them are shown, and [`show`] how.

pub mod filter;
mod names;
pub mod show;

use std::{
    io::{self, BufWriter, Write},
    os::fd::AsFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use osm_ebpf_common::maps::Event;

use crate::{
    cli::out::warn,
    ebpf::events::{Events, Missed},
    error::{Error, Result, Tried as _},
};
use filter::Filter;
use names::Names;
use show::{Format, Show};

/// How often is looked for versions that have come, and said that somebody listens.
const ROUND: Duration = Duration::from_millis(250);

/// What to show, and for how long.
#[derive(Debug)]
pub struct Options {
    /// Where the pins are.
    pub state_dir: PathBuf,
    /// Which events are shown.
    pub filter: Filter,
    /// How they look.
    pub format: Format,
    /// How many, at most.
    pub count: Option<u64>,
    /// For how long, at most.
    pub duration: Option<Duration>,
}

/// Shows what becomes of connections until it is told to end, has shown enough, or nobody reads it any more.
///
/// # Errors
/// Where no pod is intercepted, somebody else listens already, or the programs can't be listened to.
pub fn run(options: &Options) -> Result<()> {
    let signals = signals()?;
    let names = Names::read(&options.state_dir)?;
    check(options, &names)?;
    let events = Events::listen(&options.state_dir)?;
    greet(&names);
    let mut monitor = Monitor {
        events,
        show: Show::new(options.format, names),
        out: BufWriter::new(io::stdout()),
        left: options.count.unwrap_or(u64::MAX),
        lost: 0,
    };
    match monitor.until_the_end(options, &signals) {
        // Nobody reads it any more.
        Err(Ended::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(Ended::Output(error)) => Err(error).tried(|| "write to standard output"),
        Err(Ended::Events(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// One event as it is shown, where no pod's name is known.
pub(crate) fn shown(event: &Event, format: Format) -> String {
    let mut out = Vec::new();
    // Writing to a vector does not fail.
    let _ = Show::new(format, Names::none()).event(&mut out, event);
    String::from_utf8_lossy(&out).into_owned()
}

struct Monitor {
    events: Events,
    show: Show,
    out: BufWriter<io::Stdout>,
    left: u64,
    lost: u64,
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Output(#[from] io::Error),
    #[error(transparent)]
    Events(#[from] Error),
}

impl Monitor {
    fn until_the_end(&mut self, options: &Options, signals: &SignalFd) -> Result<(), Ended> {
        let end = options.duration.map(|duration| Instant::now() + duration);
        self.show.head(&mut self.out)?;
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if now >= next {
                let missed = self.events.renew()?;
                self.tell_missed(missed)?;
                self.show.names().expire();
                next = now + ROUND;
            }
            self.take(&options.filter)?;
            self.out.flush()?;
            if self.left == 0 || end.is_some_and(|end| now >= end) {
                break;
            }
            let limit = end.map_or(next, |end| end.min(next));
            if self.wait(signals, limit.saturating_duration_since(now))? {
                break;
            }
        }
        // What happened before it was told to end is shown.
        self.take(&options.filter)?;
        let missed = self.events.renew()?;
        self.tell_missed(missed)?;
        if self.lost > 0 {
            warn(format_args!("{} events were lost in all", self.lost));
        }
        Ok(self.out.flush()?)
    }

    /// Waits for events; says whether it is told to end.
    fn wait(&self, signals: &SignalFd, limit: Duration) -> Result<bool> {
        let mut waiting = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        for events in self.events.descriptors() {
            waiting.push(PollFd::new(events, PollFlags::POLLIN));
        }
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match poll(&mut waiting, limit) {
            Ok(_) => Ok(waiting[0].any().unwrap_or_default()),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(io::Error::from(error)).tried(|| "wait for events"),
        }
    }

    fn take(&mut self, filter: &Filter) -> io::Result<()> {
        let (show, out, left) = (&mut self.show, &mut self.out, &mut self.left);
        let mut written = Ok(());
        self.events.take(|event| {
            if *left > 0 && filter.lets_through(event, show.names()) {
                *left -= 1;
                written = show.event(out, event);
            }
            *left > 0 && written.is_ok()
        });
        written
    }

    fn tell_missed(&mut self, missed: Missed) -> io::Result<()> {
        self.lost += missed.lost;
        self.show.missed(&mut self.out, missed)
    }
}

/// Those that end it, to be read and no more.
fn signals() -> Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC))
        .map_err(io::Error::from)
        .tried(|| "block signals")
}

/// Refuses to wait for what does not come.
fn check(options: &Options, names: &Names) -> Result<()> {
    let pods = names.all();
    if pods.is_empty() {
        return Err(Error::State {
            path: options.state_dir.clone(),
            problem: "no pod is intercepted by eBPF".into(),
            advice: "attach one first, or say with --state-dir where its state is; connections of \
                     pods behind iptables can't be watched"
                .into(),
        });
    }
    match &options.filter.pod {
        Some(pod) if !pods.contains(pod.as_str()) => Err(Error::input(
            format!("--pod {pod}"),
            format!("no such pod is attached in {}", options.state_dir.display()),
            "check the name and --state-dir; `osm-agent monitor` without --pod shows all of them",
        )),
        _ => Ok(()),
    }
}

/// Says that it has begun, where people look.
fn greet(names: &Names) {
    let count = names.all().len();
    let pods = if count == 1 { "pod" } else { "pods" };
    let _ = writeln!(
        io::stderr(),
        "osm-agent: listening to {count} {pods}; Ctrl-C ends it"
    );
    for pod in names.unheard() {
        warn(format_args!(
            "{pod} runs the programs of another version of the agent, whose events this one does not \
             understand: attach it anew"
        ));
    }
}
