//! What these tests have in common.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use osm_tests::{Outcome, Pod};

use crate::mesh::{Mesh, expect_inbound, expect_outbound};

pub const REMOTE: &str = "198.51.100.10:80";

#[track_caller]
pub fn expect_error(outcome: &Outcome, status: i32, words: &[&str]) {
    assert_eq!(outcome.status.code(), Some(status), "{outcome}");
    let error = outcome.stderr.trim_end();
    assert_eq!(error.lines().count(), 1, "{outcome}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[track_caller]
pub fn bpftool(args: &str) -> String {
    let output = Command::new("bpftool")
        .args(args.split_whitespace())
        .output()
        .expect("bpftool runs");
    assert!(output.status.success(), "bpftool {args}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn attach_args(pod: &Pod, name: &str, cgroup: &Path, state: &Path) -> Vec<String> {
    let netns = pod.netns.path();
    let paths = [netns.as_path(), cgroup, state].map(|path| path.display().to_string());
    let [netns, cgroup, state] = paths.each_ref().map(String::as_str);
    [
        "attach",
        "--mode",
        "ebpf",
        "--pod",
        name,
        "--netns",
        netns,
        "--cgroup",
        cgroup,
        "--state-dir",
        state,
    ]
    .map(String::from)
    .to_vec()
}

pub fn attach_at(mesh: &Mesh, state: &Path) -> Outcome {
    let pod = &mesh.world.pod;
    let args = attach_args(pod, pod.name(), pod.cgroup.path(), state);
    mesh.agent.run(&args)
}

pub fn pod_directory(mesh: &Mesh) -> PathBuf {
    let cookie = mesh.world.pod.netns.cookie();
    mesh.agent
        .state()
        .path()
        .join(format!("pods/{cookie:016x}"))
}

#[track_caller]
pub fn expect_intercepted(mesh: &Mesh) {
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
    let inbound = mesh.world.outside.client().connect("10.77.1.2:8080");
    expect_inbound(&mut sidecar, &inbound, "10.77.1.2:8080");
}
