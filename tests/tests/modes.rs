//! Going from one means of interception to another.

mod mesh;

use mesh::{Backend, Mesh, expect_direct, expect_outbound};
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
