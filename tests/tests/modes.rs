//! Going from one means of interception to another.

mod mesh;

use std::time::Duration;

use mesh::{Backend, Mesh, expect_direct, expect_inbound, expect_outbound};
use osm_tests::Dial;
use rstest::rstest;

const REMOTE: &str = "198.51.100.10:80";

#[rstest]
fn new_means_replaces_the_old_one(#[values("legacy", "nft")] tool: &str) {
    let Some(mesh) = Mesh::by(if tool == "nft" {
        Backend::Nft
    } else {
        Backend::Legacy
    }) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    let save = format!("iptables-{tool}-save");
    let rules = || {
        let output = pod.netns.command(&save, &["-t", "nat"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.matches("-A PROXY_").count()
    };
    for (mode, has_pins) in [("iptables", false), ("ebpf", true), ("iptables", false)] {
        let attach = mesh.agent.attach(pod).option("--mode", mode);
        let _ = attach.option("--iptables-backend", tool).run().succeeded();
        expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
        assert_eq!(!mesh.agent.state().pins().is_empty(), has_pins, "{mode}");
        assert_eq!(rules() == 0, has_pins, "{mode}");
    }
    let none = mesh.agent.attach(pod).option("--mode", "none").run();
    assert!(none.succeeded().stdout.contains("no longer intercepted"));
    assert_eq!(rules(), 0);
    expect_direct(&mut sidecar, &app.connect(REMOTE), "remote");
}

#[test]
fn two_commands_that_go_opposite_ways_leave_one_means() {
    let Some(mesh) = Mesh::by(Backend::Nft) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    for _ in 0..8 {
        std::thread::scope(|scope| {
            for mode in ["ebpf", "iptables"] {
                let mesh = &mesh;
                scope.spawn(move || {
                    let attach = mesh.agent.attach(&mesh.world.pod).option("--mode", mode);
                    let _ = attach.option("--iptables-backend", "nft").run().succeeded();
                });
            }
        });
        expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
        let rules = pod.netns.command("iptables-nft-save", &["-t", "nat"]);
        let has_rules = String::from_utf8_lossy(&rules.stdout).contains("-A PROXY_");
        assert_ne!(
            has_rules,
            !mesh.agent.state().pins().is_empty(),
            "one of them"
        );
    }
}

/// Clients that come again from the same ports, while the means changes under them.
#[rstest]
fn no_inbound_connection_goes_around_the_sidecar_while_the_means_changes(
    #[values("legacy", "nft")] tool: &str,
) {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let attach = |mode: &str| {
        let attach = mesh.agent.attach(pod).option("--mode", mode);
        let _ = attach.option("--iptables-backend", tool).run().succeeded();
    };
    attach("ebpf");
    let _sidecar = pod.sidecar_with(&["--quiet"]);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let mut client = mesh.world.outside.client();
    let mut dial = |count: u16| {
        let mut through = 0;
        for i in 0..count {
            let from = format!("203.0.113.7:{}", 20_000 + i % 40);
            let limit = Duration::from_millis(500);
            let dial = Dial::to("10.77.1.2:8080")
                .reuseaddr()
                .bind(&from)
                .timeout(limit);
            let connection = client.connect(dial);
            client.reset(connection.id);
            if let Some(greeting) = connection.greeting {
                assert_ne!(Some(greeting.peer), connection.local, "around the sidecar");
                through += 1;
            }
        }
        through
    };
    assert!(dial(200) > 150);
    std::thread::scope(|scope| {
        let switch = scope.spawn(|| attach("iptables"));
        while !switch.is_finished() {
            dial(40);
        }
    });
    assert!(dial(400) > 300);
}

/// Redirected by eBPF, they would be met by connection tracking in their midst.
#[rstest]
fn established_connections_live_on_from_ebpf_to_iptables(#[values("legacy", "nft")] tool: &str) {
    const LOCAL: &str = "10.77.1.2:8080";
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let attach = |mode: &str| {
        let attach = mesh.agent.attach(pod).option("--mode", mode);
        let _ = attach.option("--iptables-backend", tool).run().succeeded();
    };
    attach("ebpf");
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let _local = pod.server("local", &["127.0.0.1:8080"]);
    let mut app = pod.app();
    let mut client = mesh.world.outside.client();
    let outbound = app.connect(REMOTE);
    expect_outbound(&mut sidecar, &outbound, REMOTE, pod.ip4());
    let inbound = client.connect(LOCAL);
    expect_inbound(&mut sidecar, &inbound, LOCAL);
    attach("iptables");
    assert!(mesh.agent.state().pins().is_empty(), "eBPF is gone");
    for turn in ["one", "two"] {
        // Through the sidecar: it would say so if it had lost one end.
        assert_eq!(app.send(outbound.id, turn).text, turn);
        assert_eq!(client.send(inbound.id, turn).text, turn);
        // New ones have gone the new way meanwhile, which tracks them.
        expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    }
    assert_eq!(app.finish(outbound.id).error, None);
    assert_eq!(client.finish(inbound.id).error, None);
}

/// As it is in the midst of a change, and after somebody has written the rules by hand.
#[rstest]
fn both_means_at_once_tell_the_sidecar_the_same_destinations(
    #[values("legacy", "nft")] tool: &str,
) {
    const LOCAL: &str = "10.77.1.2:8080";
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let _ = mesh
        .agent
        .attach(pod)
        .option("--mode", "ebpf")
        .run()
        .succeeded();
    let netns = pod.netns.path().display().to_string();
    let apply = [
        "iptables",
        "apply",
        "--netns",
        &netns,
        "--iptables-backend",
        tool,
    ];
    let _ = mesh.agent.run(&apply).succeeded();
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let _local = pod.server("local", &["127.0.0.1:8080"]);
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
    let connection = mesh.world.outside.client().connect(LOCAL);
    assert_eq!(connection.answered_by(), "local");
    let accepted = sidecar.accepted_from(connection.local());
    assert_eq!(accepted.original_destination(), mesh::address(LOCAL));
    // The sidecar's own calls to its pod are redirected twice, and refused.
    let own = pod.sidecar_client().connect(LOCAL);
    assert_eq!(own.greeting_error.as_deref(), Some("ECONNRESET"));
}
