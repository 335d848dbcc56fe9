//! The switch from one policy to another: written under a new id, put in force by one store,
//! collected when no program can have read the old id any more.
//!
//! | step here | there |
//! |---|---|
//! | `Stage`, `WriteFirst`, `WriteSecond` | `Ebpf::stage`, `Ebpf::write_lists` (`ebpf/policies.rs`) |
//! | `Record`, `Staged` | `Ebpf::ensure_policy` |
//! | `Switch` | `Maps::set_policy` (`ebpf/pods.rs`), by `Ebpf::switch_pod` or `Maps::describe` |
//! | `Look` … `CollectDone` | `Ebpf::collect_policies` |
//! | `kill` | `Ebpf::recover_policies`, as the next agent begins |
//! | `program` | `Pod::find`, then `range` and `excludes_port` (`osm-ebpf/src/pod.rs`) |

use crate::search::{Model, fails, holds};

/// What the agent does, one write after another. In order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// `meta.staged_policy` and `meta.next_policy`.
    Stage,
    WriteFirst,
    WriteSecond,
    /// The entry in `POLICIES`.
    Record,
    /// `set_staged(0)`.
    Staged,
    /// The word in `POLICY_IN_FORCE`.
    Switch,
    /// The flags in it, where they are written by themselves.
    SwitchFlags,
    /// `policies_in_use`.
    Look,
    /// `wait_for_running_programs` begins.
    WaitBegin,
    /// It ends.
    WaitEnd,
    CollectStage,
    CollectRecord,
    CollectFirst,
    CollectSecond,
    CollectDone,
}

use Step::{
    CollectDone, CollectFirst, CollectRecord, CollectSecond, CollectStage, Look, Record, Stage,
    Staged, Switch, SwitchFlags, WaitBegin, WaitEnd, WriteFirst, WriteSecond,
};

const AS_IT_IS: [Step; 14] = [
    Stage,
    WriteFirst,
    WriteSecond,
    Record,
    Staged,
    Switch,
    Look,
    WaitBegin,
    WaitEnd,
    CollectStage,
    CollectRecord,
    CollectFirst,
    CollectSecond,
    CollectDone,
];

/// The agent's order of steps, and what it otherwise may do wrong.
struct Switching {
    order: Vec<Step>,
    /// Ids are given again.
    reuses_ids: bool,
}

/// 0 for none. All parts of a policy say the same number, so that a mixture is seen.
type Lists = u8;

/// What is in force at first, under the id 1, and what the agent puts in force then.
const AT_FIRST: Lists = 3;
const WANTED: [Lists; 2] = [1, 3];

const IDS: usize = 6;
const PROGRAMS: usize = 2;
/// How often each program runs, and the agent is killed.
const RUNS: u8 = 2;
const KILLS: u8 = 1;

/// A run of a program, on a CPU of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Program {
    Idle,
    /// It has read the word, and looked into so many lists.
    Runs {
        id: u8,
        said: [Lists; 3],
        lists: u8,
    },
    /// What it decided by.
    Done([Lists; 3]),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// `RANGES` and `PORT_PAGES`, by id; 0 where there is nothing.
    first: [Lists; IDS],
    second: [Lists; IDS],
    /// `POLICIES`.
    records: [Lists; IDS],
    /// `META`.
    next: u8,
    staged: u8,
    /// `POLICY_IN_FORCE`: an id, and the flags that say which lists there are.
    word: (u8, Lists),
    /// `INTERCEPTED`: the id whose first list was last looked into, and what it said.
    cache: (u8, Lists),
    programs: [(Program, u8); PROGRAMS],
    /// What was in force at some time while each program ran, as bits.
    valid: [u8; PROGRAMS],
    /// The runs that `wait_for_running_programs` waits for.
    awaited: [bool; PROGRAMS],
    /// Which of [`WANTED`] is put in force, and by which step next.
    round: usize,
    at: usize,
    /// The id that is put in force, and the one that is collected.
    writing: u8,
    collecting: u8,
    kills: u8,
}

impl Switching {
    fn of(order: &[Step]) -> Self {
        Self {
            order: order.to_vec(),
            reuses_ids: false,
        }
    }

