//! Every call of bpf(2) that `attach` makes fails, one after the other: with one clear error, nothing half-done,
//! and what was in force stays in force.

mod mesh;

use std::{io, process::Command};

use mesh::{Lists, Mesh, is_direct};
use nix::errno::Errno;
use osm_tests::{
    Outcome, Pod, agent,
    sys::seccomp::{self, Command as Bpf},
};
use rstest::rstest;

const REMOTE: &str = "198.51.100.10:80";
/// On the list that is in force.
const OLD: &str = "198.51.100.10:81";
/// On the list that the `attach` that fails is given.
const NEW: &str = "198.51.100.10:82";

const ERRORS: [Errno; 4] = [Errno::ENOMEM, Errno::EPERM, Errno::ENOSPC, Errno::EBUSY];

/// All that changes something.
const WRITES: [Bpf; 8] = [
    Bpf::MapCreate,
    Bpf::MapUpdate,
    Bpf::MapDelete,
    Bpf::MapFreeze,
    Bpf::ProgLoad,
    Bpf::ProgAttach,
    Bpf::ObjPin,
    Bpf::LinkCreate,
];

/// All that only asks. There are hundreds of them, most alike.
const READS: [Bpf; 5] = [
    Bpf::MapLookup,
    Bpf::MapNextKey,
    Bpf::ObjGet,
    Bpf::ObjInfo,
    Bpf::ProgQuery,
];

/// Of reads, one in so many fails. No multiple of the number of errors, so that each of them comes up.
const STRIDE: usize = 7;

/// A call of bpf(2) that fails: the how-manieth of its command, and with what.
#[derive(Clone, Copy, Debug)]
struct Fault {
    command: Bpf,
    nth: usize,
    error: Errno,
}

impl Fault {
    const fn new(command: Bpf, nth: usize) -> Self {
        let error = ERRORS[(nth + command as usize) % ERRORS.len()];
        Self {
            command,
            nth,
            error,
        }
    }

    /// Whether the call that was counted fails. What the kernel has no room for, or does not allow, it goes on to
    /// refuse: the loader asks again.
    fn meets(self, call: usize) -> bool {
        let goes_on = matches!(self.command, Bpf::MapCreate | Bpf::ProgLoad);
        call == self.nth || goes_on && call > self.nth
    }

    /// Runs the agent with it; says whether it makes so many calls.
    fn run(self, args: &[String]) -> (bool, Outcome) {
        let mut agent = Command::new(agent::binary().expect("the agent"));
        agent.args(args);
        let mut calls = 0;
        let error = |_: &seccomp::Call| {
            calls += 1;
            self.meets(calls).then_some(self.error)
        };
        let output = seccomp::answering(self.command, error, || agent.output());
        let output = output
            .expect("the filter is taken")
            .expect("the agent runs");
        (calls >= self.nth, output.into())
    }

    /// What the user is told: one line, with what the kernel said.
    #[track_caller]
    fn expect_error(self, outcome: &Outcome) {
        let said = outcome.stderr.trim_end();
        assert_eq!(outcome.status.code(), Some(1), "{self:?}: {outcome}");
        let words = io::Error::from(self.error).to_string();
        let words = words.split(" (os").next().expect("words");
        // By loads that may fail, the loader asks what the kernel can do. What it was wrongly told there comes up
        // later, in the verifier's words.
        if self.command == Bpf::ProgLoad && !said.contains(words) {
            assert!(
                said.starts_with("osm-agent: cannot "),
                "{self:?}: {outcome}"
            );
            return;
        }
        assert_eq!(said.lines().count(), 1, "{self:?}: {outcome}");
        assert!(said.contains(words), "{self:?}: {outcome}");
    }
}

/// Every fault in turn, as long as there is such a call. `meet` is told of each that made the agent fail, `undo`
/// is called where it did not. Says how many failed.
fn every_fault(
    commands: &[Bpf],
    stride: impl Fn(Bpf, usize) -> usize,
    args: &[String],
    mut meet: impl FnMut(Fault, &Outcome),
    mut undo: impl FnMut(),
) -> usize {
    let mut failed = 0;
    for command in commands {
        let mut nth = 1;
        loop {
            let fault = Fault::new(*command, nth);
            let (is_met, outcome) = fault.run(args);
            if is_met && !outcome.status.success() {
                fault.expect_error(&outcome);
                meet(fault, &outcome);
                failed += 1;
            } else {
                // What it can do without, or can leave for later.
                let _ = outcome.succeeded();
                undo();
            }
            if !is_met {
                break;
            }
            nth += stride(*command, nth);
        }
    }
    failed
}

