//! The lists: which beats which, where they come from, and how they change.

mod mesh;

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use mesh::{Backend, Lists, Mesh, expect_direct, expect_outbound};
use osm_tests::{Many, SLOWNESS};
use rstest::rstest;

/// Where a connection of the app is to land.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lands {
    Outbound,
    Direct,
}
use Lands::{Direct, Outbound};

#[track_caller]
fn expect(mesh: &Mesh, lists: &Lists<'_>, wanted: &[(&str, Lands)]) {
    let pod = &mesh.world.pod;
    let _ = mesh.attach(lists).succeeded();
    let mut sidecar = pod.sidecar();
    let targets: Vec<_> = wanted.iter().map(|(to, _)| *to).collect();
    let _remote = mesh.world.outside.server("remote", &targets);
    let mut app = pod.app();
    for (to, lands) in wanted {
        let connection = app.connect(*to);
        assert_eq!(connection.error, None, "{to}");
        match lands {
            Outbound => expect_outbound(&mut sidecar, &connection, to, pod.ip4()),
            Direct => expect_direct(&mut sidecar, &connection, "remote"),
        }
    }
}

#[rstest]
fn nested_ranges_exclusion_beats_inclusion_at_every_depth(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::by(backend) else {
        return;
    };
    let cases: [(Lists<'_>, &[(&str, Lands)]); 9] = [
        (
            Lists {
                excluded_ranges: "0.0.0.0/0",
                included_ranges: "198.51.100.10/32",
                ..Lists::default()
            },
            &[("198.51.100.10:80", Direct), ("203.0.113.7:80", Direct)],
        ),
        (
            Lists {
                included_ranges: "0.0.0.0/0",
                excluded_ranges: "198.51.100.10/32",
                ..Lists::default()
            },
            &[("198.51.100.10:80", Direct), ("198.51.100.11:80", Outbound)],
        ),
        (
            // A longer inclusion inside an exclusion inside an inclusion.
            Lists {
                included_ranges: "198.51.0.0/16,198.51.100.11/32",
                excluded_ranges: "198.51.100.0/24",
                ..Lists::default()
            },
            &[
                ("198.51.100.11:80", Direct),
                ("198.51.100.10:80", Direct),
                ("203.0.113.7:80", Direct),
            ],
        ),
        (
            Lists {
                included_ranges: "203.0.113.0/24",
                ..Lists::default()
            },
            &[("203.0.113.7:80", Outbound), ("198.51.100.10:80", Direct)],
        ),
        (
            // An exclusion written with host bits is the range they are in.
            Lists {
                excluded_ranges: "198.51.100.200/24",
                ..Lists::default()
            },
            &[("198.51.100.10:80", Direct), ("203.0.113.7:80", Outbound)],
        ),
        (
            // IPv6 ranges are for IPv6 traffic, however wide.
            Lists {
                excluded_ranges: "::/0,2001:db8::/32",
                ..Lists::default()
            },
            &[("198.51.100.10:80", Outbound), ("203.0.113.7:80", Outbound)],
        ),
        (
            // And inclusions of IPv6 alone leave IPv4 without any.
            Lists {
                included_ranges: "fd00::/8",
                ..Lists::default()
            },
            &[("198.51.100.10:80", Outbound), ("203.0.113.7:80", Outbound)],
        ),
        (
            Lists {
                included_ranges: "::/0",
                excluded_ranges: "198.51.100.10/32",
                ..Lists::default()
            },
            &[("198.51.100.10:80", Direct), ("203.0.113.7:80", Outbound)],
        ),
        (
            Lists {
                included_ranges: "198.51.100.10/31",
                excluded_ports: "1,65535",
                ..Lists::default()
            },
            &[
                ("198.51.100.10:1", Direct),
                ("198.51.100.11:65535", Direct),
                ("198.51.100.10:2", Outbound),
                ("203.0.113.7:65534", Direct),
            ],
        ),
    ];
    for (lists, wanted) in cases {
        expect(&mesh, &lists, wanted);
    }
}

#[rstest]
fn mesh_and_pod_lists_are_united(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::by(backend) else {
        return;
    };
    let pod = &mesh.world.pod;
    let config = r#"{"apiVersion": "config.openservicemesh.io/v1alpha2", "kind": "MeshConfig",
        "metadata": {"name": "osm-mesh-config"},
        "spec": {"traffic": {"outboundIPRangeExclusionList": ["198.51.100.11/32"],
                             "outboundPortExclusionList": [81], "unknown": true}}}"#;
    let _ = mesh
        .attach_without_lists()
        .config(config)
        .annotation(
            "openservicemesh.io/outbound-port-exclusion-list",
            " 81 , 82 ",
        )
        .annotation("example.com/other", "1")
        .run()
        .succeeded();
    let mut sidecar = pod.sidecar();
    let to = [
        "198.51.100.10:80",
        "198.51.100.10:81",
        "198.51.100.10:82",
        "198.51.100.11:80",
    ];
    let _remote = mesh.world.outside.server("remote", &to);
    let mut app = pod.app();
    expect_outbound(&mut sidecar, &app.connect(to[0]), to[0], pod.ip4());
    for direct in &to[1..] {
        expect_direct(&mut sidecar, &app.connect(*direct), "remote");
    }
}