    /// As it is, but for one step that is left out, or comes before another one.
    fn with(step: Step, before: Option<Step>) -> Self {
        let mut order = AS_IT_IS.to_vec();
        order.retain(|it| *it != step);
        if let Some(at) = before.and_then(|before| order.iter().position(|it| *it == before)) {
            order.insert(at, step);
        }
        Self::of(&order)
    }

    fn agent(&self, state: &State) -> Option<(String, State)> {
        let lists = *WANTED.get(state.round)?;
        let mut next = state.clone();
        if state.at == 0 {
            // `Ebpf::policy_id`: as long as it is recorded, it need not be written.
            next.writing = state.id_of(lists);
        }
        let is_skipped = |step: &Step| match step {
            Stage | WriteFirst | WriteSecond | Record | Staged => {
                next.records[usize::from(next.writing)] == lists && next.staged == 0
            }
            WaitBegin | WaitEnd | CollectStage | CollectRecord | CollectFirst | CollectSecond
            | CollectDone => next.collecting == 0,
            Switch | SwitchFlags | Look => false,
        };
        let steps = self.order.iter().enumerate().skip(state.at);
        let found = steps.clone().find(|(_, step)| !is_skipped(step));
        let Some((at, step)) = found else {
            (next.round, next.at, next.writing) = (state.round + 1, 0, 0);
            return Some(("the next lists are wanted".into(), next));
        };
        next.at = at + 1;
        self.act(&mut next, *step, lists)
            .then(|| (format!("{step:?}"), next))
    }

    /// Does a step; false where it has to wait.
    fn act(&self, state: &mut State, step: Step, lists: Lists) -> bool {
        if state.writing == 0 {
            state.writing = state.next;
            state.next += 1;
        }
        let (new, old) = (usize::from(state.writing), usize::from(state.collecting));
        match step {
            Stage => state.staged = state.writing,
            WriteFirst => state.first[new] = lists,
            WriteSecond => state.second[new] = lists,
            Record => state.records[new] = lists,
            Staged => state.staged = 0,
            Switch => {
                let both = !self.order.contains(&SwitchFlags);
                let flags = if both { lists } else { state.word.1 };
                state.word = (state.writing, flags);
                state
                    .valid
                    .iter_mut()
                    .for_each(|valid| *valid |= 1 << lists);
            }
            SwitchFlags => state.word.1 = lists,
            Look => state.collecting = state.unused(),
            WaitBegin => {
                state.awaited = state
                    .programs
                    .map(|(program, _)| matches!(program, Program::Runs { .. }));
            }
            WaitEnd => return state.awaited == [false; PROGRAMS],
            CollectStage => state.staged = state.collecting,
            CollectRecord => state.records[old] = 0,
            CollectFirst => state.first[old] = 0,
            CollectSecond => state.second[old] = 0,
            CollectDone => {
                (state.staged, state.collecting) = (0, 0);
                if self.reuses_ids {
                    state.next = u8::try_from(old).unwrap_or_default();
                }
            }
        }
        true
    }

    /// One step of one program.
    fn program(state: &State, which: usize) -> Option<(String, State)> {
        let mut next = state.clone();
        let (program, runs) = state.programs[which];
        let program = match program {
            Program::Idle if runs == RUNS => return None,
            Program::Idle => {
                next.valid[which] = 1 << state.in_force();
                let (id, flags) = state.word;
                Program::Runs {
                    id,
                    said: [flags, 0, 0],
                    lists: 0,
                }
            }
            Program::Runs {
                id,
                mut said,
                lists: 0,
            } => {
                said[1] = state.first[usize::from(id)];
                if state.cache.0 == id {
                    said[1] = state.cache.1;
                }
                next.cache = (id, said[1]);
                Program::Runs { id, said, lists: 1 }
            }
            Program::Runs { id, mut said, .. } => {
                said[2] = state.second[usize::from(id)];
                next.awaited[which] = false;
                Program::Done(said)
            }
            Program::Done(_) => {
                next.valid[which] = 0;
                next.programs[which] = (Program::Idle, runs + 1);
                return Some((format!("program {which} ends"), next));
            }
        };
        next.programs[which] = (program, runs);
        Some((format!("program {which}: {program:?}"), next))
    }

