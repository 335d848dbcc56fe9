//! The outcome table of `spec.md`: one test for each row, by every means and for every kind
//! of address.

#[path = "../mesh/mod.rs"]
mod mesh;
mod scene;

use std::time::Duration;

use mesh::{
    Backend, Lists, expect_direct, expect_inbound, expect_outbound, expect_redirected,
    expect_refused,
};
use osm_tests::{Dial, Listener, Udp, answer::Answer, request::Request};
use rstest::rstest;
use scene::{Kind, Scene};

#[rstest]
fn app_to_remote_any_port_lands_on_outbound_listener(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
    #[values(Kind::V4, Kind::Mapped, Kind::V6)] kind: Kind,
) {
    let Some(scene) = Scene::new(backend, kind) else {
        return;
    };
    let mut sidecar = scene.sidecar();
    let ports = [1, 80, 443, 15000, 15001, 15003, 15010, 15901, 65535];
    let _remote = scene.remote(&ports);
    let mut app = scene.mesh.world.pod.app();
    for port in ports {
        let to = format!("{}:{port}", scene.remote[0]);
        let connection = app.connect(scene.dial(&to).payload("hello"));
        assert_eq!(connection.answered_by(), "remote");
        assert_eq!(connection.echoed.as_deref(), Some("hello"));
        expect_outbound(&mut sidecar, &connection, &to, scene.own());
    }
    sidecar.expect_no_connection();
}

#[rstest]
fn app_to_excluded_or_not_included_passes(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
    #[values(Kind::V4, Kind::Mapped, Kind::V6)] kind: Kind,
) {
    for (lists, direct, redirected) in [
        (
            Lists {
                excluded_ranges: "198.51.100.11/32, 2001:db8::11/128",
                excluded_ports: "81",
                ..Lists::default()
            },
            [(0, 81), (1, 80), (1, 81)].as_slice(),
            [(0, 80), (0, 82)].as_slice(),
        ),
        (
            Lists {
                included_ranges: "198.51.100.10/32,2001:db8::10/128",
                ..Lists::default()
            },
            &[(1, 80), (1, 81)],
            &[(0, 80), (0, 81)],
        ),
    ] {
        let Some(scene) = Scene::with_lists(backend, kind, &lists) else {
            return;
        };
        let mut sidecar = scene.sidecar();
        let _remote = scene.remote(&[80, 81, 82]);
        let mut app = scene.mesh.world.pod.app();
        for (host, port) in direct {
            let to = format!("{}:{port}", scene.remote[*host]);
            expect_direct(&mut sidecar, &app.connect(scene.dial(&to)), "remote");
        }
        for (host, port) in redirected {
            let to = format!("{}:{port}", scene.remote[*host]);
            expect_outbound(
                &mut sidecar,
                &app.connect(scene.dial(&to)),
                &to,
                scene.own(),
            );
        }
    }
}

#[rstest]
fn app_to_loopback_or_own_address_passes(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
    #[values(Kind::V4, Kind::Mapped, Kind::V6)] kind: Kind,
) {
    let Some(scene) = Scene::new(backend, kind) else {
        return;
    };
    let mut sidecar = scene.sidecar();
    let _local = scene.local(&[8080, 15000, 15010]);
    let mut app = scene.mesh.world.pod.app();
    let v4_only: &[&str] = match kind {
        Kind::V4 | Kind::Mapped => &["127.0.0.2:8080", "127.255.0.1:8080", "0.0.0.0:8080"],
        Kind::V6 => &["[::]:8080"],
    };
    let more = [
        format!("{}:8080", scene.localhost),
        format!("{}:15000", scene.localhost),
        format!("{}:8080", scene.pod),
        format!("{}:15010", scene.pod),
    ];
    for to in v4_only
        .iter()
        .copied()
        .chain(more.iter().map(String::as_str))
    {
        let connection = app.connect(scene.dial(to));
        assert_eq!(connection.error, None, "{to}");
        expect_direct(&mut sidecar, &connection, "local");
    }
    if kind == Kind::V4 {
        // Bound to the pod's address, 0.0.0.0 is that address.
        let connection = app.connect(Dial::to("0.0.0.0:8080").bind("10.77.1.2:0"));
        expect_direct(&mut sidecar, &connection, "local");
    }
    // The sidecar's own ports are reached like any other.
    for (to, listener) in [
        (format!("{}:15001", scene.localhost), Listener::Outbound),
        (format!("{}:15003", scene.pod), Listener::Inbound),
    ] {
        let connection = app.connect(scene.dial(&to).no_greeting());
        let accepted = sidecar.accepted_from(connection.local());
        assert_eq!(accepted.listener, listener);
        assert_eq!(accepted.original_destination(), mesh::address(&to));
    }
}

