//! One pod in a state directory, and agents of two versions, one after the other, each of which may
//! be killed between any two of its steps.
//!
//! | step here | there |
//! |---|---|
//! | `makes its version` | `version::make` (`ebpf/version.rs`) |
//! | `empties staging` | `StateDir::empty_staging` (`ebpf/state.rs`), `pins::detach` |
//! | `forgets` | `Ebpf::undescribe`, from `Ebpf::recover_pods` or `withdraw_pods` (`ebpf/pods.rs`) |
//! | `records`, `describes` | `Ebpf::enrol_new`, `Ebpf::mend` (`ebpf/enrol.rs`), `Maps::describe` |
//! | `attaches`, `pins`, `updates` | `Links::ensure_hook`, `ensure_lookup` (`ebpf/links.rs`), `pins::replace` |
//! | `publishes` | `StateDir::publish` |
//! | `notes its version` | the end of `Ebpf::mend` |
//! | `detaches` | `pins::detach`, `detach_rank` (`ebpf/pins.rs`) |
//! | `removes the other version` | `version::remove_unused`, by `Ebpf::tidy` (`ebpf/mod.rs`) |
//!
//! That no two of them run at once is the lock's to see to (`ebpf/lock.rs`).

mod agent;

use crate::search::{Model, fails, holds};

/// What stands for the hooks, in the order of attaching: those that serve what is redirected, the
/// one at the network namespace, those that redirect.
const SERVES: usize = 0;
const INBOUND: usize = 1;
const CONNECT: usize = 2;
/// The order of `detach_rank`.
const DETACHING: [usize; 3] = [INBOUND, CONNECT, SERVES];
/// How often an agent is killed.
const KILLS: u8 = 5;
/// How often it is said that the pod is to be intercepted, or is not.
const CHANGES: u8 = 3;

type Version = usize;
/// The programs that run by each hook's link; none where it is not there.
type Links = [Option<Version>; 3];

/// What may be wrong with agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wrong {
    #[default]
    Nothing,
    /// A link is unpinned, and another one made, where it could be updated.
    UnpinsBeforePinning,
    /// What redirects is attached first.
    ConnectsFirst,
    /// What serves is detached first.
    StopsServingFirst,
    /// The pod counts as intercepted before all is attached.
    PromisesEarly,
    /// Links go on with programs that do not know the pod yet.
    DescribesLate,
    /// A pod of which only `LOCALS` knows is not looked for.
    OverlooksLocals,
    /// The pod's record goes before its other entries.
    ForgetsRecordFirst,
    /// Pods with links are forgotten at the start as well.
    ForgetsAll,
    /// The other version goes before its links have gone on.
    RemovesVersionEarly,
    /// What a killed agent was making is left there.
    KeepsStaging,
}

/// Where an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Begins,
    Recovers,
    /// It forgets a pod that has no links.
    Forgets,
    /// It makes of the pod what is wanted.
    Acts,
    Withdraws,
    Tidies,
    Idle,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    version: Version,
    phase: Phase,
    kills: u8,
    changes: u8,
    /// Whether the pod is to be intercepted.
    is_wanted: bool,
    /// Whether somebody was told that it is.
    is_promised: bool,
    /// `staging/…`, `pods/…`; none where there is no directory.
    staged: Option<Links>,
    published: Option<Links>,
    /// A link that is attached and not pinned: it goes with the agent.
    held: Option<usize>,
    /// `POD_RECORDS`: which version's programs run for the pod.
    record: Option<Version>,
    /// `PODS`, by version; one for both where they share maps.
    pods: [bool; 2],
    /// `LOCALS`, likewise.
    locals: [bool; 2],
    /// `HANDSHAKES`, which is looked through for pods that are known otherwise only.
    notes: bool,
    /// `versions/…`.
    versions: [bool; 2],
}

struct Adopting {
    /// Whether both versions are of one layout.
    shares_maps: bool,
    wrong: Wrong,
}