    /// The agent is killed; the next one recovers, and begins the round again.
    fn kill(state: &State) -> Option<(String, State)> {
        if state.kills == KILLS || state.round == WANTED.len() {
            return None;
        }
        let mut next = state.clone();
        next.kills += 1;
        (next.at, next.writing, next.collecting) = (0, 0, 0);
        next.awaited = [false; PROGRAMS];
        let staged = usize::from(state.staged);
        if state.records[staged] == 0 {
            (next.first[staged], next.second[staged]) = (0, 0);
        }
        next.staged = 0;
        Some(("kill and recover".into(), next))
    }
}

impl State {
    fn id_of(&self, lists: Lists) -> u8 {
        number(self.records.iter().position(|it| *it == lists))
    }

    /// A policy that no pod goes by.
    fn unused(&self) -> u8 {
        let of_pod = usize::from(self.word.0);
        number((1..IDS).find(|id| self.records[*id] != 0 && *id != of_pod))
    }

    /// The lists that the pod is under.
    fn in_force(&self) -> Lists {
        self.records[usize::from(self.word.0)]
    }
}

fn number(at: Option<usize>) -> u8 {
    at.and_then(|at| u8::try_from(at).ok()).unwrap_or_default()
}

impl Model for Switching {
    type State = State;

    fn start(&self) -> State {
        let mut lists = [0; IDS];
        lists[1] = AT_FIRST;
        State {
            first: lists,
            second: lists,
            records: lists,
            next: 2,
            staged: 0,
            word: (1, AT_FIRST),
            cache: (0, 0),
            programs: [(Program::Idle, 0); PROGRAMS],
            valid: [0; PROGRAMS],
            awaited: [false; PROGRAMS],
            round: 0,
            at: 0,
            writing: 0,
            collecting: 0,
            kills: 0,
        }
    }

    fn steps(&self, state: &State) -> Vec<(String, State)> {
        let programs = (0..PROGRAMS).filter_map(|which| Self::program(state, which));
        programs
            .chain(self.agent(state))
            .chain(Self::kill(state))
            .collect()
    }

    /// A program decides by one policy, whole, and by one that was in force while it ran.
    fn fault(&self, state: &State) -> Option<String> {
        let programs = state.programs.iter().zip(state.valid);
        programs.into_iter().find_map(|((program, _), valid)| {
            let Program::Done([flags, first, second]) = *program else {
                return None;
            };
            if flags != first || first != second {
                return Some(format!("a torn policy: {flags}, {first} and {second}"));
            }
            (valid & (1 << flags) == 0).then(|| format!("{flags} was not in force then"))
        })
    }

    fn fault_at_end(&self, state: &State) -> Option<String> {
        if state.round != WANTED.len() {
            return Some("the agent is stuck".into());
        }
        let is_left = |id: usize| {
            id != usize::from(state.word.0)
                && [state.first[id], state.second[id], state.records[id]] != [0; 3]
        };
        if let Some(id) = (0..IDS).find(|id| is_left(*id)) {
            return Some(format!("something is left of the policy {id}"));
        }
        let wanted = WANTED[WANTED.len() - 1];
        let is_right = state.in_force() == wanted && state.staged == 0;
        (!is_right).then(|| "the wanted policy is lost".into())
    }
}

#[test]
fn no_program_sees_a_torn_policy_and_nothing_is_left() {
    holds("policy switch", &Switching::of(&AS_IT_IS), 20_000);
}

#[test]
fn wrong_orders_of_the_switch_are_found() {
    let cases = [
        ("switch before writing", Switch, Some(WriteFirst), "torn"),
        (
            "switch before all is written",
            Switch,
            Some(WriteSecond),
            "torn",
        ),
        ("two stores", SwitchFlags, Some(Look), "torn"),
        ("waiting for nobody", WaitBegin, None, "torn"),
        (
            "collecting before waiting",
            CollectSecond,
            Some(WaitEnd),
            "torn",
        ),
        ("no note of what is written", Stage, None, "left"),
        ("no note of what is collected", CollectStage, None, "left"),
        (
            "note removed before the record",
            Staged,
            Some(Record),
            "left",
        ),
    ];
    for (name, step, before, words) in cases {
        fails(name, &Switching::with(step, before), words);
    }
    let reusing = Switching {
        reuses_ids: true,
        ..Switching::of(&AS_IT_IS)
    };
    fails("ids are given again", &reusing, "torn");
}
