//! Somebody else's BPF programs on the pod's cgroups. On a cgroup below, they run before ours, which decide on what
//! they have made of the call, and have the last word.

mod mesh;

use std::net::{SocketAddr, SocketAddrV4};

use mesh::{Lists, Mesh, address, expect_direct, expect_outbound};
use osm_tests::{Dial, sys::foreign::Program};

const REMOTE: &str = "198.51.100.10:80";
const OTHER: &str = "198.51.100.11:81";
const EXCLUDED: &str = "203.0.113.7:81";
const LOCAL: &str = "127.0.0.1:8080";
/// Stands for a destination inside the pod, if for any.
const STAND_IN: &str = "127.100.1.1:15001";

const LISTS: Lists<'_> = Lists {
    excluded_ranges: "203.0.113.0/24",
    included_ranges: "",
    excluded_ports: "",
    excluded_inbound_ports: "",
};

fn v4(text: &str) -> SocketAddrV4 {
    match address(text) {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => panic!("{text} is not IPv4"),
    }
}

#[test]
fn program_below_ours_changes_what_is_dialled_and_not_what_becomes_of_it() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let outside = &mesh.world.outside;
    let _remote = outside.server("remote", &[REMOTE, OTHER, EXCLUDED]);
    let _local = pod.server("local", &[LOCAL]);
    let mut app = pod.app();
    let redirects = |to| {
        let program = Program::redirects(80, v4(to));
        let link = program.attach(pod.app_cgroup().path());
        link.expect("a program below ours")
    };
    // Where it leads is decided on as if it had been dialled.
    let link = redirects(OTHER);
    expect_outbound(&mut sidecar, &app.connect(REMOTE), OTHER, pod.ip4());
    drop(link);
    let link = redirects(EXCLUDED);
    expect_direct(&mut sidecar, &app.connect(REMOTE), "remote");
    assert_eq!(mesh.counted("pass-excluded-range"), 1);
    drop(link);
    let link = redirects(LOCAL);
    expect_direct(&mut sidecar, &app.connect(REMOTE), "local");
    assert_eq!(mesh.counted("pass-local"), 1);
    drop(link);
    // No destination is made up for the sidecar.
    let link = redirects(STAND_IN);
    let connection = app.connect(Dial::to(REMOTE).no_greeting());
    let accepted = sidecar.accepted_from(connection.local());
    let told = accepted.original_destination;
    assert!(told.is_err(), "{told:?}");
    drop(link);
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
}

/// What ours has made of the call, it never sees.
#[test]
fn program_below_ours_takes_no_connection_away_from_the_sidecar() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut remote = mesh.world.outside.server("remote", &[REMOTE, OTHER]);
    let mut sidecar = pod.sidecar();
    let mut app = pod.app();
    let program = Program::redirects(15001, v4(OTHER));
    let below = program.attach(pod.app_cgroup().path());
    let below = below.expect("a program below ours");
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    // The pod's own cgroup is nobody's but the node's root: who attaches there comes after us.
    drop(below);
    let _ = remote.drain();
    let beside = program.attach(pod.cgroup.path());
    let _beside = beside.expect("a program beside ours");
    let _ = app.connect(Dial::to(REMOTE).no_greeting());
    sidecar.expect_no_connection();
    assert_eq!(remote.next_accepted().listen, address(OTHER));
}
