//! Doors for the fuzz targets (`fuzz/`) to what reads texts and bytes of others and is called by
//! nobody else outside. Not part of what this library offers.

use std::path::{Path, PathBuf};

use osm_ebpf_common::maps::Event;

use crate::{
    config,
    daemon::{
        request,
        source::{PodSpec, files},
    },
    ebpf::{self, Layout},
    error::Result,
    monitor::{self, show::Format},
};

/// What a pod file says, and what of it may be meant otherwise.
///
/// # Errors
/// The first thing that is wrong.
pub fn pod_file(text: &str, origin: &str) -> Result<(PodSpec, Vec<String>), config::Error> {
    let files::PodFile { spec, doubts } = files::parse_pod_file(text, origin)?;
    Ok((spec, doubts))
}

/// What the agent's two sockets answer to a line that is no request: that for init containers,
/// then the CNI plugin's. None where it is one.
#[must_use]
pub fn refusals(line: &[u8]) -> [Option<Vec<u8>>; 2] {
    request::refusals(line)
}

/// The pod that the text of a process's `/proc/PID/cgroup` is taken to be of.
#[must_use]
pub fn pod_of_cgroups(text: &str) -> Option<PathBuf> {
    request::pod_s(text)
}

/// The number that a directory in a state directory is called by.
#[must_use]
pub fn number_of(name: &str) -> Option<u64> {
    ebpf::number_of(name)
}

/// What a number's directory is called.
#[must_use]
pub fn file_name(number: u64) -> String {
    ebpf::file_name(number)
}

/// When the link of that name is detached: lower ranks first.
#[must_use]
pub fn detach_rank(name: &str) -> usize {
    ebpf::detach_rank(name)
}

/// The pods that have links in a state directory.
///
/// # Errors
/// Where it can't be read.
pub fn linked_pods(state_dir: &Path) -> Result<Vec<u64>> {
    Layout::new(state_dir).linked_pods()
}

/// What would be left of a directory after a cleanup.
///
/// # Errors
/// Where it can't be read.
pub fn foreign_in(directory: &Path) -> Result<Vec<PathBuf>> {
    ebpf::foreign_in(directory)
}

/// An event as the monitor shows it where there is no terminal, its line feed included.
#[must_use]
pub fn shown(event: &Event, format: Format) -> String {
    // Whoever watches the test.
    console::set_colors_enabled(false);
    monitor::shown(event, format)
}
