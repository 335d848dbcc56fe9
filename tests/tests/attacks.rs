//! What an application tries that wants to get around the sidecar, or in the way of others.

mod mesh;

use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use mesh::{Lists, Mesh, SHARED, expect_outbound, expect_refused};
use nix::sys::signal::Signal;
use osm_ebpf_common::{
    address::Address,
    maps::{HandshakeKey, OriginalDestination},
};
use osm_tests::{Dial, Listener, Need, missing, sys::foreign::Program};

const REMOTE: &str = "198.51.100.10:80";
const LOCAL: &str = "10.77.1.2:8080";

/// Whatever address the sidecar listens on, and whoever else listens on the same port: the
/// sidecar gets the connections, and nobody gets them once it is gone.
#[test]
fn listener_beside_the_sidecar_s_gets_nothing() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    for (sidecar, thief, serves) in [
        ("[::]:15001,v6only", "0.0.0.0:15001", false),
        ("10.77.1.2:15001", "127.0.0.1:15001", true),
        ("127.64.7.7:15001", "127.0.0.1:15001", true),
        ("127.0.0.1:15001", "127.64.0.1:15001", true),
        ("[::1]:15001", "127.0.0.1:15001", false),
        ("[fd77:1::2]:15001", "0.0.0.0:15001", false),
    ] {
        let Some(mesh) = Mesh::new() else { return };
        let _ = mesh.attach_open().succeeded();
        let pod = &mesh.world.pod;
        let _remote = mesh.world.outside.server("remote", &[REMOTE]);
        let mut thief = pod.server("thief", &[thief]);
        let mut proxy = pod.sidecar_with(&["--outbound", sidecar, "--no-inbound"]);
        let mut app = pod.app();
        if serves {
            let connection = app.connect(REMOTE);
            assert_eq!(connection.answered_by(), "remote", "{sidecar}");
            let accepted = proxy.accepted_from(connection.local());
            assert_eq!(accepted.listener, Listener::Outbound);
            assert_eq!(accepted.original_destination(), mesh::address(REMOTE));
        } else {
            expect_refused(&mut app, Dial::to(REMOTE));
        }
        proxy.stop();
        expect_refused(&mut app, Dial::to(REMOTE));
        thief.expect_no_connection();
    }
}

/// The sidecar takes an unknown destination for no destination, not for the address that the
/// connection happened to be sent to.
#[test]
fn app_dials_the_sidecar_s_addresses_itself_learns_and_forges_nothing() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    // Conntrack would have an answer.
    let rule = "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT";
    let args: Vec<_> = ["-w"].into_iter().chain(rule.split(' ')).collect();
    assert!(pod.netns.command("iptables-legacy", &args).status.success());
    let mut app = pod.app();
    for to in ["127.64.3.4:15001", "127.100.1.1:15003"] {
        let connection = app.connect(Dial::to(to).no_greeting());
        let accepted = sidecar.accepted_from(connection.local());
        let told = accepted.original_destination;
        assert_eq!(
            told.as_ref().err().map(String::as_str),
            Some("EPERM"),
            "{to}: {told:?}"
        );
    }
}

#[test]
fn pod_with_a_hanging_sidecar_takes_no_more_than_its_share() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let (pod, second) = (&mesh.world.pod, mesh.world.add_pod());
    let _ = mesh.agent.attach(&second).run().succeeded();
    pod.netns.sysctl("net/core/somaxconn", "4");
    let mut hanging = pod.sidecar();
    hanging.process().signal(Signal::SIGSTOP);
    let mut apps = [(); 5].map(|()| pod.app());
    let mut ids = Vec::new();
    let mut refused = 0;
    // Half of one share each; more sockets than a process may have are not needed.
    for (i, app) in apps.iter_mut().enumerate() {
        for n in 0..900 {
            let to = format!("203.0.113.{}:{}", i + 1, 1000 + n);
            let dial = Dial::to(&to)
                .no_greeting()
                .nonblocking()
                .timeout(Duration::ZERO);
            let connection = app.connect(dial);
            ids.push((i, connection.id));
            refused += u32::from(connection.error.as_deref() == Some("EPERM"));
        }
    }
    assert!(
        (200..=600).contains(&refused),
        "{refused} of 4500 were refused, 4096 are its share"
    );
    // The other pod does not notice.
    let mut sidecar = second.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    for _ in 0..20 {
        expect_outbound(
            &mut sidecar,
            &second.app().connect(REMOTE),
            REMOTE,
            second.ip4(),
        );
    }
    // And what was taken is given back.
    for (i, id) in ids {
        apps[i].reset(id);
    }
    hanging.process().signal(Signal::SIGCONT);
    let connection = apps[0].connect(REMOTE);
    assert_eq!(connection.answered_by(), "remote");
}

