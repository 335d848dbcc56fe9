//! The rules of ours come, change and go; those of others stay.

use osm_tests::{Dial, TempDir};

use crate::mesh::{expect_direct, expect_outbound};
use crate::scene::{Backend, Scene};

const PORTS: &str = "openservicemesh.io/outbound-port-exclusion-list";
const RANGES: &str = "openservicemesh.io/outbound-ip-range-exclusion-list";

/// Rules as other programs in a pod have them.
const FOREIGN: [&str; 6] = [
    "-N FOREIGN",
    "-A FOREIGN -d 192.0.2.99/32 -p tcp -j RETURN",
    "-A OUTPUT -d 192.0.2.0/24 -j FOREIGN",
    "-A PREROUTING -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353",
    "-A POSTROUTING -s 10.99.0.0/16 -m comment --comment osm-agent:not -j MASQUERADE",
    "-I PREROUTING -p tcp -m tcp --dport 9999 -m comment --comment PROXY_INBOUND -j ACCEPT",
];

#[test]
fn cleanup_leaves_the_tables_as_they_were_before_apply() {
    let Some(scene) = Scene::new() else { return };
    for backend in Backend::ALL {
        scene.change(backend, &FOREIGN);
        // Counters that are not zero must stay as they are.
        let _remote = scene.world.outside.server("remote", &["192.0.2.20:80"]);
        assert!(scene.pod().app().connect("192.0.2.20:80").connected);
        let before = scene.save(backend);
        assert!(
            before.contains("[1:60] -A OUTPUT -d 192.0.2.0/24 -j FOREIGN"),
            "{before}"
        );
        let said = scene.apply(backend, &["--annotation", &format!("{PORTS}=1,2")]);
        assert!(said.contains("rules written, by iptables-"), "{said}");
        assert_ne!(scene.save(backend), before);
        let said = scene.iptables(&["cleanup"]).succeeded();
        assert!(said.contains("rules removed"), "{said}");
        assert_eq!(scene.save(backend), before);
        let said = scene.iptables(&["cleanup"]).succeeded();
        assert!(said.contains("no rules of osm-agent"), "{said}");
        scene.change(backend, &["-F", "-X"]);
    }
}

#[test]
fn cleanup_of_tables_that_held_nothing_leaves_nothing() {
    let Some(scene) = Scene::new() else { return };
    for backend in Backend::ALL {
        let before = scene.nat(backend);
        scene.apply(backend, &["--ip-families", "dual"]);
        assert_ne!(scene.nat(backend), before);
        let _ = scene.iptables(&["cleanup"]).succeeded();
        assert_eq!(scene.nat(backend), before);
    }
}

#[test]
fn apply_twice_leaves_one_set() {
    let Some(scene) = Scene::new() else { return };
    for backend in Backend::ALL {
        scene.change(backend, &FOREIGN);
        let more = [
            "--annotation",
            &format!("{RANGES}=10.0.0.0/8,fd00::/8"),
            "--ip-families",
            "dual",
        ];
        scene.apply(backend, &more);
        let once = scene.nat(backend);
        assert_eq!(once[0].matches("-j PROXY_OUTPUT\n").count(), 1);
        assert_eq!(once[1].matches("-j PROXY_INBOUND\n").count(), 1);
        // Without the flag, the tool that holds the rules is found.
        let args = [&["apply"][..], &more].concat();
        let said = scene.iptables(&args).succeeded();
        assert!(
            said.contains(&format!("unchanged, by iptables-{backend}")),
            "{said}"
        );
        assert_eq!(scene.nat(backend), once);
        let _ = scene.iptables(&["cleanup"]).succeeded();
        scene.change(backend, &["-F", "-X"]);
    }
}

