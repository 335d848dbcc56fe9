//! What is measured, how often and how long.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::cell::{Cell, Job};
use super::lists::Lists;
use super::stage::Cores;
use super::subject::Way;
use crate::peer::Sockets;
use crate::sample::Variant;

/// The measurements, by which `--only` chooses.
pub const MEASUREMENTS: [&str; 7] = [
    "connections-outbound",
    "connections-inbound",
    "connect-latency",
    "requests",
    "streams",
    "to-app",
    "lists",
];

/// How thorough a run is.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Only to see that it runs.
    pub is_quick: bool,
    /// How many rounds, where not as many as the measurement has by itself.
    pub rounds: Option<usize>,
}

/// Cells that are measured together, round by round.
#[derive(Clone, Debug)]
pub struct Block {
    /// The measurement.
    pub name: &'static str,
    /// How many rounds.
    pub rounds: usize,
    /// The cells of each setting, one for each variant.
    pub settings: Vec<Vec<Cell>>,
}

/// The cores that this process may use.
///
/// # Errors
/// Where the kernel does not say.
pub fn cores() -> nix::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count())
        .filter(|core| set.is_set(*core) == Ok(true))
        .collect())
}

/// What belongs to a measurement of [`MEASUREMENTS`].
#[must_use]
pub fn block(name: &'static str, effort: Effort, cores: &[usize]) -> Block {
    let planner = Planner { effort, cores };
    match name {
        "connections-outbound" => planner.connections(name, Way::Outbound),
        "connections-inbound" => planner.connections(name, Way::Inbound),
        "connect-latency" => planner.latency(name),
        "requests" => planner.requests(name),
        "streams" => planner.streams(name),
        "to-app" => planner.to_app(name),
        _ => planner.lists(name),
    }
}

struct Planner<'a> {
    effort: Effort,
    cores: &'a [usize],
}

/// The part of a cell that all variants share.
struct Shared {
    measurement: &'static str,
    setting: String,
    lists: Lists,
    way: Way,
    job: Job,
    cores: Cores,
    slice: Duration,
}