/// The memory that the kernel gives a socket for its options is the application's to use up, or, with rights
/// over its network, to take away.
#[test]
fn socket_that_has_no_room_for_a_note_is_refused() {
    let Some(mesh) = Mesh::handing_over(true) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    pod.netns.sysctl("net/core/optmem_max", "0");
    let refused = app.connect(Dial::to(REMOTE).no_greeting());
    assert_eq!(refused.error(), "EPERM");
    assert_eq!(mesh.counted("refuse-no-memory"), 1);
    sidecar.expect_no_connection();
    pod.netns.sysctl("net/core/optmem_max", "131072");
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
}

/// Its own address, as an answer, would have the sidecar call itself.
#[test]
fn sidecar_is_told_nothing_of_an_ipv6_connection_whose_note_found_no_room() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(mesh) = Mesh::new() else { return };
    let mesh = mesh.with_flag("--ip-families", "dual");
    let _ = mesh.attach(&Lists::default()).succeeded();
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar_with(&["--outbound", "[::]:15001", "--inbound", "[::]:15003"]);
    let mut app = pod.app();
    let pin = MapData::from_pin(mesh.agent.state().map("HANDSHAKES")).expect("the map");
    let mut notes: HashMap<_, HandshakeKey, OriginalDestination> = Map::from_map_data(pin)
        .and_then(HashMap::try_from)
        .expect("a hash map");
    let somebody_s = OriginalDestination::new(Address::LOCALHOST_V4, 1, 1);
    let full = (1..=u64::MAX).find(|pod| {
        let key = HandshakeKey::of_destination(u64::MAX - pod, Address::LOCALHOST_V4, 1);
        notes.insert(key, somebody_s, 0).is_err()
    });
    assert!(full > Some(100_000), "{full:?}");
    let connection = app.connect(Dial::to("[2001:db8::10]:80").no_greeting());
    let accepted = sidecar.accepted_from(connection.local());
    // The kernel's own error, where it knows of connection tracking.
    let told = accepted.original_destination.expect_err("it is lost");
    assert!(
        ["EPERM", "ENOENT", "ENOPROTOOPT"].contains(&told.as_str()),
        "{told}"
    );
    assert_eq!(mesh.counted("lost-destination"), 1);
    // Who dials it by itself is told so.
    let own = app.connect(Dial::to("[::1]:15001").no_greeting());
    let accepted = sidecar.accepted_from(own.local());
    assert_eq!(
        accepted.original_destination(),
        mesh::address("[::1]:15001")
    );
}

#[test]
fn multicast_and_broadcast_are_left_to_the_kernel_which_refuses_them() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let mut sidecar = mesh.world.pod.sidecar();
    let mut app = mesh.world.pod.app();
    for (to, count) in [("224.0.0.1:80", 1), ("255.255.255.255:80", 2)] {
        let refused = app.connect(Dial::to(to).no_greeting());
        assert!(!refused.connected, "{refused:?}");
        assert_eq!(mesh.counted("pass-unroutable"), count, "{to}");
    }
    sidecar.expect_no_connection();
}

#[test]
fn more_listeners_than_are_kept_come_and_go() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let _local = pod.server("local", &["127.0.0.1:8080"]);
    let old = pod.sidecar_with(&["--workers", "80", "--quiet"]);
    let _new = [(); 4].map(|()| pod.sidecar_with(&SHARED));
    old.stop();
    let (mut app, mut client) = (pod.app(), mesh.world.outside.client());
    for _ in 0..10 {
        assert_eq!(app.connect(REMOTE).answered_by(), "remote");
        assert_eq!(client.connect(LOCAL).answered_by(), "local");
    }
}

/// A program of somebody else's in the pod also asks for the socket's state changes.
#[test]
fn foreign_program_in_the_pod_makes_no_note_stay() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    mesh.use_up_known_destinations();
    let _link = Program::asks_for_state_changes()
        .attach(pod.app_cgroup().path())
        .expect("a program below ours");
    pod.netns.sysctl("net/core/somaxconn", "4");
    let mut sidecar = pod.sidecar();
    sidecar.process().signal(Signal::SIGSTOP);
    let mut app = pod.app();
    let ids: Vec<_> = (0..30)
        .map(|i| {
            let dial = Dial::to(&format!("203.0.113.7:{}", 9000 + i));
            let limit = Duration::from_millis(10);
            app.connect(dial.no_greeting().nonblocking().timeout(limit))
                .id
        })
        .collect();
    assert!(notes(&mesh) > 10, "the sidecar's queue is full");
    for id in ids {
        app.close(id);
    }
    let start = std::time::Instant::now();
    while notes(&mesh) > 0 {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{} stay",
            notes(&mesh)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    sidecar.process().signal(Signal::SIGCONT);
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    assert_eq!(app.connect(REMOTE).answered_by(), "remote");
}

fn notes(mesh: &Mesh) -> usize {
    mesh.agent.state().handshakes().0
}
