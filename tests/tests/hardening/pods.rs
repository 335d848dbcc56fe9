//! Pods and places that are not what they seem.

use std::{fs, process::Command, thread, time::Duration};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use osm_tests::{Need, StateDir, TempDir, agent, missing};

use crate::{
    help::{attach_args, expect_error, expect_intercepted},
    mesh::{Lists, Mesh, expect_direct, expect_outbound},
};

#[test]
fn agent_s_own_cgroup_and_the_root_are_refused_through_any_mount() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let second = TempDir::new();
    let none: Option<&str> = None;
    mount(
        Some("none"),
        second.path(),
        Some("cgroup2"),
        MsFlags::empty(),
        none,
    )
    .expect("a second mount of the hierarchy");
    // The agent runs in a cgroup of the test's own: were it not refused, nobody else is touched.
    let holder = osm_tests::Cgroup::new();
    let name = holder.path().file_name().expect("a name");
    let cgroup = second.path().join(name);
    let mut results = Vec::new();
    for root in [None, Some(second.path())] {
        let mut args = attach_args(pod, "own", &cgroup, mesh.agent.state().path());
        if let Some(root) = root {
            args.extend(["--cgroup-root".into(), root.display().to_string()]);
        }
        let procs = holder.path().join("cgroup.procs");
        let output = Command::new("sh")
            .arg("-c")
            .arg("echo $$ > \"$0\" && exec \"$@\"")
            .arg(procs)
            .arg(agent::binary().expect("the agent"))
            .args(args)
            .output()
            .expect("sh runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        results.push((output.status.code(), stderr));
    }
    let is_refused = |(code, stderr): &(Option<i32>, String)| {
        *code == Some(2) && stderr.contains("very process")
    };
    let own_is_refused = results.iter().all(is_refused);
    // Only an agent that sees through the mount is asked about the root.
    let root = own_is_refused.then(|| {
        let args = attach_args(pod, "root", second.path(), mesh.agent.state().path());
        mesh.agent.run(&args)
    });
    umount2(second.path(), MntFlags::MNT_DETACH).expect("the second mount goes");
    assert!(own_is_refused, "{results:?}");
    expect_error(&root.expect("it was tried"), 2, &["is the root cgroup"]);
    assert!(mesh.agent.state().pins().is_empty());
}

#[test]
fn second_interceptor_on_a_cgroup_below_is_refused() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let other = StateDir::new();
    let pod = &mesh.world.pod;
    let args = attach_args(pod, "below", pod.app_cgroup().path(), other.path());
    expect_error(
        &mesh.agent.run(&args),
        2,
        &["--netns", "intercepted already"],
    );
    assert!(other.pins().is_empty());
}

#[test]
fn changed_addresses_are_taken_over_by_the_next_attach() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let mut app = pod.app();
    pod.netns.ip(&["addr add 10.77.1.9/24 dev eth0"]);
    let outcome = mesh.attach(&Lists::default()).succeeded();
    assert!(outcome.stdout.contains("changed"), "{outcome}");
    expect_direct(&mut sidecar, &app.connect("10.77.1.9:8080"), "local");
    let outcome = mesh.attach(&Lists::default()).succeeded();
    assert!(outcome.stdout.contains("already"), "{outcome}");
    pod.netns.ip(&["addr del 10.77.1.9/24 dev eth0"]);
    let outcome = mesh.attach(&Lists::default()).succeeded();
    assert!(outcome.stdout.contains("changed"), "{outcome}");
    let connection = app.connect("10.77.1.9:8080");
    assert_eq!(
        sidecar
            .accepted_from(connection.local())
            .original_destination()
            .ip()
            .to_string(),
        "10.77.1.9"
    );
}

#[test]
fn addresses_that_are_not_the_pod_s_are_refused() {
    let Some(mesh) = Mesh::new() else { return };
    for address in [
        "10.77.1.3",
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
    ] {
        let outcome = mesh
            .attach_without_lists()
            .option("--pod-address", address)
            .run();
        let flag = format!("--pod-address {address}");
        expect_error(&outcome, 2, &[&flag, "it has", "10.77.1.2"]);
        assert!(mesh.agent.state().pins().is_empty());
    }
}

#[test]
fn name_of_a_dead_pod_is_free_again() {
    let Some(mesh) = Mesh::new() else { return };
    let gone = mesh.world.add_pod();
    let state = mesh.agent.state().path();
    let args = attach_args(&gone, "web-0", gone.cgroup.path(), state);
    let _ = mesh.agent.run(&args).succeeded();
    drop(gone);
    // The kernel takes a namespace down a moment after the last reference.
    thread::sleep(Duration::from_secs(1));
    let pod = &mesh.world.pod;
    let _ = mesh
        .agent
        .run(&attach_args(pod, "web-0", pod.cgroup.path(), state))
        .succeeded();
    let pods = fs::read_dir(state.join("pods")).expect("the pods");
    assert_eq!(pods.count(), 1);
    expect_intercepted(&mesh);
}

/// Before Linux 5.14, a namespace has the number of one that is gone.
#[test]
fn pod_is_attached_in_place_of_a_dead_one_with_another_name() {
    let Some(mesh) = Mesh::new() else { return };
    let state = mesh.agent.state().path();
    let remote = "198.51.100.10:80";
    let _remote = mesh.world.outside.server("remote", &[remote]);
    for name in ["web-0", "web-1", "web-2"] {
        let pod = mesh.world.add_pod();
        let args = attach_args(&pod, name, pod.cgroup.path(), state);
        let _ = mesh.agent.run(&args).succeeded();
        let mut sidecar = pod.sidecar();
        expect_outbound(&mut sidecar, &pod.app().connect(remote), remote, pod.ip4());
        drop((sidecar, pod));
        // The kernel takes a namespace down a moment after the last reference.
        thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn link_local_address_is_the_pod_s_own() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    pod.netns.ip(&["addr add fe80::77/64 dev eth0 nodad"]);
    let dual = || mesh.attach_without_lists().option("--ip-families", "dual");
    let _ = dual().run().succeeded();
    let mut sidecar = pod.sidecar_with(&["--outbound", "[::]:15001", "--inbound", "[::]:15003"]);
    let _local = pod.server("local", &["[::]:8080"]);
    let index = pod.netns.run(|| nix::net::if_::if_nametoindex("eth0"));
    let to = format!("[fe80::77%{}]:8080", index.expect("it is there"));
    expect_direct(&mut sidecar, &pod.app().connect(to.as_str()), "local");
}
