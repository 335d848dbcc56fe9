//! Tables that `nft` made, and iptables can't show.

use osm_tests::{Need, missing};

use crate::scene::{Backend, Scene};

fn nft(scene: &Scene, command: &str) -> String {
    let args: Vec<&str> = command.split(' ').collect();
    let output = scene.pod().netns.command("nft", &args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn table_made_with_nft_is_an_error_and_left_alone() {
    let Some(scene) = Scene::new() else { return };
    if missing(&[Need::Program("nft")]) {
        return;
    }
    let nft = |command: &str| nft(&scene, command);
    nft("add table ip nat");
    nft("add chain ip nat OUTPUT { type nat hook output priority -100 ; }");
    nft("add rule ip nat OUTPUT tcp dport { 1, 2 } redirect to :5");
    let before = nft("list ruleset");
    scene
        .iptables(&["apply"])
        .failed(1, &["made with nft", "--iptables-backend legacy"]);
    assert_eq!(nft("list ruleset"), before);
    scene.apply(Backend::Legacy, &[]);
    assert_eq!(nft("list ruleset"), before);
}

#[test]
fn table_made_with_nft_for_ipv6_is_in_the_way_of_ipv6_only() {
    let Some(scene) = Scene::new() else { return };
    if missing(&[Need::Program("nft"), Need::Ipv6]) {
        return;
    }
    let nft = |command: &str| nft(&scene, command);
    nft("add table ip6 nat");
    nft("add chain ip6 nat OUTPUT { type nat hook output priority -100 ; }");
    nft("add rule ip6 nat OUTPUT tcp dport { 1, 2 } redirect to :5");
    let before = nft("list table ip6 nat");
    let dual = ["apply", "--ip-families", "dual"];
    let made_with_nft = ["ip6tables", "made with nft", "--iptables-backend legacy"];
    scene.iptables(&dual).failed(1, &made_with_nft);
    assert!(!scene.nat(Backend::Nft)[0].contains("PROXY_"));
    for expected in ["written, by iptables-nft", "unchanged, by iptables-nft"] {
        let said = scene.iptables(&["apply"]).succeeded();
        assert!(said.contains(expected), "{said}");
    }
    assert!(
        scene
            .iptables(&["cleanup"])
            .succeeded()
            .contains("rules removed")
    );
    assert_eq!(nft("list table ip6 nat"), before);
    // With a chain of ours in it, what it does is not known.
    nft("add chain ip6 nat PROXY_OUTPUT");
    scene
        .iptables(&["apply"])
        .failed(1, &["ip6tables", "made with nft"]);
    scene
        .iptables(&["cleanup"])
        .failed(1, &["ip6tables", "made with nft"]);
}