impl Planner<'_> {
    fn connections(&self, name: &'static str, way: Way) -> Block {
        let of = |sockets, setting: &str| {
            all(&Shared {
                setting: setting.to_owned(),
                way,
                ..self.plain(name, Job::Connections(sockets), self.slice(150, 400))
            })
        };
        let mut settings = vec![of(Sockets::Blocking, "blocking sockets")];
        // From outside, nothing takes the shortcut.
        if way == Way::Outbound {
            settings.push(of(Sockets::NonBlocking, "non-blocking sockets"));
        }
        self.block(name, self.rounds(4, 15), settings)
    }

    fn latency(&self, name: &'static str) -> Block {
        let shared = self.plain(name, Job::Latency, self.slice(200, 1000));
        self.block(name, self.rounds(2, 9), vec![all(&shared)])
    }

    fn requests(&self, name: &'static str) -> Block {
        let mut settings = Vec::new();
        for (placed, cores) in self.placements() {
            for connections in [1, 64] {
                for size in [64, 1 << 10, 16 << 10] {
                    let job = Job::Requests { connections, size };
                    let shared = Shared {
                        setting: format!("{connections} × {}, {placed}", bytes(size)),
                        cores,
                        ..self.plain(name, job, self.slice(60, 250))
                    };
                    settings.push(all(&shared));
                }
            }
        }
        self.block(name, self.rounds(2, 9), settings)
    }

    fn streams(&self, name: &'static str) -> Block {
        let mut settings = Vec::new();
        for (placed, cores) in self.placements() {
            for connections in [1, 8] {
                let shared = Shared {
                    setting: format!("{connections}, {placed}"),
                    cores,
                    ..self.plain(name, Job::Streams { connections }, self.slice(80, 400))
                };
                settings.push(all(&shared));
            }
        }
        self.block(name, self.rounds(2, 9), settings)
    }

    /// The sidecar's own connections to its application, which the shortcut concerns as well.
    fn to_app(&self, name: &'static str) -> Block {
        let requests = |connections, size| Job::Requests { connections, size };
        let jobs = [
            ("to-app-requests", "1 × 64 B", requests(1, 64)),
            ("to-app-requests", "64 × 1 KiB", requests(64, 1 << 10)),
            ("to-app-streams", "1", Job::Streams { connections: 1 }),
        ];
        let settings = jobs.map(|(measurement, setting, job)| {
            all(&Shared {
                setting: format!("{setting}, one core"),
                way: Way::ToApp,
                ..self.plain(measurement, job, self.slice(60, 300))
            })
        });
        self.block(name, self.rounds(2, 9), settings.into())
    }

    /// Every job with every length of lists. The shortcut looks nothing up, and is left out.
    fn lists(&self, name: &'static str) -> Block {
        let jobs = [
            (
                "lists-connections-outbound",
                Way::Outbound,
                Job::Connections(Sockets::Blocking),
            ),
            (
                "lists-connections-inbound",
                Way::Inbound,
                Job::Connections(Sockets::Blocking),
            ),
            (
                "lists-requests",
                Way::Outbound,
                Job::Requests {
                    connections: 1,
                    size: 64,
                },
            ),
            (
                "lists-streams",
                Way::Outbound,
                Job::Streams { connections: 1 },
            ),
        ];
        let jobs = if self.effort.is_quick {
            &jobs[..1]
        } else {
            &jobs[..]
        };
        let mut settings = Vec::new();
        for &(measurement, way, job) in jobs {
            for (lists, setting) in self.lengths() {
                let shared = Shared {
                    setting,
                    lists,
                    way,
                    ..self.plain(measurement, job, self.slice(80, 200))
                };
                settings.push(cells(
                    &shared,
                    &[
                        Variant::Direct,
                        Variant::Ebpf,
                        Variant::IptablesLegacy,
                        Variant::IptablesNft,
                    ],
                ));
            }
        }
        self.block(name, self.rounds(2, 7), settings)
    }

    fn lengths(&self) -> Vec<(Lists, String)> {
        let (ranges, ports): (&[usize], &[usize]) = if self.effort.is_quick {
            (&[0, 100, 10_000], &[0, 1_000])
        } else {
            (
                &[0, 10, 100, 1_000, 10_000, 100_000],
                &[0, 10, 100, 1_000, 10_000, 60_000],
            )
        };
        let ranges = ranges
            .iter()
            .map(|count| (Lists::Ranges(*count), format!("ranges={count}")));
        let ports = ports
            .iter()
            .map(|count| (Lists::Ports(*count), format!("ports={count}")));
        ranges
            .chain(ports)
            .map(|(lists, setting)| match lists {
                Lists::Ranges(0) | Lists::Ports(0) => (Lists::Empty, setting),
                _ => (lists, setting),
            })
            .collect()
    }

    /// A cell on one core, outbound, without lists.
    fn plain(&self, measurement: &'static str, job: Job, slice: Duration) -> Shared {
        let last = self.cores.last().copied().unwrap_or(0);
        Shared {
            measurement,
            setting: String::new(),
            lists: Lists::Empty,
            way: Way::Outbound,
            job,
            cores: Cores {
                client: last,
                sidecar: last,
            },
            slice,
        }
    }

    /// On which cores, and what that is called.
    fn placements(&self) -> Vec<(&'static str, Cores)> {
        let mut last = self.cores.iter().rev().copied();
        let sidecar = last.next().unwrap_or(0);
        let one = (
            "one core",
            Cores {
                client: sidecar,
                sidecar,
            },
        );
        let two = last
            .next()
            .map(|client| ("two cores", Cores { client, sidecar }));
        std::iter::once(one).chain(two).collect()
    }

    fn block(&self, name: &'static str, rounds: usize, settings: Vec<Vec<Cell>>) -> Block {
        Block {
            name,
            rounds: self.effort.rounds.unwrap_or(rounds),
            settings,
        }
    }

    fn rounds(&self, quick: usize, full: usize) -> usize {
        if self.effort.is_quick { quick } else { full }
    }

    fn slice(&self, quick: u64, full: u64) -> Duration {
        Duration::from_millis(if self.effort.is_quick { quick } else { full })
    }
}

fn all(shared: &Shared) -> Vec<Cell> {
    cells(shared, &Variant::ALL)
}

fn cells(shared: &Shared, variants: &[Variant]) -> Vec<Cell> {
    let cell = |variant: &Variant| Cell {
        measurement: shared.measurement,
        setting: shared.setting.clone(),
        variant: *variant,
        // Without interception there are none.
        lists: if *variant == Variant::Direct {
            Lists::Empty
        } else {
            shared.lists
        },
        way: shared.way,
        job: shared.job,
        cores: shared.cores,
        slice: shared.slice,
    };
    variants.iter().map(cell).collect()
}

fn bytes(size: usize) -> String {
    if size < 1 << 10 {
        format!("{size} B")
    } else {
        format!("{} KiB", size >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn cells_of_a_measurement_never_share_a_figure() {
        for is_quick in [true, false] {
            for name in MEASUREMENTS {
                let block = block(
                    name,
                    Effort {
                        is_quick,
                        rounds: None,
                    },
                    &[0, 1],
                );
                let mut seen = HashSet::new();
                for cell in block.settings.iter().flatten() {
                    let key = (cell.measurement, cell.setting.clone(), cell.variant);
                    assert!(cell.measurement.starts_with(name), "{key:?} in {name}");
                    assert!(seen.insert(key.clone()), "{key:?} is there twice");
                }
                assert!(!seen.is_empty(), "{name} has no cell");
            }
        }
    }

    #[test]
    fn two_cores_are_left_out_where_there_is_one() {
        let effort = Effort {
            is_quick: true,
            rounds: Some(1),
        };
        let placed = |cores: &[usize]| {
            let block = block("streams", effort, cores);
            let mut cells = block.settings.into_iter().flatten();
            cells.any(|cell| cell.cores.client != cell.cores.sidecar)
        };
        assert!(placed(&[0, 1]));
        assert!(!placed(&[3]));
    }
}
