//! Disks that take nothing any more, because they are full or read-only: said in words, nothing half-done, and what
//! is in force stays in force.

mod mesh;

use std::{
    fs::File,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mesh::{Lists, Mesh, expect_direct, expect_outbound, is_direct};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use osm_tests::{Node, TempDir, World, agent, need::assert_private_mounts, node::PATIENCE};

const REMOTE: &str = "198.51.100.10:80";
const OTHER: &str = "198.51.100.10:81";

const NONE: Option<&str> = None;

/// A file system of the test's own; unmounted on drop.
struct Disk {
    dir: TempDir,
}

impl Disk {
    fn new(kind: &str, options: &str) -> Self {
        assert_private_mounts();
        let dir = TempDir::new();
        let flags = MsFlags::empty();
        mount(Some("none"), dir.path(), Some(kind), flags, Some(options)).expect("a file system");
        Self { dir }
    }

    /// One that has room for its root directory and nothing else.
    fn full() -> Self {
        Self::new("tmpfs", "size=4k,nr_inodes=1")
    }

    fn read_only(kind: &str) -> Self {
        let disk = Self::new(kind, "mode=0700");
        remount(disk.path(), MsFlags::MS_RDONLY);
        disk
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.path().display());
        }
    }
}

fn remount(path: &Path, flags: MsFlags) {
    mount(NONE, path, NONE, MsFlags::MS_REMOUNT | flags, NONE).expect("a remount");
}

/// Without a word of a mode: no disk is a reason to take other means.
fn attach_args(mesh: &Mesh, state: &Path) -> Vec<String> {
    let mut args = mesh.agent.attach(&mesh.world.pod).into_args();
    *args.last_mut().expect("the state directory") = state.display().to_string();
    args
}

#[test]
fn state_that_finds_no_room_is_said_and_nothing_is_attached() {
    let Some(mesh) = Mesh::new() else { return };
    let Some(node) = Node::new() else { return };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    node.add_pod(pod, &[]);
    let mut node = Some(node);
    for (disk, words) in [
        (Disk::full(), "No space left"),
        (Disk::read_only("tmpfs"), "Read-only file system"),
        (Disk::read_only("bpf"), "Read-only file system"),
    ] {
        let state = disk.path().join("osm");
        let agent = node
            .take()
            .expect("it was put back")
            .flag("--state-dir", &state);
        let attached = mesh.agent.run(&attach_args(&mesh, &state));
        for outcome in [attached, agent.run_to_end()] {
            assert_eq!(outcome.status.code(), Some(1), "{outcome}");
            let errors = outcome.stderr.lines().filter(|it| it.contains("cannot"));
            let errors: Vec<_> = errors.collect();
            assert_eq!(errors.len(), 1, "{outcome}");
            assert!(errors[0].contains(words), "{outcome}");
            assert!(
                errors[0].contains(&state.display().to_string()),
                "{outcome}"
            );
        }
        assert!(!state.exists());
        expect_direct(&mut sidecar, &app.connect(REMOTE), "remote");
        node = Some(agent);
    }
}

/// Its log is one of many things that are written to that disk.
#[test]
fn log_that_finds_no_room_ends_no_agent() {
    let (Some(world), Some(node)) = (World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    let _remote = world.outside.server("remote", &[REMOTE, OTHER]);
    let mut sidecar = pod.sidecar();
    let mut app = pod.app();
    let files = TempDir::new();
    let binary = agent::binary().expect("the agent");
    let script = format!("exec {} \"$@\" >/dev/full 2>&1", binary.display());
    let script = files.script("agent", &script);
    node.add_pod(pod, &[]);
    let _running = node.spawn(&script);
    wait("the pod is intercepted", || !is_direct(&mut app, REMOTE));
    let _ = sidecar.drain();
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    node.add_pod(pod, &[("outbound-port-exclusion-list", "81")]);
    wait("its list is in force", || is_direct(&mut app, OTHER));
}

/// For what a node that nobody can read from does.
#[track_caller]
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What can't be pinned waits; what needs no pin goes on.
#[test]
fn bpffs_that_becomes_read_only_under_the_agent_keeps_new_pods_waiting_and_no_list() {
    let Some((world, mut node)) = Node::intercepting("{}") else {
        return;
    };
    let (pod, second) = (&world.pod, world.add_pod());
    let _remote = world.outside.server("remote", &[REMOTE, OTHER]);
    let mut sidecars = [pod.sidecar(), second.sidecar()];
    let mut app = pod.app();
    remount(node.state().path(), MsFlags::MS_RDONLY);
    node.add_pod(&second, &[]);
    node.wait("it is said", |node| {
        let (code, why) = node.get("/readyz");
        code == 503 && why.contains("Read-only file system")
    });
    expect_direct(&mut sidecars[1], &second.app().connect(REMOTE), "remote");
    expect_outbound(&mut sidecars[0], &app.connect(REMOTE), REMOTE, pod.ip4());
    node.mesh("{traffic: {outboundPortExclusionList: [81]}}");
    node.wait("the list is in force", |_| is_direct(&mut app, OTHER));
    remount(node.state().path(), MsFlags::empty());
    node.wait_intercepted(&second);
    node.wait_ready();
    let _ = node.stop().succeeded();
}

/// A file with half of an answer, or none, is no answer.
#[test]
fn answer_that_finds_no_room_is_an_error() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let state = mesh.agent.state().path().display().to_string();
    let name = mesh.world.pod.name();
    for args in [
        &["status", "--agent-url", "http://127.0.0.1:9"][..],
        &["status", "-o", "json", "--agent-url", "http://127.0.0.1:9"],
        &["explain", "--pod", name, "--to", REMOTE],
        &["explain", "--pod", name, "--to", REMOTE, "-o", "json"],
        &["check", "-o", "json"],
    ] {
        let mut command = Command::new(agent::binary().expect("the agent"));
        command.args(args).args(["--state-dir", &state]);
        let full = File::options().write(true).open("/dev/full");
        let output = command.stdout(full.expect("it is there")).output();
        let output = output.expect("the agent runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains("No space left"), "{args:?}: {stderr}");
        assert!(stderr.contains("standard output"), "{args:?}: {stderr}");
    }
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
}
