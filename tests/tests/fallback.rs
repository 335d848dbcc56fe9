//! What is done without being told how: eBPF where the kernel can do it, else iptables, and the pod is
//! intercepted either way.

mod mesh;

use std::process::{Command, Output};

use mesh::{expect_inbound, expect_outbound};
use osm_tests::{Agent, Need, World, agent, missing, sys::seccomp::without_program_type};
use serde_json::Value;

const REMOTE: &str = "198.51.100.10:80";

/// `BPF_PROG_TYPE_SK_LOOKUP`, which came with Linux 5.9.
const SK_LOOKUP: u32 = 30;

fn skipped() -> bool {
    missing(&[
        Need::Root,
        Need::Agent,
        Need::CgroupV2,
        Need::Ipv6,
        Need::Program("iptables-nft-restore"),
    ])
}

/// A pod, its outside and an agent that is not told a mode.
struct Scene {
    agent: Agent,
    world: World,
}

impl Scene {
    fn new() -> Option<Self> {
        Some(Self {
            agent: Agent::new()?,
            world: World::new()?,
        })
    }

    fn attach(&self) -> Command {
        let pod = &self.world.pod;
        let mut attach = Command::new(agent::binary().expect("the agent"));
        attach
            .args(["attach", "--pod", pod.name(), "--netns"])
            .arg(pod.netns.path())
            .arg("--cgroup")
            .arg(pod.cgroup.path())
            .arg("--state-dir")
            .arg(self.agent.state().path());
        attach
    }

    /// The sidecar gets the app's connections and those from outside, and knows where they were going.
    #[track_caller]
    fn expect_interception(&self) {
        let pod = &self.world.pod;
        let mut sidecar = pod.sidecar();
        let _remote = self.world.outside.server("remote", &[REMOTE]);
        let outbound = pod.app().connect(REMOTE);
        expect_outbound(&mut sidecar, &outbound, REMOTE, pod.ip4());
        let dialled = format!("{}:8080", pod.ip4());
        let _app = pod.server("app", &["0.0.0.0:8080"]);
        let inbound = self.world.outside.client().connect(dialled.as_str());
        expect_inbound(&mut sidecar, &inbound, &dialled);
    }
}

fn without_sk_lookup(mut command: Command) -> Output {
    let output = without_program_type(SK_LOOKUP, || command.output());
    output.expect("the filter is taken").expect("it runs")
}

fn check() -> Command {
    let mut check = Command::new(agent::binary().expect("the agent"));
    check.args(["check", "-o", "json"]);
    check
}

#[track_caller]
fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

#[test]
fn kernel_without_sk_lookup_is_left_to_iptables() {
    if skipped() {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let output = without_sk_lookup(scene.attach());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("using iptables instead"), "{stderr}");
    assert!(scene.agent.state().pins().is_empty());
    scene.expect_interception();
}

#[test]
fn check_on_a_kernel_without_sk_lookup_names_it() {
    if skipped() || missing(&[Need::Ebpf]) {
        return;
    }
    let json = json(&without_sk_lookup(check()));
    assert_eq!(json["mode"], "iptables", "{json}");
    let features = json["features"].as_array().expect("a list");
    let status = |name: &str| {
        let feature = features.iter().find(|it| it["name"] == name);
        feature.expect("it is listed")["status"].clone()
    };
    assert_eq!(status("hook_sk_lookup"), "missing");
    assert_eq!(status("hook_connect4"), "ok");
    assert_eq!(status("enrolment"), "missing");
}

/// Whichever kernel this is.
#[test]
fn attach_without_a_mode_takes_what_check_says() {
    if skipped() {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let checked = json(&check().output().expect("it runs"));
    let output = scene.attach().output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let by_ebpf = checked["mode"] == "ebpf";
    let said = stderr.contains("using iptables instead");
    assert_eq!(said, !by_ebpf, "{stderr}");
    assert_eq!(scene.agent.state().pins().is_empty(), !by_ebpf, "{stderr}");
    scene.expect_interception();
}
