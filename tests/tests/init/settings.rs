//! What an init container is told, and by what.

use rstest::rstest;

use crate::{
    container::{Container, rules},
    expect_intercepted, mesh,
    mesh::{Backend, expect_direct},
};

#[test]
fn lists_come_from_flags_environment_and_file() {
    let Some(mesh) = mesh(Backend::Nft) else {
        return;
    };
    let pod = &mesh.world.pod;
    let files = osm_tests::TempDir::new();
    let file = files.file(
        "mesh-config.yaml",
        "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
         spec: {traffic: {interceptionMode: iptables, outboundPortExclusionList: [5432]}}\n",
    );
    let file = file.display().to_string();
    let args = [
        "--iptables-backend=nft",
        "--config",
        &file,
        "--outbound-port-exclusion-list=6379",
    ];
    let container = Container::new(pod, &args)
        .environment("OSM_OUTBOUND_PORT_EXCLUSION_LIST", "7000,7001")
        .environment("OSM_INBOUND_PORT_EXCLUSION_LIST", "9000")
        .environment("OSM_OUTBOUND_IP_RANGE_EXCLUSION_LIST", "")
        .environment("OSM_OUTBOUND_IP_RANGE_INCLUSION_LIST", "198.51.100.0/24")
        .environment("OSM_NETWORK_INTERFACE_EXCLUSION_LIST", "eth7")
        .environment("OSM_MODE", "");
    container
        .run()
        .exited(0)
        .saying("intercepted by iptables-nft")
        .saying("outbound: proven: 198.51.100.1:80")
        .saying("outside of the included ranges: proven: 192.0.2.1:80")
        .proving_all();
    let written = rules(pod, "iptables-nft-save");
    for part in [
        "5432,6379,7000,7001",
        "--dports 9000",
        "-o eth7",
        "-d 198.51.100.0/24",
    ] {
        assert!(written.contains(part), "{part} is not in:\n{written}");
    }
    expect_intercepted(&mesh);
}

#[rstest]
#[case(&["--outbound-port-exclusion-list=80,,81"], "", "--outbound-port-exclusion-list: item 2 is empty")]
#[case(&["--outbound-port-exclusion-list="], "", "--outbound-port-exclusion-list: item 1 is empty")]
#[case(&["--inbound-port-exclusion-list=70000"], "", "--inbound-port-exclusion-list: item 1 is \"70000\"")]
#[case(&["--outbound-ip-range-exclusion-list=10.0.0.0/99"], "", "item 1 is \"10.0.0.0/99\"")]
#[case(&["--outbound-ip-range-inclusion-list=10.0.0.1"], "", "write 10.0.0.1/32")]
#[case(&[], "80,http", "OSM_OUTBOUND_PORT_EXCLUSION_LIST: item 2 is \"http\"")]
#[case(&["--config=/nonexistent"], "", "/nonexistent: cannot be read")]
fn bad_lists_are_refused_and_nothing_is_applied(
    #[case] args: &[&str],
    #[case] variable: &str,
    #[case] words: &str,
) {
    let Some(mesh) = mesh(Backend::Nft) else {
        return;
    };
    let pod = &mesh.world.pod;
    let args = [args, &["--mode=iptables"]].concat();
    let container = Container::new(pod, &args);
    let container = container.environment("OSM_OUTBOUND_PORT_EXCLUSION_LIST", variable);
    let _ = container.run().exited(2).complaining(&[words]);
    for tool in ["iptables-nft-save", "iptables-legacy-save"] {
        let rules = rules(pod, tool);
        assert!(!rules.contains("PROXY"), "{rules}");
    }
}

#[test]
fn unknown_modes_are_refused() {
    let Some(mesh) = mesh(Backend::Nft) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _ = Container::new(pod, &["--mode=magic"]).run().exited(2);
    let container = Container::new(pod, &[]).environment("OSM_MODE", "magic");
    let words = ["OSM_MODE", "\"magic\"", "auto, ebpf, iptables or none"];
    let _ = container.run().exited(2).complaining(&words);
}

#[test]
fn mode_none_does_nothing_and_says_so() {
    let Some(mesh) = mesh(Backend::Nft) else {
        return;
    };
    let pod = &mesh.world.pod;
    let container = Container::new(pod, &["--mode=none"]).capabilities(&[]);
    let ended = container.run().exited(0);
    assert!(
        ended
            .stdout()
            .starts_with("nothing is done: the mode is none")
    );
    assert!(!rules(pod, "iptables-nft-save").contains("PROXY"));
}

#[rstest]
fn pod_ip_and_excluded_interfaces_are_proven_too(
    #[values(Backend::Nft, Backend::Legacy)] backend: Backend,
) {
    let Some(mesh) = mesh(backend) else {
        return;
    };
    let pod = &mesh.world.pod;
    pod.add_interface(&mesh.world.outside, "net1", 1);
    pod.netns.ip(&["route add 192.0.2.0/24 via 10.78.1.1"]);
    let args = [
        "--mode=iptables",
        "--iptables-backend",
        crate::name(backend),
        "--network-interface-exclusion-list=net1",
        "--local-proxy-mode=PodIP",
    ];
    let ended = Container::new(pod, &args).run().exited(0);
    ended
        .saying("outbound: proven: 198.51.100.1:80")
        .saying("an excluded interface: proven: 192.0.2.1:80")
        .saying("the sidecar to localhost: proven: 127.0.0.1:")
        .proving_all();
    let mut sidecar = pod.sidecar();
    let _server = pod.server("app", &["10.77.1.2:8080"]);
    let mut by_sidecar = pod.sidecar_client();
    let connection = by_sidecar.connect("127.0.0.1:8080");
    assert_eq!(connection.answered_by(), "app");
    let _remote = mesh.world.outside.server("remote", &["192.0.2.20:80"]);
    expect_direct(&mut sidecar, &pod.app().connect("192.0.2.20:80"), "remote");
}
