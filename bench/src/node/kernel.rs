//! What the kernel says of maps and programs, and of its memory.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{maps::MapInfo, programs::loaded_programs};
use osm_tests::{Netns, StateDir};

/// A program of ours.
#[derive(Clone, Debug)]
pub struct Program {
    /// The memory that it takes, in bytes.
    pub memory: u64,
    /// How often it ran while run statistics were on.
    pub runs: u64,
}

/// The loaded programs that use a map which is pinned in this state directory, and no others of
/// the machine.
pub fn programs(state: &StateDir) -> Result<Vec<Program>> {
    let mut ours = BTreeSet::new();
    for pin in map_pins(state) {
        ours.insert(MapInfo::from_pin(&pin)?.id());
    }
    let mut found = Vec::new();
    for program in loaded_programs() {
        // One that just goes is not ours.
        let Ok(program) = program else { continue };
        let maps = program.map_ids()?.unwrap_or_default();
        if !maps.iter().any(|map| ours.contains(map)) {
            continue;
        }
        let fd = program.fd()?;
        found.push(Program {
            memory: about(fd.as_fd(), "memlock")?,
            runs: about(fd.as_fd(), "run_cnt").unwrap_or_default(),
        });
    }
    Ok(found)
}

/// The memory that the maps take which are pinned in a state directory, in bytes.
pub fn map_memory(state: &StateDir) -> Result<u64> {
    let mut sum = 0;
    for pin in map_pins(state) {
        let map = MapInfo::from_pin(&pin)?.fd()?;
        sum += about(map.as_fd(), "memlock")?;
    }
    Ok(sum)
}

fn map_pins(state: &StateDir) -> impl Iterator<Item = std::path::PathBuf> {
    let is_map = |pin: &Path| {
        let name = pin.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let mut pins = state.pins();
    pins.retain(|pin| is_map(pin));
    let root = state.path().to_owned();
    pins.into_iter().map(move |pin| root.join(pin))
}

/// A line of `/proc/self/fdinfo`.
fn about(object: BorrowedFd<'_>, what: &str) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", object.as_raw_fd());
    number(&fs::read_to_string(&path)?, what).with_context(|| format!("no {what} in {path}"))
}

/// A line of `/proc/meminfo`, in bytes.
pub fn memory(what: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = number(&text, what).with_context(|| format!("no {what} in /proc/meminfo"))?;
    Ok(kib * 1024)
}

/// The memory that the tracked connections of a network namespace take, in bytes.
pub fn conntrack(netns: &Netns) -> Result<u64> {
    let count = netns.run(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"));
    // Without the file, there is no connection tracking.
    let count = count.map_or(Ok(0), |text| text.trim().parse::<u64>())?;
    Ok(count * object_size("nf_conntrack")?)
}

/// How large the objects of a slab are, in bytes; 0 where there is no such slab.
fn object_size(slab: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/slabinfo").context("reading /proc/slabinfo")?;
    let mut lines = text.lines().map(str::split_whitespace);
    let line = lines.find_map(|mut words| (words.next() == Some(slab)).then_some(words));
    // After the name: objects in use, objects, size.
    let size = line.and_then(|mut words| words.nth(2));
    Ok(size.map_or(Ok(0), str::parse)?)
}

fn number(text: &str, what: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}
