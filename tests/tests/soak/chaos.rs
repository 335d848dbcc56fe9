//! What happens on the node: everything that may, in any order.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use osm_agent::{
    config::{Lists, MeshConfig},
    ebpf::view::{PodView, View},
    policy::Policy,
};
use osm_tests::{Node, Pod, World, agent};

use crate::{
    lists,
    pod::{PodUnderLoad, Told},
};

/// Within this time everything has to be as it was told.
const PATIENCE: Duration = Duration::from_secs(30);
/// After so many acts is waited for that.
const ACTS_BETWEEN: u32 = 25;

/// Does one thing after the other.
pub struct Chaos<'a> {
    node: &'a mut Node,
    world: &'a World,
    pods: &'a [PodUnderLoad],
    mesh: Lists,
    /// A pod that nobody connects from: its namespace comes and goes.
    passing: Option<Pod>,
    rng: Rng,
    acts: u32,
    pub done: Done,
}

/// Something that may happen, and what it is called.
type Act<T> = (&'static str, fn(&mut T));

/// What was done, and how often.
#[derive(Default)]
pub struct Done(BTreeMap<&'static str, u64>);

impl<'a> Chaos<'a> {
    /// Everything that is done.
    const ACTS: [Act<Self>; 9] = [
        ("the mesh's lists changed", Self::change_mesh),
        ("a pod's lists changed", Self::change_pod),
        ("a pod joined or left the mesh", Self::join_or_leave),
        ("a pod came or went", Self::come_or_go),
        ("the agent was killed", Self::kill_agent),
        (
            "the agent was replaced by another version",
            Self::replace_agent,
        ),
        ("a link was detached", Self::detach_link),
        ("a pin was removed", Self::remove_pin),
        ("a sidecar was killed", Self::kill_sidecar),
    ];

    /// Has all pods join, and starts the agent.
    pub fn new(node: &'a mut Node, world: &'a World, pods: &'a [PodUnderLoad], seed: u64) -> Self {
        let mut chaos = Self {
            node,
            world,
            pods,
            mesh: Lists::default(),
            passing: None,
            rng: Rng::with_seed(seed),
            acts: 0,
            done: Done::default(),
        };
        for pod in pods {
            chaos.join(pod);
        }
        chaos.node.start();
        chaos.settle();
        chaos
    }

    /// Does something, and lets a moment pass.
    pub fn act(&mut self) {
        // Each of them once, and then as it comes.
        let next = usize::try_from(self.acts).unwrap_or(usize::MAX);
        let random = self.rng.usize(..Self::ACTS.len());
        let (name, act) = Self::ACTS.get(next).unwrap_or(&Self::ACTS[random]);
        act(self);
        *self.done.0.entry(name).or_default() += 1;
        self.pause(300);
        self.look();
        self.acts += 1;
        if self.acts.is_multiple_of(ACTS_BETWEEN) {
            self.settle();
        }
    }

    /// Waits until all is as it was told, and a moment longer.
    pub fn calm_down(&mut self) {
        if self.passing.is_some() {
            self.come_or_go();
        }
        self.settle();
        thread::sleep(Duration::from_millis(500));
    }

    fn settle(&mut self) {
        let start = Instant::now();
        while !self.look() {
            let (_, status) = self.node.get("/status");
            assert!(
                start.elapsed() < PATIENCE,
                "it does not settle: {status}\n{}",
                self.node.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Looks at what the kernel has; says whether it is what was told.
    fn look(&self) -> bool {
        let view = View::open(self.node.state().path());
        // While an agent makes or mends something, not all can be read.
        let Ok(found) = view.and_then(|view| view.map_or(Ok(Vec::new()), |view| view.pods()))
        else {
            return false;
        };
        let mut is_settled = true;
        for pod in self.pods {
            let name = name_of(&pod.pod);
            let found = found.iter().find(|it| it.name == name);
            is_settled &= self.look_at(pod, &pod.told(), found);
        }
        is_settled
    }

    fn look_at(&self, pod: &PodUnderLoad, told: &Told, found: Option<&PodView>) -> bool {
        let Some(found) = found else {
            // Not in the mesh, or not yet.
            return !told.is_member;
        };
        let wanted = self.mesh.union(&told.lists);
        let is_so = told.is_member && found.problems.is_empty() && self.goes_by(found, &told.lists);
        if !is_so {
            return false;
        }
        let known = found.listeners;
        // Two families, and both ports.
        let hears = told.sidecar.is_some() && known.outbound >= 2 && known.inbound >= 2;
        let now = pod.possible.now();
        if now.is_open || now.lists.len() != 1 || now.is_deaf == hears {
            pod.possible.change(|state| {
                state.lists = vec![wanted];
                state.is_open = false;
                state.is_deaf = !hears;
            });
        }
        hears
    }

    fn goes_by(&self, found: &PodView, lists: &Lists) -> bool {
        let mesh = MeshConfig {
            lists: self.mesh.clone(),
            ..MeshConfig::default()
        };
        let wanted = Policy::of_pod(&mesh, lists, true);
        let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
        let digest = (!wanted.is_empty()).then(|| hex(wanted.digest()));
        let policy = found.policy.as_ref();
        policy.is_some_and(|policy| policy.digest == digest && policy.dual_stack)
    }

    fn change_mesh(&mut self) {
        self.mesh = lists::any(&mut self.rng);
        for pod in self.pods {
            self.expect_lists(pod, &pod.told());
        }
        self.node.mesh(&lists::spec(&self.mesh));
    }

    fn change_pod(&mut self) {
        let pod = self.any_pod();
        let mut told = pod.told();
        told.lists = lists::any(&mut self.rng);
        self.expect_lists(pod, &told);
        if told.is_member {
            self.tell(pod, &told);
        }
    }

    fn join_or_leave(&mut self) {
        let pod = self.any_pod();
        if !pod.told().is_member {
            self.join(pod);
            return;
        }
        pod.told().is_member = false;
        pod.possible.change(|state| state.is_open = true);
        self.node.remove_pod(&pod.pod);
    }

    fn join(&self, pod: &PodUnderLoad) {
        let mut told = pod.told();
        told.is_member = true;
        self.expect_lists(pod, &told);
        self.tell(pod, &told);
    }

    fn come_or_go(&mut self) {
        match self.passing.take() {
            None => {
                let pod = self.world.add_pod();
                self.node.add_pod(&pod, &[]);
                self.passing = Some(pod);
            }
            Some(pod) => {
                // Its file goes before it, or after it.
                let is_first = self.rng.bool();
                if is_first {
                    self.node.remove_pod(&pod);
                }
                let name = pod.name().to_owned();
                drop(pod);
                if !is_first {
                    self.node.remove_pod_file(&name);
                }
            }
        }
    }

    fn kill_agent(&mut self) {
        self.node.kill();
        self.pause(200);
        self.node.start();
    }

    fn replace_agent(&mut self) {
        let next = agent::next_binary().expect("the test needs it");
        if self.rng.bool() {
            self.node.kill();
        } else {
            let _ = self.node.stop();
        }
        self.node.start_binary(&next);
        self.pause(800);
        self.node.kill();
        self.node.start();
    }

    fn detach_link(&mut self) {
        let pod = self.any_pod();
        let Some(link) = self.any_pin_of(pod, |name| !name.ends_with("_code")) else {
            return;
        };
        pod.possible.change(|state| state.is_open = true);
        let mut bpftool = Command::new("bpftool");
        bpftool.args(["link", "detach", "pinned"]).arg(link);
        // It may be gone by now.
        let _ = bpftool.output().expect("bpftool runs");
    }

    fn remove_pin(&mut self) {
        let pod = self.any_pod();
        let Some(pin) = self.any_pin_of(pod, |_| true) else {
            return;
        };
        // What only the pin held is detached.
        pod.possible.change(|state| state.is_open = true);
        let _ = fs::remove_file(pin);
    }

    fn kill_sidecar(&mut self) {
        let pod = self.any_pod();
        pod.possible.change(|state| state.is_deaf = true);
        pod.told().sidecar = None;
        self.pause(200);
        pod.told().sidecar = Some(pod.sidecar());
    }

    /// Other lists may be in force from now on.
    fn expect_lists(&self, pod: &PodUnderLoad, told: &Told) {
        let lists = self.mesh.union(&told.lists);
        pod.possible.change(|state| state.lists.push(lists));
    }

    fn tell(&self, pod: &PodUnderLoad, told: &Told) {
        let annotations = lists::annotations(&told.lists);
        let annotations = annotations
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        self.node
            .add_pod(&pod.pod, &annotations.collect::<Vec<_>>());
    }

    fn any_pod(&mut self) -> &'a PodUnderLoad {
        &self.pods[self.rng.usize(..self.pods.len())]
    }

    fn any_pin_of(
        &mut self,
        pod: &PodUnderLoad,
        is_meant: impl Fn(&str) -> bool,
    ) -> Option<PathBuf> {
        let cookie = pod.pod.netns.cookie();
        let directory = self.node.state().path().join(format!("pods/{cookie:016x}"));
        let pins = fs::read_dir(directory).ok()?.flatten();
        let pins = pins.filter(|pin| is_meant(&pin.file_name().to_string_lossy()));
        let mut pins: Vec<_> = pins.map(|pin| pin.path()).collect();
        pins.sort();
        (!pins.is_empty()).then(|| pins.swap_remove(self.rng.usize(..pins.len())))
    }

    fn pause(&mut self, most_ms: u64) {
        thread::sleep(Duration::from_millis(self.rng.u64(..most_ms)));
    }
}

impl Done {
    /// Everything was done at least once.
    pub fn check(&self) {
        for (name, _) in Chaos::ACTS {
            assert!(self.0.contains_key(name), "not once: {name}\n{self}");
        }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.0 {
            writeln!(f, "{count:>10} times {name}")?;
        }
        Ok(())
    }
}

/// As the agent calls it.
fn name_of(pod: &Pod) -> String {
    format!("test/{}", pod.name())
}