#[rstest]
fn sidecar_to_remote_or_localhost_passes(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
    #[values(Kind::V4, Kind::Mapped, Kind::V6)] kind: Kind,
) {
    let Some(scene) = Scene::new(backend, kind) else {
        return;
    };
    let mut sidecar = scene.sidecar();
    let _remote = scene.remote(&[80, 15001]);
    let _local = scene.local(&[8080]);
    let mut caller = scene.mesh.world.pod.sidecar_client();
    for (host, port, role) in [
        (scene.remote[0], 80, "remote"),
        (scene.remote[1], 15001, "remote"),
        (scene.localhost, 8080, "local"),
    ] {
        let connection = caller.connect(scene.dial(&format!("{host}:{port}")));
        expect_direct(&mut sidecar, &connection, role);
    }
}

#[rstest]
fn sidecar_to_pod_lands_on_inbound_listener(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
    #[values(Kind::V4, Kind::Mapped, Kind::V6)] kind: Kind,
) {
    // Exclusions do not apply to the sidecar's own calls to the pod.
    let lists = Lists {
        excluded_inbound_ports: "8080",
        excluded_ports: "8080",
        excluded_ranges: "10.77.1.0/24,fd77::/16",
        ..Lists::default()
    };
    let Some(scene) = Scene::with_lists(backend, kind, &lists) else {
        return;
    };
    let mut sidecar = scene.sidecar();
    let _local = scene.local(&[8080, 15010]);
    let mut caller = scene.mesh.world.pod.sidecar_client();
    for port in [8080, 15010] {
        let to = format!("{}:{port}", scene.pod);
        let connection = caller.connect(scene.dial(&to));
        assert_eq!(connection.answered_by(), "local");
        expect_redirected(
            &mut sidecar,
            Listener::Inbound,
            &connection,
            &to,
            scene.own(),
        );
    }
    if kind != Kind::V6 {
        let to = "127.0.0.2:8080";
        let connection = caller.connect(scene.dial(to));
        let own = [127, 0, 0, 1].into();
        expect_redirected(&mut sidecar, Listener::Inbound, &connection, to, own);
    }
}

#[rstest]
fn outside_to_pod_any_port_lands_on_inbound_listener(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
    #[values(Kind::V4, Kind::V6)] kind: Kind,
) {
    let Some(scene) = Scene::new(backend, kind) else {
        return;
    };
    let mut sidecar = scene.sidecar();
    let _local = scene.local(&[8080]);
    let mut client = scene.mesh.world.outside.client();
    let to = format!("{}:8080", scene.pod);
    let from = format!("{}:0", scene.remote[1]);
    let connection = client.connect(Dial::to(&to).bind(&from).payload("hi"));
    assert_eq!(connection.answered_by(), "local");
    assert_eq!(connection.echoed.as_deref(), Some("hi"));
    expect_inbound(&mut sidecar, &connection, &to);
    // Closed ports and the sidecar's own: it is for the sidecar to answer.
    for port in [1, 9, 15000, 15001, 15003, 65535] {
        let to = format!("{}:{port}", scene.pod);
        let connection = client.connect(Dial::to(&to).no_greeting());
        expect_inbound(&mut sidecar, &connection, &to);
    }
}

