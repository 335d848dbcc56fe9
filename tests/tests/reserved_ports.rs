//! The sidecar's ports are for the sidecar: bind() refuses them to everybody else, and who had one before is
//! never taken for it.

mod mesh;

use std::time::Duration;

use mesh::{Lists, Mesh, expect_outbound, expect_refused};
use osm_tests::{
    Client, Dial, Need, Udp, actor::PATIENCE, answer::Answer, missing, request::Request,
};
use serde_json::{Value, json};

const REMOTE: &str = "198.51.100.10:80";
const LOCAL: &str = "10.77.1.2:8080";
const GUARDED: [u16; 4] = [15000, 15001, 15003, 15010];
const COUNTER: &str = "refuse-reserved-port-bind";

/// Of every kind that takes a port away from the sidecar.
fn hosts() -> Vec<&'static str> {
    let v4 = ["0.0.0.0", "127.0.0.1", "10.77.1.2"];
    let v6 = ["[::]", "[::1]", "[fd77:1::2]", "[::ffff:127.0.0.1]"];
    let has_v6 = !missing(&[Need::Ipv6]);
    v4.into_iter()
        .chain(v6.into_iter().filter(|_| has_v6))
        .collect()
}

#[track_caller]
fn expect_free(client: &mut Client, address: &str) {
    let listener = client.listen(address);
    assert_eq!(listener.error, None, "{address}");
    client.close(listener.id);
}

#[test]
fn nobody_but_the_sidecar_is_bound_to_its_ports() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut refused = 0;
    for mut thief in [pod.app(), pod.client(0)] {
        for host in hosts() {
            for port in GUARDED {
                let address = format!("{host}:{port}");
                assert_eq!(thief.listen(&address).error(), "EPERM", "{address}");
                refused += 1;
            }
        }
        // Nor does it take one for a connection of its own.
        for dial in [
            Dial::to(REMOTE),
            Dial::to(REMOTE).v6(),
            Dial::to(REMOTE).mptcp(),
        ] {
            if dial.mptcp && missing(&[Need::Mptcp]) {
                continue;
            }
            let connection = thief.connect(dial.bind("0.0.0.0:15001"));
            assert_eq!(connection.error(), "EPERM");
            refused += 1;
        }
    }
    let said = mesh.status();
    assert_eq!(said["counters"][COUNTER], refused, "{said}");
    let mut owner = pod.sidecar_client();
    for host in hosts() {
        for port in GUARDED {
            expect_free(&mut owner, &format!("{host}:{port}"));
        }
    }
    assert_eq!(mesh.status()["counters"][COUNTER], refused);
}

#[test]
fn other_ports_and_other_protocols_are_left_alone() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let mut app = mesh.world.pod.app();
    for host in hosts() {
        for port in [0, 1, 14999, 15002, 15004, 15009, 15011, 15901, 15904, 65535] {
            let address = format!("{host}:{port}");
            let listener = app.listen(&address);
            assert_eq!(listener.error, None, "{address}");
            app.close(listener.id);
        }
    }
    for port in GUARDED {
        let udp = Udp {
            to: "198.51.100.10:9".parse().expect("an address"),
            from: Some(([0, 0, 0, 0], port).into()),
            text: "x".into(),
            connected: true,
            timeout_ms: 1,
        };
        let answer = app.ask(&Request::Udp(udp), Duration::from_secs(10));
        // Nobody answers; bound it was.
        let Answer::Echo(echo) = answer else {
            panic!("{answer:?}")
        };
        assert_ne!(echo.error.as_deref(), Some("EPERM"), "{port}");
        assert_ne!(echo.error.as_deref(), Some("EADDRINUSE"), "{port}");
    }
    assert_eq!(mesh.status()["counters"][COUNTER], 0);
    assert_eq!(mesh.status()["warnings"], json!([]));
}

/// In another namespace of the same cgroup, such as a container engine's in the pod, the ports are nobody's.
#[test]
fn namespace_that_is_not_enrolled_is_left_alone() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let other = mesh.world.add_pod_in(mesh.world.pod.cgroup.child("inner"));
    let mut app = other.app();
    for port in GUARDED {
        expect_free(&mut app, &format!("0.0.0.0:{port}"));
    }
    assert_eq!(mesh.status()["counters"][COUNTER], 0);
}

