//! The text of `/proc/PID/cgroup`, of which a container may have made up what is below its pod.

use osm_agent::{daemon::locate, fuzzed};

/// Reads it: whoever is in a pod's directory is of that pod.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    // What a process makes below its pod's directory does not change whose it is.
    let below: String = text
        .lines()
        .map(|line| match locate::uid_of_process(line) {
            Some(_) => format!("{line}/x/pod{}\n", "0".repeat(32)),
            None => format!("{line}\n"),
        })
        .collect();
    assert_eq!(
        locate::uid_of_process(&text),
        locate::uid_of_process(&below)
    );
    if let Some(pod) = fuzzed::pod_of_cgroups(&text) {
        assert!(!pod.as_os_str().is_empty(), "{text:?}");
    }
    if let Some(uid) = locate::uid_of_process(&text) {
        let is_plain = |c: char| c.is_ascii_hexdigit() || c == '-';
        assert!((32..=36).contains(&uid.len()) && uid.chars().all(is_plain));
    }
}
