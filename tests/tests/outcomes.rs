//! The outcome table of `spec.md`: one test for each row, IPv4 and v4-mapped.

mod mesh;

use mesh::{
    Lists, Mesh, both_families, expect_direct, expect_inbound, expect_outbound, expect_redirected,
    expect_refused,
};
use osm_tests::request::Request;
use osm_tests::{Dial, Listener, Udp};

#[test]
fn app_to_remote_any_port_lands_on_outbound_listener() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let ports = [1, 80, 443, 15000, 15001, 15003, 15010, 15901, 65535];
    let listen: Vec<_> = ports
        .iter()
        .map(|port| format!("198.51.100.10:{port}"))
        .collect();
    let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
    let _remote = mesh.world.outside.server("remote", &listen);
    let mut app = pod.app();
    for to in listen {
        for dial in both_families(to) {
            let connection = app.connect(dial.payload("hello"));
            assert_eq!(connection.answered_by(), "remote");
            assert_eq!(connection.echoed.as_deref(), Some("hello"));
            expect_outbound(&mut sidecar, &connection, to, pod.ip4());
        }
    }
    sidecar.expect_no_connection();
}

#[test]
fn app_to_excluded_or_not_included_passes() {
    let lists = Lists {
        excluded_ranges: "198.51.100.11/32, 192.0.2.0/24",
        included_ranges: "198.51.100.0/24,192.0.2.0/28",
        excluded_ports: "81",
        ..Lists::default()
    };
    let Some(mesh) = Mesh::attached(&lists) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server(
        "remote",
        &[
            "198.51.100.10:80",
            "198.51.100.10:81",
            "198.51.100.11:80",
            "203.0.113.7:80",
            "192.0.2.20:80",
        ],
    );
    let mut app = pod.app();
    for direct in [
        "198.51.100.10:81",
        "198.51.100.11:80",
        "203.0.113.7:80",
        "192.0.2.20:80",
    ] {
        for dial in both_families(direct) {
            expect_direct(&mut sidecar, &app.connect(dial), "remote");
        }
    }
    for dial in both_families("198.51.100.10:80") {
        expect_outbound(
            &mut sidecar,
            &app.connect(dial),
            "198.51.100.10:80",
            pod.ip4(),
        );
    }
}

#[test]
fn app_to_loopback_or_own_address_passes() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _local = pod.server("local", &["0.0.0.0:8080", "0.0.0.0:15010", "0.0.0.0:15000"]);
    let mut app = pod.app();
    for to in [
        "127.0.0.1:8080",
        "127.0.0.2:8080",
        "127.255.0.1:8080",
        "10.77.1.2:8080",
        "10.77.1.2:15010",
        "127.0.0.1:15000",
        "0.0.0.0:8080",
    ] {
        for dial in both_families(to) {
            let connection = app.connect(dial);
            assert_eq!(connection.error, None, "{to}");
            expect_direct(&mut sidecar, &connection, "local");
        }
    }
    // Bound to the pod's address, 0.0.0.0 is that address.
    let connection = app.connect(Dial::to("0.0.0.0:8080").bind("10.77.1.2:0"));
    expect_direct(&mut sidecar, &connection, "local");
    // The sidecar's own ports are reached like any other.
    for (to, listener) in [
        ("127.0.0.1:15001", Listener::Outbound),
        ("10.77.1.2:15003", Listener::Inbound),
    ] {
        let connection = app.connect(Dial::to(to).no_greeting());
        let accepted = sidecar.accepted_from(connection.local());
        assert_eq!(accepted.listener, listener);
        assert_eq!(accepted.original_destination(), mesh::address(to));
    }
}

#[test]
fn sidecar_to_remote_passes() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh
        .world
        .outside
        .server("remote", &["198.51.100.10:80", "203.0.113.7:15001"]);
    let mut caller = pod.sidecar_client();
    for to in ["198.51.100.10:80", "203.0.113.7:15001"] {
        for dial in both_families(to) {
            expect_direct(&mut sidecar, &caller.connect(dial), "remote");
        }
    }
}

#[test]
fn sidecar_to_localhost_passes() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _local = pod.server("local", &["127.0.0.1:8080"]);
    let mut caller = pod.sidecar_client();
    for to in ["127.0.0.1:8080", "0.0.0.0:8080"] {
        for dial in both_families(to) {
            expect_direct(&mut sidecar, &caller.connect(dial), "local");
        }
    }
}

