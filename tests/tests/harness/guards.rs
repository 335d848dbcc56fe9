//! Processes are where they should be, and nothing outlives its guard.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use osm_tests::process::Process;
use osm_tests::{APP_UID, Cgroup, Need, Netns, SIDECAR_UID, StateDir, World, missing};

#[test]
fn processes_live_where_the_scene_says_as_whom_it_says() {
    let Some(world) = World::new() else { return };
    for (client, cgroup, uid) in [
        (world.pod.app(), world.pod.app_cgroup(), APP_UID),
        (
            world.pod.sidecar_client(),
            world.pod.sidecar_cgroup(),
            SIDECAR_UID,
        ),
    ] {
        let pid = client.pid();
        assert_eq!(cgroup.processes(), [pid]);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        let status = status.expect("a process that runs");
        for line in [
            format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n"),
            format!("Gid:\t{uid}\t{uid}\t{uid}\t{uid}\n"),
            "Groups:\t \n".to_owned(),
            "CapEff:\t0000000000000000\n".to_owned(),
        ] {
            assert!(status.contains(&line), "{line:?} is not in\n{status}");
        }
        let netns = std::fs::metadata(world.pod.netns.path()).expect("our namespace");
        let its = std::fs::metadata(format!("/proc/{pid}/ns/net")).expect("its namespace");
        assert_eq!(inode(&netns), inode(&its));
    }
}

#[test]
fn guards_dropped_leave_nothing() {
    if missing(&[Need::Root, Need::CgroupV2]) {
        return;
    }
    let Some(world) = World::new() else { return };
    let server = world.pod.server("app", &["0.0.0.0:80"]);
    let client = world.pod.app();
    let state = StateDir::new();
    assert!(state.pins().is_empty());
    let pids = [server.pid(), client.pid()];
    let dirs: [PathBuf; 4] = [
        world.pod.cgroup.path(),
        world.pod.app_cgroup().path(),
        world.pod.sidecar_cgroup().path(),
        state.path(),
    ]
    .map(Path::to_owned);
    assert!(dirs.iter().all(|dir| dir.is_dir()));
    assert!(is_mounted(state.path()));
    drop((server, client, state, world));
    for dir in &dirs {
        assert!(!dir.exists(), "{} is still there", dir.display());
        assert!(!is_mounted(dir));
    }
    for pid in pids {
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} still runs"
        );
    }
}

/// Not a test by itself: [`test_process_killed_leaves_no_process`] runs it and kills it.
#[test]
#[ignore = "run by another test"]
fn victim() {
    let Some(world) = World::new() else { return };
    let (app, sidecar) = (world.pod.app(), world.pod.sidecar());
    let cgroup = world.pod.cgroup.path().display();
    println!("victim {} {} {cgroup}", app.pid(), sidecar.pid());
    std::thread::sleep(Duration::from_mins(1));
}

#[test]
fn test_process_killed_leaves_no_process() {
    if missing(&[Need::Root, Need::CgroupV2]) {
        return;
    }
    let mut command = Command::new(std::env::current_exe().expect("this test's path"));
    command.args(["--ignored", "--exact", "guards::victim", "--nocapture"]);
    let mut victim = Process::start("victim", command);
    let words = loop {
        let line = victim
            .line(Duration::from_secs(20))
            .expect("the victim speaks");
        if let Some((_, words)) = line.split_once("victim ").filter(|it| it.1.contains('/')) {
            break words.to_owned();
        }
    };
    drop(victim);
    let words: Vec<_> = words.split(' ').collect();
    let &[app, sidecar, cgroup] = words.as_slice() else {
        panic!("not a victim's line: {words:?}");
    };
    for pid in [app, sidecar] {
        let path = format!("/proc/{pid}");
        eventually(&format!("the end of {pid}"), || !Path::new(&path).exists());
    }
    // Its cgroups stay until the next test process starts; here they are this test's to remove.
    for dir in ["app", "sidecar", ""] {
        let dir = Path::new(cgroup).join(dir);
        eventually("a cgroup without processes", || {
            std::fs::remove_dir(&dir).is_ok() || !dir.exists()
        });
    }
}

#[test]
fn namespaces_and_cgroups_are_distinct() {
    if missing(&[Need::Root, Need::CgroupV2]) {
        return;
    }
    let (first, second) = (Netns::new(), Netns::new());
    assert_ne!(first.cookie(), second.cookie());
    assert_ne!(first.path(), second.path());
    let (first, second) = (Cgroup::new(), Cgroup::new());
    assert_ne!(first.id(), second.id());
    assert_ne!(first.path(), second.path());
}

fn inode(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("our mounts");
    let path = path.to_str().expect("a plain path");
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(path))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain for {what}");
}
