//! The sidecar's listeners: before attaching and after, one or many, coming and going.

mod mesh;

use mesh::{Lists, Mesh, SHARED, expect_inbound, expect_outbound, expect_refused};
use osm_tests::{Actor, Client, Dial, Listener, Need, Pod, canonical, missing};

const REMOTE: &str = "198.51.100.10:80";
const LOCAL: &str = "10.77.1.2:8080";

struct Scene {
    mesh: Mesh,
    app: Client,
    client: Client,
    _servers: [Actor; 2],
}

impl Scene {
    fn new() -> Option<Self> {
        let mesh = Mesh::new()?;
        let pod = &mesh.world.pod;
        Some(Self {
            app: pod.app(),
            client: mesh.world.outside.client(),
            _servers: [
                mesh.world.outside.server("remote", &[REMOTE]),
                pod.server("local", &["127.0.0.1:8080"]),
            ],
            mesh,
        })
    }

    fn pod(&self) -> &Pod {
        &self.mesh.world.pod
    }

    /// Both directions reach this sidecar, from both socket families.
    #[track_caller]
    fn expect_works(&mut self, sidecar: &mut Actor) {
        for dial in mesh::both_families(REMOTE) {
            let connection = self.app.connect(dial);
            assert_eq!(connection.answered_by(), "remote");
            expect_outbound(sidecar, &connection, REMOTE, self.mesh.world.pod.ip4());
        }
        let connection = self.client.connect(LOCAL);
        assert_eq!(connection.answered_by(), "local");
        expect_inbound(sidecar, &connection, LOCAL);
    }

    #[track_caller]
    fn expect_all_refused(&mut self) {
        expect_refused(&mut self.app, Dial::to(REMOTE));
        expect_refused(&mut self.client, Dial::to(LOCAL));
    }
}

#[test]
fn listener_older_than_the_enrolment_is_found() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let mut sidecar = scene.pod().sidecar();
    let attached = scene.mesh.attach(&Lists::default()).succeeded();
    assert!(
        attached
            .stdout
            .contains("2 of the sidecar's listeners found"),
        "{attached}"
    );
    scene.expect_works(&mut sidecar);
}

#[test]
fn listener_younger_than_the_enrolment_is_caught() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let attached = scene.mesh.attach(&Lists::default()).succeeded();
    assert!(
        attached.stdout.contains("does not listen yet"),
        "{attached}"
    );
    scene.expect_all_refused();
    let mut sidecar = scene.pod().sidecar();
    scene.expect_works(&mut sidecar);
}

#[test]
fn sidecar_restarts_refused_in_between_served_after() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let _ = scene.mesh.attach(&Lists::default()).succeeded();
    for _ in 0..3 {
        let mut sidecar = scene.pod().sidecar();
        scene.expect_works(&mut sidecar);
        sidecar.stop();
        scene.expect_all_refused();
    }
}

#[test]
fn workers_share_and_one_that_ends_is_not_missed() {
    for before in [false, true] {
        let Some(mut scene) = Scene::new() else {
            return;
        };
        if !before {
            let _ = scene.mesh.attach(&Lists::default()).succeeded();
        }
        let [first, second, mut third] = [(); 3].map(|()| scene.pod().sidecar_with(&SHARED));
        if before {
            let attached = scene.mesh.attach(&Lists::default()).succeeded();
            assert!(
                attached
                    .stdout
                    .contains("6 of the sidecar's listeners found"),
                "{attached}"
            );
        }
        for _ in 0..20 {
            assert_eq!(scene.app.connect(REMOTE).answered_by(), "remote");
            assert_eq!(scene.client.connect(LOCAL).answered_by(), "local");
        }
        third.drain();
        first.stop();
        second.stop();
        for _ in 0..5 {
            scene.expect_works(&mut third);
        }
        third.stop();
        scene.expect_all_refused();
    }
}

#[test]
fn listeners_of_both_families_on_one_port() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    for before in [false, true] {
        for flags in [
            // As Envoy opens them.
            [
                "--outbound",
                "0.0.0.0:15001",
                "--outbound",
                "[::]:15001,v6only",
                "--inbound",
                "[::]:15003,v6only",
                "--inbound",
                "0.0.0.0:15003",
            ]
            .as_slice(),
            // One for both.
            &["--outbound", "[::]:15001", "--inbound", "[::]:15003"],
        ] {
            let Some(mut scene) = Scene::new() else {
                return;
            };
            if !before {
                let _ = scene.mesh.attach(&Lists::default()).succeeded();
            }
            let mut sidecar = scene.pod().sidecar_with(flags);
            if before {
                let _ = scene.mesh.attach(&Lists::default()).succeeded();
            }
            scene.expect_works(&mut sidecar);
        }
    }
}

#[test]
fn ipv6_only_listener_refuses_ipv4() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let _ = scene.mesh.attach(&Lists::default()).succeeded();
    let mut sidecar = scene.pod().sidecar_with(&[
        "--outbound",
        "[::]:15001,v6only",
        "--inbound",
        "[::]:15003,v6only",
    ]);
    scene.expect_all_refused();
    sidecar.expect_no_connection();
}

#[test]
fn listener_on_localhost_only_gets_all_at_127_0_0_1() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let _ = scene.mesh.attach(&Lists::default()).succeeded();
    let mut sidecar = scene.pod().sidecar_with(&[
        "--outbound",
        "127.0.0.1:15001",
        "--inbound",
        "0.0.0.0:15003",
    ]);
    scene.expect_works(&mut sidecar);
}

/// More half-open connections than the sidecar's queue takes: those that come through later
/// still know where they wanted to go.
#[test]
fn connections_waiting_for_a_slow_sidecar_keep_their_destinations() {
    let Some(scene) = Scene::new() else { return };
    let _ = scene.mesh.attach(&Lists::default()).succeeded();
    let pod = scene.pod();
    pod.netns.sysctl("net/core/somaxconn", "8");
    let mut sidecar = pod.sidecar();
    sidecar.process().signal(nix::sys::signal::Signal::SIGSTOP);
    let mut app = pod.app();
    let to: Vec<_> = (0..24)
        .map(|i| format!("203.0.113.7:{}", 9000 + i))
        .collect();
    let sockets: Vec<_> = to
        .iter()
        .map(|to| {
            let limit = std::time::Duration::from_millis(50);
            app.connect(Dial::to(to).no_greeting().nonblocking().timeout(limit))
        })
        .collect();
    let connected = sockets.iter().filter(|socket| socket.connected).count();
    assert!((8..24).contains(&connected), "{connected} of 24 fit in");
    sidecar.process().signal(nix::sys::signal::Signal::SIGCONT);
    for (socket, to) in sockets
        .iter()
        .zip(&to)
        .filter(|(socket, _)| socket.connected)
    {
        let accepted = sidecar.accepted_from(canonical(socket.local()));
        assert_eq!(accepted.listener, Listener::Outbound);
        assert_eq!(accepted.original_destination(), mesh::address(to));
    }
}