#[test]
fn change_of_lists_leaves_what_a_fresh_apply_writes() {
    let Some(scene) = Scene::new() else { return };
    for backend in Backend::ALL {
        let changed = [
            "--annotation",
            &format!("{PORTS}=80"),
            "--annotation",
            &format!("{RANGES}=10.0.0.0/8"),
        ];
        scene.apply(backend, &changed);
        let fresh = scene.nat(backend);
        let _ = scene.iptables(&["cleanup"]).succeeded();
        // From more rules, in both families.
        let many: Vec<String> = (1..=40).map(|port| port.to_string()).collect();
        scene.apply(
            backend,
            &[
                "--annotation",
                &format!("{PORTS}={}", many.join(",")),
                "--ip-families",
                "dual",
            ],
        );
        assert_eq!(
            scene.nat(backend)[1].matches("-j PROXY_OUTPUT\n").count(),
            1
        );
        let said = scene.apply(backend, &changed);
        assert!(said.contains("rules changed"), "{said}");
        assert_eq!(scene.nat(backend), fresh);
        let _ = scene.iptables(&["cleanup"]).succeeded();
    }
}

#[test]
fn rules_that_somebody_changed_are_repaired_and_named() {
    let Some(scene) = Scene::new() else { return };
    for backend in Backend::ALL {
        scene.apply(backend, &[]);
        let right = scene.nat(backend);
        let changes: [(&[&str], &str); 6] = [
            // The same rules in another order.
            (
                &[
                    "-D PROXY_OUTPUT 1",
                    "-A PROXY_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --uid-owner 1500 -m comment --comment sidecar -j PROXY_IN_REDIRECT",
                ],
                "changed PROXY_OUTPUT",
            ),
            (
                &["-I PROXY_INBOUND -p tcp -j ACCEPT"],
                "changed PROXY_INBOUND",
            ),
            (&["-F PROXY_REDIRECT"], "changed PROXY_REDIRECT"),
            (
                &["-D OUTPUT 1"],
                "the jump from OUTPUT to PROXY_OUTPUT was gone",
            ),
            // What earlier versions did on every start.
            (
                &[
                    "-A PREROUTING -p tcp -j PROXY_INBOUND",
                    "-A PREROUTING -p tcp -j PROXY_INBOUND",
                    "-A OUTPUT -p tcp -j PROXY_OUTPUT",
                ],
                "PREROUTING led to PROXY_INBOUND",
            ),
            (
                &["-N FOREIGN", "-A FOREIGN -p tcp -j PROXY_IN_REDIRECT"],
                "FOREIGN led to PROXY_IN_REDIRECT",
            ),
        ];
        for (change, named) in changes {
            scene.change(backend, change);
            let said = scene.iptables(&["apply"]).succeeded();
            assert!(said.contains("rules repaired"), "{change:?}: {said}");
            assert!(said.contains(named), "{change:?}: {said}");
            let said = scene.iptables(&["apply"]).succeeded();
            assert!(said.contains("unchanged"), "{change:?}: {said}");
            let now = scene
                .nat(backend)
                .map(|text| text.replace(":FOREIGN - [0:0]\n", ""));
            assert_eq!(now, right, "{change:?}");
        }
        let _ = scene.iptables(&["cleanup"]).succeeded();
        scene.change(backend, &["-X FOREIGN"]);
    }
}

#[test]
fn right_jumps_stay_before_and_behind_rules_of_others() {
    let Some(scene) = Scene::new() else { return };
    for backend in Backend::ALL {
        scene.change(backend, &["-A OUTPUT -p tcp -d 192.0.2.1/32 -j RETURN"]);
        scene.apply(backend, &[]);
        scene.change(backend, &["-A OUTPUT -p tcp -d 192.0.2.2/32 -j RETURN"]);
        scene.apply(backend, &["--annotation", &format!("{PORTS}=80")]);
        let [nat, _] = scene.nat(backend);
        let output: Vec<&str> = nat
            .lines()
            .filter(|line| line.starts_with("-A OUTPUT "))
            .collect();
        assert!(output[0].contains("192.0.2.1"), "{output:?}");
        assert!(output[1].contains("PROXY_OUTPUT"), "{output:?}");
        assert!(output[2].contains("192.0.2.2"), "{output:?}");
        let _ = scene.iptables(&["cleanup"]).succeeded();
        scene.change(backend, &["-F"]);
    }
}

