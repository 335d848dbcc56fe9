//! The sidecar's user in the pod's user namespace.

use osm_ebpf_common::SIDECAR_UID;

/// Whom the sidecar's user is, by the text of `/proc/PID/uid_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sidecar {
    /// This one, as the initial user namespace numbers it.
    Is(u32),
    /// Nobody has set up the user namespace yet.
    NotYet,
    /// The pod does not have that user.
    Missing,
}

/// Finds UID 1500 among the ranges of a user namespace: each line has the first one inside, the
/// first one outside, and how many.
pub(super) fn sidecar(uid_map: &str) -> Sidecar {
    let ranges = uid_map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        Some((next()?, next()?, next()?))
    });
    let mut ranges = ranges.peekable();
    if ranges.peek().is_none() {
        return Sidecar::NotYet;
    }
    let wanted = u64::from(SIDECAR_UID);
    ranges
        .find(|(inside, _, count)| (*inside..inside.saturating_add(*count)).contains(&wanted))
        .and_then(|(inside, outside, _)| u32::try_from(outside + (wanted - inside)).ok())
        // The kernel's word for a user that has no number here.
        .filter(|uid| *uid != u32::MAX)
        .map_or(Sidecar::Missing, Sidecar::Is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecar_s_user_is_numbered_as_the_node_does() {
        for (map, sidecar_is) in [
            ("         0          0 4294967295\n", Sidecar::Is(1500)),
            ("0 1000000 65536\n", Sidecar::Is(1_001_500)),
            ("0 100000 1000\n1000 700000 501\n", Sidecar::Is(700_500)),
            ("0 100000 1000\n1000 700000 500\n", Sidecar::Missing),
            ("1501 100000 10\n", Sidecar::Missing),
            ("0 4294967295 65536\n", Sidecar::Missing),
            ("1500 4294967295 1\n", Sidecar::Missing),
            ("", Sidecar::NotYet),
        ] {
            assert_eq!(sidecar(map), sidecar_is, "{map:?}");
        }
    }
}
