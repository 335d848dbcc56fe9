//! Which pods have series of their own, and what all others are together.

use std::collections::{BTreeMap, BTreeSet};

use osm_ebpf_common::reason::Reason;

use crate::ebpf::view::{Listeners, Tally};

/// How many pods have series of their own; the others are summed up as [`OTHER`]. More than a kubelet
/// runs on a node.
pub const MAX_PODS_SHOWN: usize = 512;
/// What the pods are called that have no series of their own.
pub const OTHER: &str = "_other";

/// Who has been shown so far. Counters that Prometheus reads must not fall but by a restart, so a pod that
/// has series keeps them for as long as it is there, and what the others have counted stays counted when
/// they go.
#[derive(Debug, Default)]
pub(super) struct Shown {
    own: BTreeSet<String>,
    /// The others, as they were seen last.
    others: BTreeMap<String, Counts>,
    /// What is no longer among the others.
    gone: Counts,
}

/// In the order of [`Reason::ALL`]; none where nothing was counted yet.
type Counts = Vec<u64>;

impl Shown {
    /// The pods that have series of their own by name, and then, if there are more, the sum of the others.
    pub(super) fn of(&mut self, tallies: Vec<Tally>) -> Vec<Tally> {
        let there: BTreeSet<_> = tallies.iter().map(|it| it.name.clone()).collect();
        self.own.retain(|name| there.contains(name));
        for name in there {
            if self.own.len() < MAX_PODS_SHOWN {
                self.own.insert(name);
            }
        }
        let is_own = |tally: &Tally| self.own.contains(&tally.name);
        let (mut shown, others): (Vec<_>, Vec<_>) = tallies.into_iter().partition(is_own);
        self.remember(&others);
        if !others.is_empty() || self.gone.iter().any(|count| *count > 0) {
            shown.push(self.sum(&others));
        }
        shown
    }

    fn remember(&mut self, others: &[Tally]) {
        let now: BTreeMap<_, _> = others
            .iter()
            .map(|tally| (tally.name.clone(), counts(tally)))
            .collect();
        for (name, last) in &self.others {
            let goes_on = now.get(name).is_some_and(|now| {
                let mut both = now.iter().zip(last);
                both.all(|(now, last)| now >= last)
            });
            if !goes_on {
                add(&mut self.gone, last);
            }
        }
        self.others = now;
    }

    fn sum(&self, others: &[Tally]) -> Tally {
        let mut sum = self.gone.clone();
        sum.resize(Reason::ALL.len(), 0);
        for counts in self.others.values() {
            add(&mut sum, counts);
        }
        // Whether one of them has none is what matters.
        let least = |of: fn(&Listeners) -> usize| {
            let counts = others.iter().map(|it| of(&it.listeners));
            counts.min().unwrap_or_default()
        };
        Tally {
            name: OTHER.into(),
            counters: Reason::ALL.iter().copied().zip(sum).collect(),
            listeners: Listeners {
                outbound: least(|it| it.outbound),
                inbound: least(|it| it.inbound),
            },
        }
    }
}

fn counts(tally: &Tally) -> Counts {
    tally.counters.iter().map(|(_, count)| *count).collect()
}

fn add(sum: &mut Counts, more: &Counts) {
    sum.resize(more.len(), 0);
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum += more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(number: usize, count: u64) -> Tally {
        Tally {
            name: format!("default/pod-{number:04}"),
            counters: Reason::ALL.iter().map(|reason| (*reason, count)).collect(),
            listeners: Listeners {
                outbound: number % 2,
                inbound: 1,
            },
        }
    }

    fn count(shown: &[Tally], name: &str) -> Option<u64> {
        let found = shown.iter().find(|tally| tally.name == name);
        found.map(|tally| tally.counters[0].1)
    }

    #[test]
    fn pods_beyond_the_bound_are_summed_up() {
        for (pods, others) in [(0, 0), (MAX_PODS_SHOWN, 0), (MAX_PODS_SHOWN + 3, 3)] {
            let tallies = (0..pods).map(|number| tally(number, 1)).collect();
            let shown = Shown::default().of(tallies);
            let total: u64 = shown.iter().map(|tally| tally.counters[0].1).sum();
            assert_eq!(total, pods as u64, "nothing is lost");
            assert_eq!(count(&shown, OTHER).unwrap_or(0), others);
            let listens = shown.last().filter(|_| others > 0).map(|it| it.listeners);
            let wanted = Listeners {
                outbound: 0,
                inbound: 1,
            };
            assert_eq!(listens, (others > 0).then_some(wanted), "one has none");
        }
    }

    #[test]
    fn sum_of_the_others_never_falls() {
        let mut shown = Shown::default();
        let full = || (1..=MAX_PODS_SHOWN).map(|number| tally(number, 1));
        shown.of(full().collect());
        // One that comes later has none, though its name comes first.
        let more = || full().chain([tally(0, 5), tally(9000, 7)]);
        assert_eq!(count(&shown.of(more().collect()), OTHER), Some(12));
        let restarted = full().chain([tally(0, 2), tally(9000, 8)]);
        assert_eq!(
            count(&shown.of(restarted.collect()), OTHER),
            Some(5 + 2 + 8)
        );
        // All are gone, and then others come.
        assert_eq!(count(&shown.of(full().collect()), OTHER), Some(15));
        assert_eq!(count(&shown.of(more().collect()), OTHER), Some(15 + 12));
    }

    #[test]
    fn pod_with_series_keeps_them_and_room_is_filled() {
        let mut shown = Shown::default();
        shown.of((1..=MAX_PODS_SHOWN)
            .map(|number| tally(number, 1))
            .collect());
        let later = (0..=MAX_PODS_SHOWN).map(|number| tally(number, 2));
        let now = shown.of(later.collect());
        assert_eq!(count(&now, "default/pod-0512"), Some(2));
        assert_eq!(count(&now, "default/pod-0000"), None);
        let without = (0..MAX_PODS_SHOWN).map(|number| tally(number, 3));
        let now = shown.of(without.collect());
        assert_eq!(count(&now, "default/pod-0000"), Some(3));
        assert_eq!(count(&now, OTHER), Some(2), "what it had among the others");
    }
}
