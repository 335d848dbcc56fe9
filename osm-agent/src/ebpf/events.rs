//! What becomes of connections, as the programs tell it: to one listener at a time, beside whoever holds the
//! lock of the state directory. Nothing of that is written but until when somebody listens.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use aya::maps::{Array, MapData, MapError, RingBuf};
use nix::time::{ClockId, clock_gettime};
use osm_ebpf_common::maps::{Event, MonitorWord};

use super::{layout::Layout, maps::Maps, view::View};
use crate::error::{Error, Result, Tried as _};

/// How long the programs go on telling when nobody says any more that he listens.
const LEASE: Duration = Duration::from_secs(3);
/// How many events of one version are taken at once, so that the others get their turn.
const TURN: usize = 1024;

/// Who listens to the programs of all versions in a state directory.
pub struct Events {
    state_dir: PathBuf,
    /// The directory of the versions as it was locked, and its inode: it goes with the last pod.
    lock: Option<(u64, File)>,
    sources: Vec<Source>,
    until: Duration,
}

/// The maps of one layout.
struct Source {
    id: u32,
    events: RingBuf<MapData>,
    monitor: Array<MapData, u64>,
    since: Duration,
    lost: u64,
}

/// What there is to say beside the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// How many events found no room.
    pub lost: u64,
    /// For how long the programs took it that nobody listens.
    pub unheard: Duration,
}

impl Events {
    /// Listens from now on, to what is there and to what comes.
    ///
    /// # Errors
    /// Where somebody listens already, or the maps can't be opened.
    pub fn listen(state_dir: &Path) -> Result<Self> {
        let mut events = Self {
            state_dir: state_dir.into(),
            lock: None,
            sources: Vec::new(),
            until: Duration::ZERO,
        };
        events.renew()?;
        Ok(events)
    }

    /// Says that somebody still listens, also to versions that have come. To be called every second.
    ///
    /// # Errors
    /// As for [`Self::listen`].
    pub fn renew(&mut self) -> Result<Missed> {
        self.lock()?;
        match View::open(&self.state_dir) {
            Ok(view) => self.follow(view.as_ref())?,
            // It is just being removed, or made.
            Err(_) if !self.until.is_zero() => {}
            Err(error) => return Err(error),
        }
        self.missed()
    }

    /// Where there is something to be taken, once it is.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let sources = self.sources.iter();
        sources.map(|source| source.events.as_fd()).collect()
    }

    /// Takes what has been told, until `take` has enough.
    pub fn take(&mut self, mut take: impl FnMut(&Event) -> bool) {
        for source in &mut self.sources {
            for _ in 0..TURN {
                let Some(item) = source.events.next() else {
                    break;
                };
                // What nobody has taken of a listener that was killed is not for this one.
                if let Some(event) = Event::read(&item)
                    && Duration::from_nanos(event.time()) >= source.since
                    && !take(&event)
                {
                    return;
                }
            }
        }
    }

    /// Extends the time, and says what was missed.
    fn missed(&mut self) -> Result<Missed> {
        let now = since_boot()?;
        let unheard = match self.until {
            Duration::ZERO => Duration::ZERO,
            until => now.saturating_sub(until),
        };
        self.until = now + LEASE;
        let mut lost = 0;
        for source in &mut self.sources {
            let told = source.say(self.until).and_then(|()| source.lost());
            lost += told.tried(|| "write the map MONITOR")?;
        }
        Ok(Missed { lost, unheard })
    }

    /// Locks the directory of the versions, where it is not the one that is locked.
    fn lock(&mut self) -> Result<()> {
        let path = &Layout::new(&self.state_dir).versions();
        let tried = || format!("lock {}", path.display());
        let inode = match fs::metadata(path) {
            Ok(metadata) => metadata.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).tried(tried),
        };
        if self
            .lock
            .as_ref()
            .is_some_and(|(locked, _)| *locked == inode)
        {
            return Ok(());
        }
        let file = File::open(path).tried(tried)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(path)),
            Err(TryLockError::Error(error)) => return Err(error).tried(tried),
        }
        let inode = file.metadata().tried(tried)?.ino();
        self.lock = Some((inode, file));
        Ok(())
    }

    /// Listens to the versions that run for a pod now, each map once.
    fn follow(&mut self, view: Option<&View>) -> Result<()> {
        let mut found = Vec::new();
        for maps in view.into_iter().flat_map(View::maps) {
            let id = maps.events_id();
            if self.sources.iter().all(|source| source.id != id) {
                self.sources.push(Source::new(maps)?);
            }
            found.push(id);
        }
        // Of one whose programs are gone, what is left has been taken by now.
        self.sources.retain(|source| found.contains(&source.id));
        Ok(())
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for source in &mut self.sources {
            // Where it fails, the time runs out.
            let _ = source.say(Duration::ZERO);
        }
    }
}

impl Source {
    fn new(maps: &Maps) -> Result<Self> {
        let (events, monitor) = maps.events()?;
        let mut source = Self {
            id: maps.events_id(),
            events,
            monitor,
            since: since_boot()?,
            lost: 0,
        };
        // What others lost is not of interest.
        source.lost().tried(|| "read the map MONITOR")?;
        Ok(source)
    }

    fn say(&mut self, until: Duration) -> Result<(), MapError> {
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.monitor.set(MonitorWord::Until.index(), until, 0)
    }

    /// How many were lost since the last time.
    fn lost(&mut self) -> Result<u64, MapError> {
        let lost = self.monitor.get(&MonitorWord::Lost.index(), 0)?;
        let before = std::mem::replace(&mut self.lost, lost);
        Ok(lost.wrapping_sub(before))
    }
}

/// What the time of events is counted in: programs know of no time namespace.
///
/// # Errors
/// Where the kernel has no such clock.
pub fn since_boot() -> Result<Duration> {
    static AHEAD: LazyLock<i128> = LazyLock::new(boot_time_ahead);
    let here = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .map_err(io::Error::from)
        .tried(|| "read the time since the machine booted")?;
    let nanos = i128::try_from(here.as_nanos()).unwrap_or(i128::MAX) - *AHEAD;
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

/// By how many nanoseconds `CLOCK_BOOTTIME` is ahead of the machine's in the time namespace of this process
/// (`time_namespaces(7)`).
fn boot_time_ahead() -> i128 {
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    let of_boot = offsets
        .lines()
        .find_map(|line| line.strip_prefix("boottime"));
    let mut numbers = of_boot
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map_while(|number| number.parse::<i128>().ok());
    let (seconds, nanos) = (numbers.next(), numbers.next());
    seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0)
}

fn busy(path: &Path) -> Error {
    Error::State {
        path: path.into(),
        problem: "somebody else listens already, and an event goes to one only".into(),
        advice: "end the other `osm-agent monitor` first".into(),
    }
}