type Next = Option<(&'static str, State)>;

impl Adopting {
    /// What goes when nobody has it any more: maps without pins that no program uses.
    fn settle(&self, mut state: State) -> State {
        for version in [0, 1] {
            let is_used = state.attached().iter().flatten().any(|it| *it == version);
            if !self.shares_maps && !state.versions[version] && !is_used {
                (state.pods[version], state.locals[version]) = (false, false);
            }
        }
        state
    }

    /// Whether what the pod dials is redirected.
    fn redirects(&self, state: &State) -> bool {
        let [.., connect] = state.attached();
        connect
            .iter()
            .any(|version| state.pods[self.maps(*version)])
    }
}

impl Model for Adopting {
    type State = State;

    fn start(&self) -> State {
        State {
            version: 0,
            phase: Phase::Begins,
            kills: 0,
            changes: 0,
            is_wanted: true,
            is_promised: false,
            staged: None,
            published: None,
            held: None,
            record: None,
            pods: [false; 2],
            locals: [false; 2],
            notes: false,
            versions: [false; 2],
        }
    }

    fn steps(&self, state: &State) -> Vec<(String, State)> {
        let mut found: Vec<(&str, State)> = self.agent(state).into_iter().collect();
        found.extend(
            [0, 1]
                .into_iter()
                .filter_map(|next| Self::kill(state, next)),
        );
        if self.redirects(state) && !state.notes {
            let notes = true;
            found.push((
                "is connected",
                State {
                    notes,
                    ..state.clone()
                },
            ));
        }
        // It looks again when it has done what it was told before.
        if state.changes < CHANGES && matches!(state.phase, Phase::Begins | Phase::Idle) {
            let mut next = state.clone();
            (next.is_wanted, next.is_promised) = (!state.is_wanted, false);
            next.changes += 1;
            if state.phase == Phase::Idle {
                next.phase = Phase::Acts;
            }
            found.push(("is told otherwise", next));
        }
        let named = found.into_iter().map(|(name, next)| {
            let name = format!("version {} {name}", state.version);
            (name, self.settle(next))
        });
        named.collect()
    }

    fn fault(&self, state: &State) -> Option<String> {
        let [serve, inbound, connect] = state.attached();
        let is_redirected = self.redirects(state);
        if is_redirected && serve.is_empty() {
            return Some("redirected without what serves it".into());
        }
        if state.is_promised && !is_redirected {
            return Some("connections go past the sidecar".into());
        }
        if state.is_promised && inbound.is_empty() {
            return Some("connections from outside go past the sidecar".into());
        }
        let mut running = [serve, inbound, connect].into_iter().flatten();
        let lost = running.find(|version| !state.versions[*version]);
        lost.map(|version| format!("version {version} is removed and runs"))
            .or_else(|| self.fault_at_rest(state))
    }

    fn fault_at_end(&self, state: &State) -> Option<String> {
        (state.phase != Phase::Idle).then(|| "the agent is stuck".into())
    }
}

impl Adopting {
    /// What must not be when the agent has done everything.
    fn fault_at_rest(&self, state: &State) -> Option<String> {
        if state.phase != Phase::Idle {
            return None;
        }
        let (own, maps) = (state.version, self.maps(state.version));
        if state.staged.is_some() || state.held.is_some() || state.versions[1 - own] {
            return Some("something is left".into());
        }
        let is_known = [state.pods[maps], state.locals[maps]];
        let is_right = if state.is_wanted {
            state.record == Some(own) && state.is_whole() && is_known == [true; 2]
        } else {
            let is_gone = state.record.is_none() && state.published.is_none();
            is_gone && is_known == [false; 2] && !state.notes
        };
        (!is_right).then(|| "the pod is not what is wanted: something is left or lost".into())
    }
}

fn model(shares_maps: bool, wrong: Wrong) -> Adopting {
    Adopting { shares_maps, wrong }
}

#[test]
fn killed_agents_of_two_versions_lose_nothing_and_leave_nothing() {
    for (name, shares_maps) in [("one layout", true), ("two layouts", false)] {
        holds(
            &format!("adopting, {name}"),
            &model(shares_maps, Wrong::Nothing),
            10_000,
        );
    }
}

#[test]
fn agents_that_do_things_in_a_wrong_order_are_found() {
    let cases = [
        (Wrong::UnpinsBeforePinning, "without what serves"),
        (Wrong::ConnectsFirst, "without what serves"),
        (Wrong::StopsServingFirst, "without what serves"),
        (Wrong::PromisesEarly, "past the sidecar"),
        (Wrong::DescribesLate, "past the sidecar"),
        (Wrong::OverlooksLocals, "left or lost"),
        (Wrong::ForgetsRecordFirst, "left or lost"),
        (Wrong::ForgetsAll, "past the sidecar"),
        (Wrong::RemovesVersionEarly, "removed and runs"),
        (Wrong::KeepsStaging, "something is left"),
    ];
    for (wrong, words) in cases {
        fails(&format!("{wrong:?}"), &model(false, wrong), words);
    }
}