#[test]
fn sidecar_to_pod_lands_on_inbound_listener() {
    // Exclusions do not apply to the sidecar's own calls to the pod.
    let lists = Lists {
        excluded_inbound_ports: "8080",
        excluded_ports: "8080",
        excluded_ranges: "10.77.1.0/24",
        ..Lists::default()
    };
    let Some(mesh) = Mesh::attached(&lists) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _local = pod.server("local", &["127.0.0.1:8080", "127.0.0.1:15010"]);
    let mut caller = pod.sidecar_client();
    for (to, own) in [
        ("10.77.1.2:8080", pod.ip4()),
        ("10.77.1.2:15010", pod.ip4()),
        ("127.0.0.2:8080", [127, 0, 0, 1].into()),
    ] {
        for dial in both_families(to) {
            let connection = caller.connect(dial);
            assert_eq!(connection.answered_by(), "local");
            expect_redirected(&mut sidecar, Listener::Inbound, &connection, to, own);
        }
    }
    // 0.0.0.0 from a socket bound to the pod's address is the pod's address.
    let connection = caller.connect(Dial::to("0.0.0.0:8080").bind("10.77.1.2:0"));
    assert_eq!(
        sidecar.accepted_from(connection.local()).listener,
        Listener::Inbound
    );
}

#[test]
fn outside_to_pod_any_port_lands_on_inbound_listener() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _local = pod.server("local", &["127.0.0.1:8080"]);
    let mut client = mesh.world.outside.client();
    let connection = client.connect(
        Dial::to("10.77.1.2:8080")
            .bind("203.0.113.7:0")
            .payload("hi"),
    );
    assert_eq!(connection.answered_by(), "local");
    assert_eq!(connection.echoed.as_deref(), Some("hi"));
    expect_inbound(&mut sidecar, &connection, "10.77.1.2:8080");
    // Closed ports and the sidecar's own: it is for the sidecar to answer.
    for port in [1, 9, 15000, 15001, 15003, 65535] {
        let to = format!("10.77.1.2:{port}");
        let connection = client.connect(Dial::to(&to).no_greeting());
        expect_inbound(&mut sidecar, &connection, &to);
    }
}

#[test]
fn outside_to_excluded_or_reserved_port_passes() {
    let lists = Lists {
        excluded_inbound_ports: "9090, 22",
        ..Lists::default()
    };
    let Some(mesh) = Mesh::attached(&lists) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let ports = [22, 9090, 15010, 15901, 15902, 15903, 15904];
    let listen: Vec<_> = ports.iter().map(|port| format!("0.0.0.0:{port}")).collect();
    let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
    let _local = pod.server("local", &listen);
    let mut client = mesh.world.outside.client();
    for port in ports {
        let connection = client.connect(format!("10.77.1.2:{port}").as_str());
        expect_direct(&mut sidecar, &connection, "local");
    }
    // One beside each of them is redirected.
    for port in [21, 23, 9089, 9091, 15009, 15011, 15900, 15905] {
        let to = format!("10.77.1.2:{port}");
        let connection = client.connect(Dial::to(&to).no_greeting());
        expect_inbound(&mut sidecar, &connection, &to);
    }
}

#[test]
fn udp_passes_in_both_directions() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh
        .world
        .outside
        .server("remote", &["udp:198.51.100.10:53"]);
    let _local = pod.server("local", &["udp:0.0.0.0:5353"]);
    for (client, to) in [
        (&mut pod.app(), "198.51.100.10:53"),
        (&mut mesh.world.outside.client(), "10.77.1.2:5353"),
    ] {
        for connected in [false, true] {
            let udp = Udp {
                to: mesh::address(to),
                text: "question".into(),
                connected,
                timeout_ms: 5000,
            };
            let answer = client.ask(&Request::Udp(udp), std::time::Duration::from_secs(10));
            let osm_tests::answer::Answer::Echo(echo) = answer else {
                panic!("not an echo: {answer:?}")
            };
            assert_eq!(
                (echo.text.as_str(), echo.from),
                ("question", Some(mesh::address(to)))
            );
        }
    }
    sidecar.expect_no_connection();
}

#[test]
fn redirected_without_listener_is_refused_in_every_direction() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut remote = mesh.world.outside.server("remote", &["198.51.100.10:80"]);
    let mut local = pod.server("local", &["0.0.0.0:8080"]);
    // Somebody else on the sidecar's port is not the sidecar.
    let mut squatter = pod.server("squatter", &["0.0.0.0:15001", "0.0.0.0:15003"]);
    let (mut app, mut caller, mut client) =
        (pod.app(), pod.sidecar_client(), mesh.world.outside.client());
    let refused = |app: &mut _, caller: &mut _, client: &mut _| {
        for dial in both_families("198.51.100.10:80") {
            expect_refused(app, dial.clone());
            expect_refused(app, dial.nonblocking());
        }
        expect_refused(caller, Dial::to("10.77.1.2:8080"));
        expect_refused(client, Dial::to("10.77.1.2:8080"));
    };
    refused(&mut app, &mut caller, &mut client);
    squatter.expect_no_connection();
    squatter.stop();
    let mut sidecar = pod.sidecar();
    expect_outbound(
        &mut sidecar,
        &app.connect("198.51.100.10:80"),
        "198.51.100.10:80",
        pod.ip4(),
    );
    remote.next_accepted();
    sidecar.stop();
    refused(&mut app, &mut caller, &mut client);
    remote.expect_no_connection();
    local.expect_no_connection();
}
