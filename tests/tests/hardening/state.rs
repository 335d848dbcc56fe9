//! The state directory, as somebody else left it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use osm_tests::{Need, TempDir, missing, need::assert_private_mounts};

use crate::{
    help::{attach_at, bpftool, expect_error, expect_intercepted, pod_directory},
    mesh::{Lists, Mesh},
};

#[test]
fn lost_maps_do_not_release_pods_in_silence() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    fs::remove_file(mesh.agent.state().path().join("maps/STATE")).expect("a pin");
    let before = mesh.agent.state().pins();
    let words = ["maps are missing while 1 pods are attached"];
    expect_error(&mesh.attach(&Lists::default()), 1, &words);
    expect_error(&mesh.detach(), 1, &words);
    assert_eq!(mesh.agent.state().pins(), before);
    expect_intercepted(&mesh);
}

#[test]
fn maps_that_can_not_be_opened_are_reported_as_that() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let none: Option<&str> = None;
    let remount = |flags| {
        let path = mesh.agent.state().path();
        mount(none, path, none, MsFlags::MS_REMOUNT | flags, none).expect("a remount");
    };
    remount(MsFlags::MS_RDONLY);
    let outcome = mesh.attach(&Lists::default());
    remount(MsFlags::empty());
    expect_error(&outcome, 1, &["open the map", "Read-only"]);
    expect_intercepted(&mesh);
}

#[test]
fn pins_of_somebody_else_are_refused_untouched() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    for place in [
        "maps/theirs",
        "versions/theirs",
        "cgroups/theirs",
        "pods/theirs",
        "staging/theirs",
        "pods/00000000000000aa/theirs",
    ] {
        let Some(mesh) = Mesh::new() else { return };
        let pin = mesh.agent.state().path().join(place);
        fs::create_dir_all(pin.parent().expect("a directory")).expect("a directory");
        let create = "type array key 4 value 4 entries 1 name theirs";
        bpftool(&format!("map create {} {create}", pin.display()));
        let before = mesh.agent.state().pins();
        let outcome = attach_at(&mesh, mesh.agent.state().path());
        if place.starts_with("pods/0") {
            // It may be a pod's.
            expect_error(&outcome, 1, &["maps are missing while 1 pods"]);
        } else {
            expect_error(&outcome, 2, &["--state-dir", place, "not of this agent"]);
        }
        assert_eq!(mesh.agent.state().pins(), before);
    }
}

#[test]
fn pins_of_somebody_else_survive_the_last_pod() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pin = mesh.agent.state().path().join("maps/theirs");
    let create = "type array key 4 value 4 entries 1 name theirs";
    bpftool(&format!("map create {} {create}", pin.display()));
    let _ = mesh.detach().succeeded();
    assert_eq!(mesh.agent.state().pins(), [Path::new("maps/theirs")]);
}

#[test]
fn dead_links_are_repaired_by_the_next_attach() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    for link in ["connect4", "socket_events", "inbound"] {
        let Some(mesh) = Mesh::attached(&Lists::default()) else {
            return;
        };
        let pin = pod_directory(&mesh).join(link);
        bpftool(&format!("link detach pinned {}", pin.display()));
        let outcome = mesh.attach(&Lists::default()).succeeded();
        let words = format!("{link} was detached");
        assert!(outcome.stdout.contains("repaired"), "{outcome}");
        assert!(outcome.stdout.contains(&words), "{outcome}");
        expect_intercepted(&mesh);
        let outcome = mesh.attach(&Lists::default()).succeeded();
        assert!(outcome.stdout.contains("already"), "{outcome}");
    }
}

#[test]
fn places_that_can_not_hold_the_state_are_refused() {
    let Some(mesh) = Mesh::new() else { return };
    let files = TempDir::new();
    let file = files.file("file", "data");
    let pod = &mesh.world.pod;
    let in_cgroup = pod.cgroup.path().join("state");
    let dotted = mesh.agent.state().path().join("osm.d");
    let below_file = file.join("below");
    for (path, words) in [
        (in_cgroup.as_path(), "cgroup2"),
        (Path::new("/proc/self/state"), "proc"),
        (Path::new("/sys/kernel/state"), "sysfs"),
        (&dotted, "no dots"),
        (&file, "is not a directory"),
        (&below_file, "is not a directory"),
    ] {
        expect_error(&attach_at(&mesh, path), 2, &["--state-dir", words]);
    }
    assert!(!in_cgroup.exists(), "no cgroup was made");
}

#[test]
fn unknown_pod_is_answered_with_those_that_are_attached() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let state = mesh.agent.state().path().display().to_string();
    let outcome = mesh
        .agent
        .run(&["detach", "--pod", "nobody", "--state-dir", &state]);
    expect_error(
        &outcome,
        2,
        &["no such pod is attached", mesh.world.pod.name()],
    );
}

#[test]
fn pins_are_root_s_alone() {
    let Some(mesh) = Mesh::new() else { return };
    assert_private_mounts();
    let files = TempDir::new();
    let state = files.path().join("state");
    let attached = attach_at(&mesh, &state);
    let mut found = Vec::new();
    look(&state, &mut found);
    umount2(&state, MntFlags::MNT_DETACH).expect("a file system of the agent's is there");
    let _ = attached.succeeded();
    let (path, user, mode) = &found[0];
    assert_eq!((path, *user, mode & 0o777), (&state, 0, 0o700));
    let pins: Vec<_> = found
        .iter()
        .filter(|(.., mode)| mode & 0o170_000 == 0o100_000)
        .collect();
    assert!(pins.len() > 20, "{found:?}");
    for (path, user, mode) in pins {
        assert_eq!((*user, mode & 0o077), (0, 0), "{}", path.display());
    }
}

/// A directory and all that is in it, with users and modes.
fn look(path: &Path, found: &mut Vec<(PathBuf, u32, u32)>) {
    let about = fs::symlink_metadata(path).expect("it is there");
    found.push((path.to_owned(), about.uid(), about.mode()));
    for entry in fs::read_dir(path).into_iter().flatten() {
        look(&entry.expect("an entry").path(), found);
    }
}
