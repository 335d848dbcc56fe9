//! The compiled BPF programs, inside this binary, and from which level on they log.

use std::{
    io,
    sync::{LazyLock, OnceLock},
};

use aya::{EbpfLoader, include_bytes_aligned};
use clap::ValueEnum;
use object::{Object as _, ObjectSection as _, SectionKind};
use sha2::{Digest as _, Sha256};

use super::types::{self, CallerLayout, NamespaceLayout};
use crate::sys::program;

/// The programs for a pod's cgroup, loaded once.
pub static CGROUP: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/osm-cgroup"));
/// The program for a pod's network namespace, loaded once per pod.
pub static NETNS: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/osm-netns"));

/// The constant of [`NETNS`] that says whether the kernel tells interfaces.
pub const TELLS_INTERFACES: &str = "TELLS_INTERFACES";

/// From which level on the programs log. The one that decides on inbound connections does not log at all:
/// it would in the loop over listeners, of which the verifier walks every round, or say no more than an event
/// of it does. What is logged of names and options would be said for every call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[repr(u8)]
pub enum LogLevel {
    /// Nothing
    #[default]
    Off = 0,
    /// Nothing yet
    Error = 1,
    /// Refusals of connect(), and destinations that are lost
    Warn = 2,
    /// Also listeners of the sidecar that are kept
    Info = 3,
    /// Also every destination that is handed over
    Debug = 4,
    /// All there is
    Trace = 5,
}

static LOG_LEVEL: OnceLock<LogLevel> = OnceLock::new();

/// Has the programs of this process log from a level on. It is a constant to them: the verifier
/// removes what is below it, so that nothing of it is left in programs that do not log: `connect4` is
/// 1882 instructions then and 2336 with warnings, `socket_events` 1660 and 2388 (Linux 6.18). Programs
/// that are loaded already can't be told; therefore the level is part of what names a version, and
/// another level is another version, to which pods go over as they do to any other one.
///
/// Called once, and before anything is opened; what comes later is of no effect.
pub fn set_log_level(level: LogLevel) {
    let _ = LOG_LEVEL.set(level);
}

/// From which level on the programs of this process log.
pub fn log_level() -> LogLevel {
    LOG_LEVEL.get().copied().unwrap_or_default()
}

/// [`CGROUP`] as this kernel takes it. Before Linux 5.12 it refuses a program for an instruction that it does
/// not know, wherever it stands: only the shortcut exchanges, which no such kernel offers, and finds zero.
pub fn cgroup() -> &'static [u8] {
    static FITTED: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| match program::try_exchange() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => without_exchange(CGROUP),
        _ => None,
    });
    FITTED.as_deref().unwrap_or(CGROUP)
}

/// With `number = 0` in place of every atomic exchange; none where it is no object.
fn without_exchange(object: &[u8]) -> Option<Vec<u8>> {
    /// `BPF_STX | BPF_ATOMIC | BPF_DW`, with `BPF_XCHG` in its last four bytes.
    const EXCHANGE: (u8, [u8; 4]) = (0xdb, [0xe1, 0, 0, 0]);
    /// `BPF_ALU64 | BPF_MOV | BPF_K`.
    const SET: u8 = 0xb7;
    let file = object::File::parse(object).ok()?;
    let code = file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text);
    let mut fitted = object.to_vec();
    for (start, length) in code.filter_map(|section| section.file_range()) {
        let start = usize::try_from(start).ok()?;
        let length = usize::try_from(length).ok()?;
        for instruction in fitted[start..][..length].as_chunks_mut::<8>().0 {
            let [code, registers, _, _, operation @ ..] = *instruction;
            if (code, operation) == EXCHANGE {
                *instruction = [SET, registers >> 4, 0, 0, 0, 0, 0, 0];
            }
        }
    }
    Some(fitted)
}

/// The loader of [`CGROUP`], without maps of anybody's yet.
pub fn loader<'a>() -> EbpfLoader<'a> {
    static LEVELS: [u8; 6] = [0, 1, 2, 3, 4, 5];
    static CALLER: LazyLock<CallerLayout> = LazyLock::new(|| {
        types::caller().unwrap_or_else(|why| {
            tracing::debug!("programs can't find who calls: {why}");
            CallerLayout::default()
        })
    });
    static NAMESPACE: LazyLock<NamespaceLayout> = LazyLock::new(|| {
        types::namespace().unwrap_or_else(|why| {
            tracing::debug!("programs can't find their namespace: {why}");
            NamespaceLayout::default()
        })
    });
    let mut loader = EbpfLoader::new();
    let level = &LEVELS[usize::from(log_level() as u8)];
    loader
        .btf(None)
        .override_global(aya_log::LEVEL, level, true)
        .override_global("CREDENTIALS_AT", &CALLER.credentials, true)
        .override_global("USER_AT", &CALLER.user, true)
        .override_global("NAMESPACE_AT", &NAMESPACE.namespace, true)
        .override_global("NAMESPACE_NUMBER_AT", &NAMESPACE.number, true);
    loader
}

/// Why the kernel takes no programs at all, where loading an object failed. By loading programs aya asks
/// what the kernel can do; one that takes none looks like one that knows no constants, and that is what
/// aya complains of.
pub fn refused() -> Option<io::Error> {
    program::try_smallest().err()
}

/// What tells these programs from those of another build, or of another level, and what a version
/// is called by: the first eight bytes of a digest of both objects and the level.
pub fn version() -> u64 {
    static VERSION: LazyLock<u64> = LazyLock::new(|| {
        let mut hash = Sha256::new();
        hash.update(CGROUP);
        hash.update(NETNS);
        hash.update([log_level() as u8]);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        u64::from_be_bytes(first)
    });
    *VERSION
}