#[test]
fn guard_goes_off_and_on_under_a_running_pod() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let (mut thief, mut app) = (pod.app(), pod.app());
    let _ = mesh.attach(&Lists::default()).succeeded();
    assert_eq!(thief.listen("0.0.0.0:15001").error(), "EPERM");
    let _ = mesh.attach_open().succeeded();
    assert_eq!(mesh.status()["policy"]["reserved_port_guard"], false);
    for port in GUARDED {
        let listener = thief.listen(&format!("0.0.0.0:{port}"));
        assert_eq!(listener.error, None, "{port}");
        // It has the port, and not what is redirected.
        expect_refused(&mut app, Dial::to(REMOTE));
        let mut client = mesh.world.outside.client();
        expect_refused(&mut client, Dial::to(LOCAL));
        thief.close(listener.id);
    }
    // The field is missing: it is on.
    let _ = mesh.attach(&Lists::default()).succeeded();
    assert_eq!(mesh.status()["policy"]["reserved_port_guard"], true);
    assert_eq!(thief.listen("0.0.0.0:15001").error(), "EPERM");
    let mut sidecar = pod.sidecar();
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
}

#[test]
fn listener_from_before_the_enrolment_is_never_the_sidecar_s() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let mut thief = pod.server("thief", &["0.0.0.0:15001", "0.0.0.0:15003"]);
    let mut early = pod.app();
    let bound = early.listen("127.0.0.1:15000");
    assert_eq!(bound.error, None);
    let _ = mesh.attach(&Lists::default()).succeeded();
    expect_refused(&mut pod.app(), Dial::to(REMOTE));
    expect_refused(&mut mesh.world.outside.client(), Dial::to(LOCAL));
    expect_refused(&mut pod.sidecar_client(), Dial::to(LOCAL));
    thief.expect_no_connection();
    let said = mesh.status();
    assert_eq!(
        said["listeners"],
        json!({"outbound": false, "inbound": false})
    );
    // Once it lets go, it does not get the port again.
    early.close(bound.id);
    assert_eq!(early.listen("127.0.0.1:15000").error(), "EPERM");
    thief.stop();
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let connection = pod.app().connect(REMOTE);
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
}

/// The kernel says nothing of a port that it chooses itself.
#[test]
fn port_that_the_kernel_chooses_is_not_guarded_and_gets_nothing() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    pod.netns
        .sysctl("net/ipv4/ip_local_port_range", "15001 15001");
    let mut app = pod.app();
    let thief = app.listen("0.0.0.0:0");
    assert_eq!(thief.error, None);
    assert_eq!(thief.local.map(|local| local.port()), Some(15001));
    expect_refused(&mut app, Dial::to(REMOTE).bind("0.0.0.0:2000"));
    assert_eq!(mesh.status()["counters"]["refuse-no-outbound-listener"], 1);
    // Whose it is when it is free again, the guard decides.
    app.close(thief.id);
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let connection = app.connect(Dial::to(REMOTE).bind("0.0.0.0:2001"));
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
}

#[test]
fn who_was_refused_is_told() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let state = mesh.agent.state().path().display().to_string();
    let args = ["monitor", "-o", "json", "--state-dir", &state];
    let mut monitor = mesh
        .agent
        .start(&[&args[..], &["--reason", COUNTER, "--count", "1"]].concat());
    while !monitor.stderr().contains("listening to") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut thief = pod.app();
    let _ = thief.listen("127.0.0.1:15003");
    let line = monitor.line(PATIENCE).expect("an event");
    let event: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(event["destination"], "127.0.0.1:15003", "{event}");
    assert_eq!(event["process"], thief.pid(), "{event}");
    assert_eq!(event["uid"], osm_tests::APP_UID, "{event}");
    assert_eq!(event["verdict"], "refuse", "{event}");
    let said = mesh.status();
    let warning = &said["warnings"][0];
    let what = warning["what"].as_str().expect("a text");
    assert!(what.contains("15000, 15001, 15003 or 15010"), "{said}");
    assert!(what.contains("refused so far: 1"), "{said}");
    let todo = warning["todo"].as_str().expect("a text");
    assert!(todo.contains("reservedPortGuard"), "{said}");
}
