//! Under load: there is no moment without rules.

use std::thread;

use osm_tests::Many;

use crate::scene::{Backend, Scene};

/// There is no sidecar, so each connection that meets the rules is refused, and one that does
/// not is served.
#[test]
fn no_connection_slips_through_while_rules_are_replaced() {
    const COUNT: u64 = 60_000;
    let Some(scene) = Scene::new() else { return };
    let _remote = scene.world.outside.server("remote", &["198.51.100.10:80"]);
    assert!(
        scene.pod().app().connect("198.51.100.10:80").connected,
        "it is there"
    );
    for backend in Backend::ALL {
        scene.apply(backend, &[]);
        let mut app = scene.pod().app();
        let tally = thread::scope(|scope| {
            let load =
                scope.spawn(move || app.many(Many::to("198.51.100.10:80", COUNT).concurrency(2)));
            let mut changes = 0;
            while !load.is_finished() {
                changes += 1;
                change(&scene, backend, changes);
            }
            assert!(changes > 6, "{changes} changes are no test");
            load.join().expect("the load")
        });
        assert_eq!(tally.succeeded, 0, "{tally:?}");
        assert_eq!(tally.failed.get("ECONNREFUSED"), Some(&COUNT), "{tally:?}");
        let _ = scene.iptables(&["cleanup"]).succeeded();
    }
}

/// By turns: other lists; the rules spoilt in a way that still redirects, and repaired; the
/// other backend.
fn change(scene: &Scene, backend: Backend, turn: u32) {
    let ports = "openservicemesh.io/outbound-port-exclusion-list=81";
    match turn % 4 {
        0 => drop(scene.apply(backend, &["--annotation", ports])),
        1 => drop(scene.apply(backend.other(), &[])),
        2 => {
            scene.change(backend.other(), &["-A OUTPUT -p tcp -j PROXY_OUTPUT"]);
            let said = scene.apply(backend.other(), &[]);
            assert!(said.contains("repaired"), "{said}");
        }
        _ => drop(scene.apply(backend, &[])),
    }
}

#[test]
fn agents_that_apply_at_the_same_time_leave_one_set() {
    let Some(scene) = Scene::new() else { return };
    for backend in Backend::ALL {
        for _ in 0..5 {
            thread::scope(|scope| {
                for port in 1..=3 {
                    let ports = format!("openservicemesh.io/outbound-port-exclusion-list={port}");
                    let scene = &scene;
                    scope.spawn(move || scene.apply(backend, &["--annotation", &ports]));
                }
            });
            let [nat, _] = scene.nat(backend);
            let jumps = nat.lines().filter(|line| line.ends_with("-j PROXY_OUTPUT"));
            assert_eq!(jumps.count(), 1, "{nat}");
            assert_eq!(nat.matches("-j PROXY_INBOUND\n").count(), 1, "{nat}");
            assert_eq!(nat.matches("excluded outbound ports").count(), 1, "{nat}");
            let _ = scene.iptables(&["cleanup"]).succeeded();
        }
    }
}