#[test]
fn change_of_backend_leaves_rules_in_one() {
    let Some(scene) = Scene::new() else { return };
    let empty = Backend::ALL.map(|backend| scene.nat(backend));
    for (backend, empty) in Backend::ALL.into_iter().zip(empty) {
        scene.apply(backend.other(), &["--ip-families", "dual"]);
        let said = scene.apply(backend, &[]);
        assert!(
            said.contains(&format!("rules changed, by iptables-{backend}")),
            "{said}"
        );
        assert!(
            said.contains(&format!("removed from iptables-{}", backend.other())),
            "{said}"
        );
        let _ = scene.iptables(&["cleanup"]).succeeded();
        assert_eq!(scene.nat(backend), empty);
    }
}

#[test]
fn render_is_what_apply_writes() {
    let Some(scene) = Scene::new() else { return };
    let more = [
        "--annotation",
        &format!("{RANGES}=10.0.0.0/8,::/0"),
        "--ip-families",
        "dual",
    ];
    let rendered =
        crate::scene::said(scene.agent().args(["iptables", "render"]).args(more)).succeeded();
    for backend in Backend::ALL {
        scene.apply(backend, &more);
        let texts = scene.nat(backend);
        let (v4, v6) = rendered
            .split_once("# osm-agent: for ip6tables-restore")
            .expect("two texts");
        for (text, saved) in [v4, v6].into_iter().zip(&texts) {
            for rule in text.lines().filter(|line| line.starts_with("-A")) {
                assert!(
                    saved.contains(&rule.replace(" -d ::/0", "")),
                    "{rule}\nis not in\n{saved}"
                );
            }
        }
        let _ = scene.iptables(&["cleanup"]).succeeded();
    }
}

#[test]
fn five_thousand_ranges_and_ports_decide_like_few() {
    let Some(scene) = Scene::new() else { return };
    let pod = scene.pod();
    let ranges: Vec<_> = (0..5000_u32)
        .map(|i| {
            format!(
                "      - 172.{}.{}.{}/31\n",
                16 + i / 4096,
                i / 16 % 256,
                i % 16 * 16
            )
        })
        .collect();
    let ports: Vec<_> = (0..5000)
        .map(|i| format!("      - {}\n", 20_000 + i))
        .collect();
    let config = format!(
        "kind: MeshConfig\napiVersion: config.openservicemesh.io/v1alpha2\nspec:\n  traffic:\n    \
         outboundIPRangeExclusionList:\n{}      - 198.51.100.11/32\n    outboundPortExclusionList:\n{}",
        ranges.concat(),
        ports.concat()
    );
    let files = TempDir::new();
    let config = files.file("mesh.yaml", &config).display().to_string();
    let to = [
        "198.51.100.10:80",
        "198.51.100.10:25000",
        "198.51.100.10:24999",
        "198.51.100.11:80",
    ];
    let _remote = scene.world.outside.server("remote", &to);
    let mut sidecar = pod.sidecar();
    let mut app = pod.app();
    for backend in Backend::ALL {
        scene.apply(backend, &["--config", &config]);
        assert_eq!(
            scene.nat(backend)[0].matches("excluded range").count(),
            5001
        );
        for outbound in &to[..2] {
            expect_outbound(
                &mut sidecar,
                &app.connect(Dial::to(outbound)),
                outbound,
                pod.ip4(),
            );
        }
        for direct in &to[2..] {
            expect_direct(&mut sidecar, &app.connect(Dial::to(direct)), "remote");
        }
        let said = scene.apply(backend, &["--config", &config]);
        assert!(said.contains("unchanged"), "{said}");
        let _ = scene.iptables(&["cleanup"]).succeeded();
    }
}
