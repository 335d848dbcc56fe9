//! Cgroup trees as kubelets make them, and processes in them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use osm_agent::{
    daemon::{
        locate::{Locator, Whereabouts},
        source::{Membership, PodSpec},
    },
    pod::Pod,
};
use osm_tests::{Cgroup, Netns};

/// How long namespaces and users may take to be set up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A process that does nothing, and is killed with this guard.
pub struct Sleeper(pub Child);

impl Sleeper {
    /// In a network namespace (this process's own if none), and then in cgroups.
    pub fn new(netns: Option<&Netns>, cgroups: &[&Path]) -> Self {
        Self::of(&["sleep", "600"], netns, cgroups)
    }

    pub fn of(command: &[&str], netns: Option<&Netns>, cgroups: &[&Path]) -> Self {
        let start = || {
            let mut program = Command::new(command[0]);
            program.args(&command[1..]).stdin(Stdio::null());
            program.spawn().expect("it starts")
        };
        let sleeper = Self(netns.map_or_else(start, |netns| netns.run(start)));
        for cgroup in cgroups {
            sleeper.join(cgroup);
        }
        sleeper
    }

    /// In a user namespace of its own and whatever else `flags` of unshare(1) say.
    pub fn unshared(flags: &[&str], netns: &Netns, cgroup: &Path) -> Self {
        let command = [&["unshare", "--user"], flags, &["sleep", "600"]].concat();
        let sleeper = Self::of(&command, Some(netns), &[cgroup]);
        let own = fs::read_link("/proc/self/ns/user").expect("our user namespace");
        let theirs = format!("/proc/{}/ns/user", sleeper.0.id());
        wait(|| fs::read_link(&theirs).is_ok_and(|it| it != own));
        let name = format!("/proc/{}/comm", sleeper.0.id());
        wait(|| fs::read_to_string(&name).is_ok_and(|it| it.trim() == "sleep"));
        sleeper
    }

    pub fn join(&self, cgroup: &Path) {
        let id = self.0.id().to_string();
        fs::write(cgroup.join("cgroup.procs"), id).expect("it joins the cgroup");
    }

    pub fn map_users(&self, map: &str) {
        fs::write(format!("/proc/{}/uid_map", self.0.id()), map).expect("the users are mapped");
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn wait(until: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !until() {
        assert!(Instant::now() < deadline, "it takes too long");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Cgroups below one that stands for the root of the hierarchy; children go first.
pub struct Tree {
    pub below: Vec<Cgroup>,
    root: Cgroup,
}

impl Tree {
    pub fn new() -> Self {
        Self {
            below: Vec::new(),
            root: Cgroup::new(),
        }
    }

    /// Makes what is missing of `path`, from the root on.
    pub fn make(&mut self, path: &str) -> PathBuf {
        let mut at = self.root.path().to_owned();
        for name in path.split('/') {
            let next = at.join(name);
            if !next.exists() {
                let parent = self.below.iter().find(|it| it.path() == at);
                let made = parent.unwrap_or(&self.root).child(name);
                self.below.push(made);
            }
            at = next;
        }
        at
    }

    pub fn locator(&self) -> Locator {
        Locator::new(self.root.path().to_owned())
    }

    pub fn locate(&self, spec: &PodSpec, hint: Option<&Path>) -> Whereabouts {
        let locator = self.locator();
        let index = locator.index().expect("the hierarchy can be read");
        locator.locate(spec, &index, hint)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        while let Some(last) = self.below.pop() {
            drop(last);
        }
    }
}

/// A UID that no other test has.
pub fn uid() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(
        "0a1b2c3d-0000-4000-8000-{:06x}{count:06x}",
        std::process::id()
    )
}

pub fn spec(uid: &str) -> PodSpec {
    PodSpec {
        name: "default/web".into(),
        uid: Some(uid.into()),
        membership: Membership::InMesh,
        annotations: BTreeMap::new(),
        netns: None,
        cgroup: None,
        sidecar: None,
    }
}

#[track_caller]
pub fn found(whereabouts: Whereabouts) -> Pod {
    match whereabouts {
        Whereabouts::Found(pod) => pod,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn expect_in(whereabouts: Whereabouts, netns: &Netns) -> Pod {
    let pod = found(whereabouts);
    assert_eq!(pod.netns.cookie().expect("a cookie"), netns.cookie());
    pod
}

#[track_caller]
pub fn expect_not_yet(whereabouts: Whereabouts, words: &str) {
    match whereabouts {
        Whereabouts::NotYet(text) => assert!(text.contains(words), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn expect_unfit(whereabouts: Whereabouts, words: &str) {
    match whereabouts {
        Whereabouts::Unfit(text) => assert!(text.contains(words), "{text}"),
        other => panic!("{other:?}"),
    }
}
