//! How much every peer, and all of them, may ask of the agent.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    outcome::{Outcome, Refusal},
    who::Who,
};

/// How many pods are kept in mind at once. One that has not asked for a while is forgotten.
const POD_LIMIT: usize = 4096;

/// How much is taken. A pod is a network namespace, and the cgroup that the kubelet made for it
/// (else, the process's own): a process that makes namespaces of its own gains nothing.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for a request to arrive, however slowly.
    pub request: Duration,
    /// Time for the loop to answer.
    pub answer: Duration,
    /// Connections at once, requests that the loop still has to look at included.
    pub connections: usize,
    /// The same of one pod.
    pub connections_of_pod: usize,
    /// Requests of all pods.
    pub rate: Rate,
    /// Requests of one pod.
    pub rate_of_pod: Rate,
}

/// So many in a row, then so many a second.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// In a row.
    pub burst: u32,
    /// From then on.
    pub per_second: u32,
}

impl Limits {
    /// For init containers: 250 pods may start at once, each may try again a few times.
    pub const ENROL: Self = Self {
        request: Duration::from_secs(2),
        answer: Duration::from_secs(30),
        connections: 64,
        connections_of_pod: 4,
        rate: Rate {
            burst: 500,
            per_second: 100,
        },
        rate_of_pod: Rate {
            burst: 10,
            per_second: 1,
        },
    };

    /// For the CNI plugin, which speaks for all pods.
    pub const CNI: Self = Self {
        connections: 256,
        connections_of_pod: 256,
        rate: Rate {
            burst: 1000,
            per_second: 500,
        },
        rate_of_pod: Rate {
            burst: 1000,
            per_second: 500,
        },
        ..Self::ENROL
    };
}

/// Lets requests in.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Debug)]
struct State {
    open: usize,
    bucket: Bucket,
    pods: HashMap<Key, Usage>,
}

/// What a pod is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Netns(u64, u64),
    /// A hash, as paths are as long as a process likes.
    Cgroup(u64),
}

#[derive(Debug)]
struct Usage {
    open: usize,
    bucket: Bucket,
}

/// A request that was let in, until it is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    keys: Vec<Key>,
}

impl Gate {
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            state: Mutex::new(State {
                open: 0,
                bucket: Bucket::full(limits.rate, now),
                pods: HashMap::new(),
            }),
            hasher: RandomState::new(),
        }
    }

    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Lets a request in, or says why not. Nothing of the whole is spent on a pod that has
    /// spent its own.
    pub fn admit(self: &Arc<Self>, who: &Who, now: Instant) -> Result<Pass, Refusal> {
        let keys = self.keys(who);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &keys {
            state.check_pod(*key, &self.limits, now)?;
        }
        if state.open >= self.limits.connections {
            return Err(busy(Outcome::Full));
        }
        if !state.bucket.take(self.limits.rate, now) {
            return Err(busy(Outcome::Flood));
        }
        state.open += 1;
        for key in &keys {
            if let Some(usage) = state.pods.get_mut(key) {
                usage.open += 1;
            }
        }
        drop(state);
        Ok(Pass {
            gate: Arc::clone(self),
            keys,
        })
    }

    /// The cgroup first: what it refuses leaves no trace of the namespace.
    fn keys(&self, who: &Who) -> Vec<Key> {
        let cgroup = who.pod.as_ref();
        let cgroup = cgroup.map(|path| Key::Cgroup(self.hasher.hash_one(path)));
        let (device, inode) = who.netns;
        cgroup
            .into_iter()
            .chain([Key::Netns(device, inode)])
            .collect()
    }
}

impl State {
    fn check_pod(&mut self, key: Key, limits: &Limits, now: Instant) -> Result<(), Refusal> {
        if !self.pods.contains_key(&key) {
            self.make_room(limits.rate_of_pod, now)?;
        }
        let usage = self.pods.entry(key).or_insert_with(|| Usage {
            open: 0,
            bucket: Bucket::full(limits.rate_of_pod, now),
        });
        if usage.open >= limits.connections_of_pod {
            let text = "this pod has too many requests on their way; wait for their answers";
            return Err(Refusal::new(Outcome::PodFull, text));
        }
        if !usage.bucket.take(limits.rate_of_pod, now) {
            let text = "this pod asks too often; wait some seconds and try again";
            return Err(Refusal::new(Outcome::PodFlood, text));
        }
        Ok(())
    }

    fn make_room(&mut self, rate: Rate, now: Instant) -> Result<(), Refusal> {
        if self.pods.len() >= POD_LIMIT {
            self.pods
                .retain(|_, usage| usage.open > 0 || !usage.bucket.is_full(rate, now));
        }
        if self.pods.len() >= POD_LIMIT {
            return Err(busy(Outcome::Flood));
        }
        Ok(())
    }
}

fn busy(outcome: Outcome) -> Refusal {
    let text = "the agent has too many requests at once; wait some seconds and try again";
    Refusal::new(outcome, text)
}

impl Drop for Pass {
    fn drop(&mut self) {
        let state = self.gate.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.open -= 1;
        for key in &self.keys {
            if let Some(usage) = state.pods.get_mut(key) {
                usage.open -= 1;
            }
        }
    }
}

/// Fills by itself; a request takes one token.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self {
            tokens: f64::from(rate.burst),
            at: now,
        }
    }

    fn level(&self, rate: Rate, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + passed * f64::from(rate.per_second)).min(f64::from(rate.burst))
    }

    fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.level(rate, now) >= f64::from(rate.burst)
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let level = self.level(rate, now);
        let is_enough = level >= 1.0;
        self.tokens = if is_enough { level - 1.0 } else { level };
        self.at = now;
        is_enough
    }
}

#[cfg(test)]
mod tests;
