//! The text of `/proc/PID/cgroup`, of which a container may have made up what is below its pod.

use osm_agent::{daemon::locate, fuzzed};

/// Reads it: whoever is in a pod's directory is of that pod.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(pod) = fuzzed::pod_of_cgroups(&text) {
        let pod = pod.to_string_lossy().into_owned();
        assert!(text.contains(&pod) || text.contains(':'), "{pod:?}");
        // What a process puts below the pod's directory does not change whose it is.
        let below: String = text
            .lines()
            .map(|line| format!("{line}/x/pod{}\n", "0".repeat(32)))
            .collect();
        if locate::uid_of_process(&text).is_some() {
            assert_eq!(
                locate::uid_of_process(&text),
                locate::uid_of_process(&below),
                "{text:?}"
            );
        }
    }
    if let Some(uid) = locate::uid_of_process(&text) {
        let is_plain = |c: char| c.is_ascii_hexdigit() || c == '-';
        assert!((32..=36).contains(&uid.len()) && uid.chars().all(is_plain));
    }
}
