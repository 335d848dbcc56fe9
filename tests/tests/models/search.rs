//! Exhaustive search through the states of a model, breadth first: the shortest way to a fault is
//! the one that is shown.

use std::{collections::HashMap, fmt::Debug, hash::Hash};

/// Processes that take turns in every order there is. Each ends: no state comes twice on a way.
pub trait Model {
    /// Everything that a step depends on.
    type State: Clone + Debug + Eq + Hash;

    /// Where it begins.
    fn start(&self) -> Self::State;

    /// What can happen next, by name, and what is then. At the end, nothing.
    fn steps(&self, state: &Self::State) -> Vec<(String, Self::State)>;

    /// What must not be, at any time.
    fn fault(&self, state: &Self::State) -> Option<String>;

    /// What must not be when nothing can happen any more.
    fn fault_at_end(&self, state: &Self::State) -> Option<String>;
}

/// How much was searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Searched {
    /// Different states.
    pub states: usize,
    /// Steps from one to another.
    pub steps: usize,
    /// Different states in which nothing can happen any more.
    pub ends: usize,
    /// Different ways from the start to an end.
    pub interleavings: u128,
}

/// A way to what must not be.
#[derive(Clone, Debug)]
pub struct Fault {
    pub what: String,
    /// The steps that lead there.
    pub way: Vec<String>,
}

/// Searches everything.
///
/// # Errors
/// The fault that fewest steps lead to.
pub fn search<M: Model>(model: &M) -> Result<Searched, Fault> {
    let mut found = Found::new(model.start());
    let mut at = 0;
    while at < found.states.len() {
        let state = found.states[at].clone();
        let steps = model.steps(&state);
        let fault = model.fault(&state);
        let fault = fault.or_else(|| {
            let is_end = steps.is_empty();
            is_end.then(|| model.fault_at_end(&state)).flatten()
        });
        if let Some(what) = fault {
            let what = format!("{what}: {state:?}");
            let way = found.way(at);
            return Err(Fault { what, way });
        }
        let next = steps.into_iter().map(|step| found.note(at, step)).collect();
        found.next.push(next);
        at += 1;
    }
    Ok(found.count())
}

struct Found<S> {
    states: Vec<S>,
    numbers: HashMap<S, usize>,
    /// By which step, and from which state, each was found first.
    whence: Vec<Option<(usize, String)>>,
    next: Vec<Vec<usize>>,
}

impl<S: Clone + Eq + Hash> Found<S> {
    fn new(start: S) -> Self {
        Self {
            states: vec![start.clone()],
            numbers: HashMap::from([(start, 0)]),
            whence: vec![None],
            next: Vec::new(),
        }
    }

    fn note(&mut self, from: usize, (name, state): (String, S)) -> usize {
        if let Some(number) = self.numbers.get(&state) {
            return *number;
        }
        let number = self.states.len();
        self.states.push(state.clone());
        self.numbers.insert(state, number);
        self.whence.push(Some((from, name)));
        number
    }

    fn way(&self, mut at: usize) -> Vec<String> {
        let mut way = Vec::new();
        while let Some((from, name)) = &self.whence[at] {
            way.push(name.clone());
            at = *from;
        }
        way.reverse();
        way
    }

    fn count(&self) -> Searched {
        // States behind which everything is counted come first.
        let mut ways: Vec<u128> = vec![0; self.states.len()];
        for at in self.ends_first() {
            ways[at] = match self.next[at].as_slice() {
                [] => 1,
                next => next
                    .iter()
                    .fold(0, |sum: u128, next| sum.saturating_add(ways[*next])),
            };
        }
        Searched {
            states: self.states.len(),
            steps: self.next.iter().map(Vec::len).sum(),
            ends: self.next.iter().filter(|next| next.is_empty()).count(),
            interleavings: ways[0],
        }
    }

    /// Depth first; panics where a way comes back to a state of its own.
    fn ends_first(&self) -> Vec<usize> {
        let mut order = Vec::new();
        let (mut is_begun, mut is_done) = (
            vec![false; self.states.len()],
            vec![false; self.states.len()],
        );
        let mut stack = vec![(0, 0)];
        is_begun[0] = true;
        while let Some((at, child)) = stack.pop() {
            if let Some(next) = self.next[at].get(child) {
                stack.push((at, child + 1));
                if is_begun[*next] {
                    assert!(is_done[*next], "the model never ends");
                } else {
                    is_begun[*next] = true;
                    stack.push((*next, 0));
                }
            } else {
                is_done[at] = true;
                order.push(at);
            }
        }
        order
    }
}

/// Searches a model that is right, prints how much there was, and insists on there being enough.
#[track_caller]
pub fn holds<M: Model>(name: &str, model: &M, fewest_states: usize) {
    match search(model) {
        Ok(searched) => {
            println!(
                "{name}: {} states, {} steps, {} ends, {} interleavings",
                searched.states, searched.steps, searched.ends, searched.interleavings
            );
            assert!(
                searched.states >= fewest_states,
                "{name}: the model has shrunk to {searched:?}"
            );
            assert!(searched.interleavings > searched.states as u128);
        }
        Err(fault) => panic!("{name}: {}\n{}", fault.what, fault.way.join("\n")),
    }
}

/// Searches a model that is wrong on purpose: it has to be found, by these words.
#[track_caller]
pub fn fails<M: Model>(name: &str, model: &M, words: &str) {
    match search(model) {
        Ok(searched) => panic!("{name}: nothing is found in {searched:?}"),
        Err(fault) => {
            println!("{name}: {} after {}", fault.what, fault.way.join(", "));
            assert!(fault.what.contains(words), "{name}: {}", fault.what);
        }
    }
}
