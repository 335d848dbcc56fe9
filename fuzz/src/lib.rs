//! What is asked of the agent for every input, whoever makes it up. Each function takes the bytes
//! of one input, and panics where something does not hold.
//!
//! The fuzz targets call these under libFuzzer; `osm-agent/tests/fuzz` calls them for every file in
//! `seeds/`, with the pinned compiler.

pub mod annotations;
pub mod cgroup_text;
pub mod cni_input;
pub mod iptables_save;
pub mod map_values;
pub mod mesh_config;
pub mod pod_file;
pub mod socket_line;
pub mod state_names;
pub mod verdicts;

/// A target's name, as the directory of its seeds has it, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 9] = [
    ("annotations", annotations::run),
    ("cgroup_text", cgroup_text::run),
    ("cni_input", cni_input::run),
    ("iptables_save", iptables_save::run),
    ("map_values", map_values::run),
    ("mesh_config", mesh_config::run),
    ("pod_file", pod_file::run),
    ("socket_line", socket_line::run),
    ("state_names", state_names::run),
];

/// More than any message for people has, in bytes.
const LONGEST_MESSAGE: usize = 2048;

/// Whether a message fits a line of a log, and obeys nobody who wrote the input.
fn check_message(message: &str, begins: &str) {
    assert!(
        message.starts_with(begins),
        "it names no place: {message:?}"
    );
    assert!(
        message.len() <= LONGEST_MESSAGE,
        "{} bytes: {message:?}",
        message.len()
    );
    assert!(
        !message.contains(char::is_control),
        "it is more than a line: {message:?}"
    );
}