#[rstest]
fn ten_thousand_ranges_and_ports_decide_like_few(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::by(backend) else {
        return;
    };
    let pod = &mesh.world.pod;
    let ranges: Vec<_> = (0..10_000_u32)
        .map(|i| {
            format!(
                "      - 172.{}.{}.{}/31\n",
                16 + i / 4096,
                i / 16 % 256,
                i % 16 * 16
            )
        })
        .collect();
    let ports: Vec<_> = (0..10_000)
        .map(|i| format!("      - {}\n", 20_000 + i))
        .collect();
    let config = format!(
        "kind: MeshConfig\napiVersion: config.openservicemesh.io/v1alpha2\nspec:\n  traffic:\n    \
         outboundIPRangeExclusionList:\n{}      - 198.51.100.11/32\n    \
         outboundPortExclusionList:\n{}    inboundPortExclusionList:\n{}",
        ranges.concat(),
        ports.concat(),
        ports.concat()
    );
    let _ = mesh
        .attach_without_lists()
        .config(&config)
        .run()
        .succeeded();
    let mut sidecar = pod.sidecar();
    let to = [
        "198.51.100.10:80",
        "198.51.100.10:30000",
        "198.51.100.10:20000",
        "198.51.100.10:29999",
        "198.51.100.11:80",
    ];
    let _remote = mesh.world.outside.server("remote", &to);
    let mut app = pod.app();
    for outbound in &to[..2] {
        expect_outbound(&mut sidecar, &app.connect(*outbound), outbound, pod.ip4());
    }
    for direct in &to[2..] {
        expect_direct(&mut sidecar, &app.connect(*direct), "remote");
    }
    let _ = mesh.detach().succeeded();
    assert!(mesh.agent.state().pins().is_empty());
}

#[rstest]
fn change_of_lists_takes_effect_for_new_connections_only(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::attached_by(backend, &Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &["198.51.100.10:80"]);
    let mut app = pod.app();
    let redirected = app.connect("198.51.100.10:80");
    expect_outbound(&mut sidecar, &redirected, "198.51.100.10:80", pod.ip4());
    let excluded = Lists {
        excluded_ranges: "198.51.100.0/24",
        ..Lists::default()
    };
    assert!(
        mesh.attach(&excluded)
            .succeeded()
            .stdout
            .contains("lists changed")
    );
    let direct = app.connect("198.51.100.10:80");
    expect_direct(&mut sidecar, &direct, "remote");
    assert!(
        mesh.attach(&excluded)
            .succeeded()
            .stdout
            .contains("already")
    );
    let _ = mesh.attach(&Lists::default()).succeeded();
    let again = app.connect("198.51.100.10:80");
    expect_outbound(&mut sidecar, &again, "198.51.100.10:80", pod.ip4());
    for connection in [&redirected, &direct, &again] {
        assert_eq!(app.send(connection.id, "still here").text, "still here");
        assert_eq!(
            app.names(connection.id).peer(),
            mesh::address("198.51.100.10:80")
        );
    }
}

/// The two policies differ in many entries, and each alone sends the connection to the same
/// place: were half of one ever seen, some would go elsewhere.
#[rstest]
fn change_of_lists_under_load_never_shows_half_of_a_policy(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    /// Fewer where they take long.
    const CONNECTIONS: u64 = if SLOWNESS == 1 { 20_000 } else { 2_000 };
    const ROUND: u64 = 1_000;
    const CHANGES: u32 = 4;
    let Some(mesh) = Mesh::by(backend) else {
        return;
    };
    let pod = &mesh.world.pod;
    let many = (0..2000).map(|i| format!("172.16.{}.{}/32", i / 250, i % 250));
    let filler = many.collect::<Vec<_>>().join(",");
    let by_range = format!("{filler},198.51.100.10/32");
    let policies = [
        Lists {
            excluded_ranges: &by_range,
            ..Lists::default()
        },
        Lists {
            excluded_ports: "80",
            included_ranges: &filler,
            ..Lists::default()
        },
    ];
    let _ = mesh.attach(&policies[0]).succeeded();
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &["198.51.100.10:80"]);
    let mut app = pod.app();
    let changes = AtomicU32::new(0);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut connections = 0;
            while connections < CONNECTIONS || changes.load(Relaxed) < CHANGES {
                let tally = app.many(Many::to("198.51.100.10:80", ROUND).concurrency(2));
                assert_eq!(tally.roles.get("remote"), Some(&ROUND), "{tally:?}");
                connections += ROUND;
            }
        });
        for policy in policies.iter().cycle().skip(1) {
            if load.is_finished() {
                break;
            }
            let _ = mesh.attach(policy).succeeded();
            changes.fetch_add(1, Relaxed);
        }
        load.join().expect("the load");
    });
    sidecar.expect_no_connection();
}

#[test]
fn pods_with_different_lists_do_not_touch_each_other() {
    let Some(mesh) = Mesh::attached(&Lists {
        excluded_ports: "80",
        ..Lists::default()
    }) else {
        return;
    };
    let second = mesh.world.add_pod();
    let _ = mesh.agent.attach(&second).run().succeeded();
    let (mut sidecar, mut second_sidecar) = (mesh.world.pod.sidecar(), second.sidecar());
    let _remote = mesh.world.outside.server("remote", &["198.51.100.10:80"]);
    expect_direct(
        &mut sidecar,
        &mesh.world.pod.app().connect("198.51.100.10:80"),
        "remote",
    );
    let connection = second.app().connect("198.51.100.10:80");
    expect_outbound(
        &mut second_sidecar,
        &connection,
        "198.51.100.10:80",
        second.ip4(),
    );
    let _ = mesh.detach().succeeded();
    let connection = second.app().connect("198.51.100.10:80");
    expect_outbound(
        &mut second_sidecar,
        &connection,
        "198.51.100.10:80",
        second.ip4(),
    );
    sidecar.expect_no_connection();
}