#[rstest]
fn outside_to_excluded_or_reserved_port_passes(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
    #[values(Kind::V4, Kind::V6)] kind: Kind,
) {
    let lists = Lists {
        excluded_inbound_ports: "9090, 22",
        ..Lists::default()
    };
    let Some(scene) = Scene::with_lists(backend, kind, &lists) else {
        return;
    };
    let mut sidecar = scene.sidecar();
    let ports = [22, 9090, 15010, 15901, 15902, 15903, 15904];
    let _local = scene.local(&ports);
    let mut client = scene.mesh.world.outside.client();
    for port in ports {
        let connection = client.connect(Dial::to(&format!("{}:{port}", scene.pod)));
        expect_direct(&mut sidecar, &connection, "local");
    }
    // One beside each of them is redirected.
    for port in [21, 23, 9089, 9091, 15009, 15011, 15900, 15905] {
        let to = format!("{}:{port}", scene.pod);
        let connection = client.connect(Dial::to(&to).no_greeting());
        expect_inbound(&mut sidecar, &connection, &to);
    }
}

#[rstest]
fn udp_passes_in_both_directions(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
    #[values(Kind::V4, Kind::V6)] kind: Kind,
) {
    let Some(scene) = Scene::new(backend, kind) else {
        return;
    };
    let world = &scene.mesh.world;
    let mut sidecar = scene.sidecar();
    let remote = format!("{}:53", scene.remote[0]);
    let local = format!("{}:5353", scene.pod);
    let _remote = world.outside.server("remote", &[&format!("udp:{remote}")]);
    let _local = world.pod.server("local", &[&format!("udp:{local}")]);
    for (client, to) in [
        (&mut world.pod.app(), &remote),
        (&mut world.outside.client(), &local),
    ] {
        for connected in [false, true] {
            let udp = Udp {
                to: mesh::address(to),
                from: None,
                text: "question".into(),
                connected,
                timeout_ms: 5000,
            };
            let answer = client.ask(&Request::Udp(udp), Duration::from_secs(10));
            let Answer::Echo(echo) = answer else {
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

#[rstest]
fn redirected_without_listener_is_refused_in_every_direction(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
    #[values(Kind::V4, Kind::Mapped, Kind::V6)] kind: Kind,
) {
    let Some(scene) = Scene::new(backend, kind) else {
        return;
    };
    let pod = &scene.mesh.world.pod;
    let mut remote = scene.remote(&[80]);
    let mut local = scene.local(&[8080]);
    let (mut app, mut caller) = (pod.app(), pod.sidecar_client());
    let mut client = scene.mesh.world.outside.client();
    let to_remote = format!("{}:80", scene.remote[0]);
    let to_pod = format!("{}:8080", scene.pod);
    let mut expect_all_refused = || {
        expect_refused(&mut app, scene.dial(&to_remote));
        expect_refused(&mut app, scene.dial(&to_remote).nonblocking());
        expect_refused(&mut caller, scene.dial(&to_pod));
        expect_refused(&mut client, Dial::to(&to_pod));
    };
    expect_all_refused();
    let sidecar = scene.sidecar();
    sidecar.stop();
    expect_all_refused();
    remote.expect_no_connection();
    local.expect_no_connection();
}

/// With iptables, whoever listens on the port gets the connections.
#[test]
fn listener_on_the_sidecar_s_port_that_is_not_the_sidecar_s_gets_nothing() {
    let Some(scene) = Scene::new(Backend::Ebpf, Kind::V4) else {
        return;
    };
    let pod = &scene.mesh.world.pod;
    let mut remote = scene.remote(&[80]);
    let _ = scene.mesh.attach_open().succeeded();
    let mut squatter = pod.server("squatter", &["0.0.0.0:15001", "0.0.0.0:15003"]);
    expect_refused(&mut pod.app(), Dial::to("198.51.100.10:80"));
    expect_refused(
        &mut scene.mesh.world.outside.client(),
        Dial::to("10.77.1.2:8080"),
    );
    squatter.expect_no_connection();
    remote.expect_no_connection();
}
