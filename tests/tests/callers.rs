//! Who calls, and with what marks on the socket: each call is judged by the thread that makes it, and by nothing
//! that it says of itself.

mod mesh;

use std::time::Duration;

use mesh::{Lists, Mesh, expect_outbound};
use osm_tests::{APP_UID, Dial, Many, SIDECAR_UID};

const REMOTE: &str = "198.51.100.10:80";
const COUNT: u64 = 400;

/// The C library gives all threads of a process one user; the kernel does not ask for that.
#[test]
fn threads_of_one_process_go_each_by_its_own_user() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _sidecar = pod.sidecar_with(&["--quiet"]);
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut root = pod.client(0);
    let users = [APP_UID, SIDECAR_UID, 0, SIDECAR_UID + 1, SIDECAR_UID];
    let redirected = mesh.counted("redirect-outbound");
    let passed = mesh.counted("pass-sidecar");
    let order = |user| (user, Many::to(REMOTE, COUNT).concurrency(2));
    let tallies = root.as_users(users.map(order).to_vec());
    let (mut by_sidecar, mut by_others) = (0, 0);
    for (user, tally) in users.iter().zip(&tallies) {
        assert_eq!(tally.succeeded, COUNT, "{user}: {tally:?}");
        assert_eq!(tally.wrong_peer, 0, "{user}: {tally:?}");
        if *user == SIDECAR_UID {
            assert_eq!(tally.around, COUNT, "{user}: {tally:?}");
            by_sidecar += COUNT;
        } else {
            assert_eq!(tally.around, 0, "{user}: {tally:?}");
            by_others += COUNT;
        }
    }
    assert_eq!(mesh.counted("redirect-outbound") - redirected, by_others);
    // Its own, and those that it made for the others.
    assert_eq!(
        mesh.counted("pass-sidecar") - passed,
        by_sidecar + by_others
    );
}

/// Not even where its packets go by another table of routes than others.
#[test]
fn mark_on_a_socket_changes_nothing() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let mut remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut root = pod.client(0);
    for mark in [1, 1500, 0x1337, u32::MAX] {
        let connection = root.connect(Dial::to(REMOTE).mark(mark));
        expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    }
    pod.netns.ip(&[
        "route add default via 10.77.1.1 dev eth0 table 100",
        "rule add fwmark 1 table 100 priority 1",
        "rule add priority 2 table local",
        "rule del priority 0",
    ]);
    let _ = remote.drain();
    // It leaves the pod for where nobody has the address that stands for a destination.
    let dial = Dial::to(REMOTE).mark(1).timeout(Duration::from_millis(300));
    let connection = root.connect(dial);
    assert!(!connection.connected, "{connection:?}");
    let marked = Dial::to(REMOTE).mark(1).device("eth0");
    let connection = root.connect(marked.timeout(Duration::from_millis(300)));
    assert!(!connection.connected, "{connection:?}");
    sidecar.expect_no_connection();
    remote.expect_no_connection();
    let connection = root.connect(Dial::to(REMOTE).mark(2));
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
}