fn attach_args(mesh: &Mesh, pod: &Pod, port: &str) -> Vec<String> {
    let attach = mesh.agent.attach(pod).option("--mode", "ebpf");
    let list = "openservicemesh.io/outbound-port-exclusion-list";
    attach.annotation(list, port).into_args()
}

#[rstest]
#[case::in_the_maps(&[Bpf::MapCreate, Bpf::MapUpdate, Bpf::MapFreeze], 45)]
#[case::in_the_programs_and_links(&[Bpf::ProgLoad, Bpf::ProgAttach, Bpf::LinkCreate], 20)]
#[case::in_the_pins(&[Bpf::ObjPin], 45)]
fn first_attach_that_fails_anywhere_leaves_nothing(#[case] commands: &[Bpf], #[case] least: usize) {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let args = attach_args(&mesh, pod, "81");
    // A map of which every element is written once.
    let stride = |command, nth| match command {
        Bpf::MapUpdate if nth > 4 => nth / 2,
        _ => 1,
    };
    let nothing_left = |fault, outcome: &Outcome| {
        assert!(mesh.agent.state().pins().is_empty(), "{fault:?}: {outcome}");
    };
    let undo = || drop(mesh.detach().succeeded());
    let failed = every_fault(commands, stride, &args, nothing_left, undo);
    assert!(failed >= least, "only {failed} failed");
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let _sidecar = pod.sidecar();
    let mut app = pod.app();
    assert!(is_direct(&mut app, REMOTE));
    let _ = mesh.attach(&Lists::default()).succeeded();
    assert!(!is_direct(&mut app, REMOTE));
}

/// Two pods, the first of them intercepted, with [`OLD`] on its list.
struct Pair {
    mesh: Mesh,
    second: Pod,
}

impl Pair {
    fn new() -> Option<Self> {
        let mesh = Mesh::attached(&Lists {
            excluded_ports: "81",
            ..Lists::default()
        })?;
        let second = mesh.world.add_pod();
        Some(Self { mesh, second })
    }
}

#[test]
fn attach_of_a_second_pod_that_fails_anywhere_leaves_the_first_and_nothing_else() {
    let Some(Pair { mesh, second }) = Pair::new() else {
        return;
    };
    let pod = &mesh.world.pod;
    let _remote = mesh.world.outside.server("remote", &[REMOTE, OLD]);
    let _sidecars = [pod.sidecar(), second.sidecar()];
    let (mut app, mut other) = (pod.app(), second.app());
    let args = attach_args(&mesh, &second, "82");
    let pins = mesh.agent.state().pins();
    let as_before = |fault, outcome: &Outcome| {
        assert_eq!(mesh.agent.state().pins(), pins, "{fault:?}: {outcome}");
        assert!(is_direct(&mut other, REMOTE), "{fault:?}: {outcome}");
        assert!(!is_direct(&mut app, REMOTE), "{fault:?}: {outcome}");
        assert!(is_direct(&mut app, OLD), "{fault:?}: {outcome}");
    };
    let undo = || drop(mesh.agent.detach(&second).succeeded());
    let failed = every_fault(&all(), stride, &args, as_before, undo);
    assert!(failed > 50, "only {failed} failed");
    let _ = mesh.agent.run(&args).succeeded();
    assert!(!is_direct(&mut other, REMOTE));
}

#[test]
fn change_of_lists_that_fails_anywhere_leaves_the_old_ones() {
    let Some(Pair { mesh, .. }) = Pair::new() else {
        return;
    };
    let pod = &mesh.world.pod;
    let _remote = mesh.world.outside.server("remote", &[REMOTE, OLD, NEW]);
    let _sidecar = pod.sidecar();
    let mut app = pod.app();
    let args = attach_args(&mesh, pod, "82");
    let pins = mesh.agent.state().pins();
    let as_before = |fault, outcome: &Outcome| {
        assert_eq!(mesh.agent.state().pins(), pins, "{fault:?}: {outcome}");
        assert!(!is_direct(&mut app, REMOTE), "{fault:?}: {outcome}");
        assert!(is_direct(&mut app, OLD), "{fault:?}: {outcome}");
        assert!(!is_direct(&mut app, NEW), "{fault:?}: {outcome}");
    };
    let undo = || drop(mesh.agent.run(&attach_args(&mesh, pod, "81")).succeeded());
    let failed = every_fault(&all(), stride, &args, as_before, undo);
    assert!(failed > 20, "only {failed} failed");
    let _ = mesh.agent.run(&args).succeeded();
    assert!(is_direct(&mut app, NEW));
}

fn all() -> Vec<Bpf> {
    [&WRITES[..], &READS[..]].concat()
}

fn stride(command: Bpf, _: usize) -> usize {
    if READS.contains(&command) { STRIDE } else { 1 }
}
