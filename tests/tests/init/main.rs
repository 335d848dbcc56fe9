//! `osm-agent init`, as an init container runs it: it proves that the pod is intercepted, or
//! fails in clear words.

#[path = "../mesh/mod.rs"]
mod mesh;

mod agent_socket;
mod container;

use container::{Container, interfaces, rules};
use mesh::{Backend, Mesh, expect_direct, expect_inbound, expect_outbound, expect_redirected};
use osm_tests::{Listener, Need, missing};
use rstest::rstest;

const REMOTE: &str = "198.51.100.10:80";
const REMOTE_V6: &str = "[2001:db8::10]:80";
const EXCLUDED: &str = "198.51.100.10:5432";

fn mesh(backend: Backend) -> Option<Mesh> {
    if missing(&[Need::Program("setpriv"), Need::Program("unshare")]) {
        return None;
    }
    Mesh::by(backend)
}

fn name(backend: Backend) -> &'static str {
    match backend {
        Backend::Nft => "nft",
        _ => "legacy",
    }
}

/// Both witnesses: what the app and the client see, and what the sidecar sees.
#[track_caller]
fn expect_intercepted(mesh: &Mesh) {
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _app_server = pod.server("app", &["127.0.0.1:8080", "0.0.0.0:9000"]);
    let outside = &mesh.world.outside;
    let _remote = outside.server("remote", &[REMOTE, EXCLUDED]);
    let mut app = pod.app();
    let connection = app.connect(REMOTE);
    assert_eq!(connection.answered_by(), "remote");
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    expect_direct(&mut sidecar, &app.connect(EXCLUDED), "remote");
    let own = format!("{}:9000", pod.ip4());
    let mut by_sidecar = pod.sidecar_client();
    let connection = by_sidecar.connect(own.as_str());
    expect_redirected(
        &mut sidecar,
        Listener::Inbound,
        &connection,
        &own,
        pod.ip4(),
    );
    let mut client = outside.client();
    let dialled = format!("{}:8080", pod.ip4());
    let connection = client.connect(dialled.as_str());
    assert_eq!(connection.answered_by(), "app");
    expect_inbound(&mut sidecar, &connection, &dialled);
    expect_direct(&mut sidecar, &client.connect(own.as_str()), "app");
}

#[rstest]
fn pod_is_intercepted_and_every_path_proven(
    #[values(Backend::Nft, Backend::Legacy)] backend: Backend,
) {
    let Some(mesh) = mesh(backend) else { return };
    let pod = &mesh.world.pod;
    let before = interfaces(pod);
    let args = [
        "--mode=iptables",
        "--iptables-backend",
        name(backend),
        "--outbound-port-exclusion-list=5432, 6379",
        "--inbound-port-exclusion-list=9000",
        "--outbound-ip-range-exclusion-list=203.0.113.0/24",
    ];
    Container::new(pod, &args)
        .run()
        .exited(0)
        .saying(&format!("intercepted by iptables-{}", name(backend)))
        .saying("outbound: proven: 192.0.2.1:80 arrived at 15001, with that original destination")
        .saying("the sidecar's bypass: proven")
        .saying("an excluded port: proven: 192.0.2.1:5432")
        .saying("an excluded range: proven: 203.0.113.1:80")
        .saying("inbound, an excluded port: proven: 10.77.1.2:9000")
        .saying("inbound: proven: 10.77.1.2:")
        .proving_all();
    assert_eq!(interfaces(pod), before);
    expect_intercepted(&mesh);
}

#[rstest]
fn nothing_of_the_check_stands_in_the_sidecar_s_way(
    #[values(Backend::Nft, Backend::Legacy)] backend: Backend,
) {
    let Some(mesh) = mesh(backend) else { return };
    let pod = &mesh.world.pod;
    let args = ["--mode=iptables", "--iptables-backend", name(backend)];
    let _ = Container::new(pod, &args).run().exited(0).proving_all();
    // No socket is left, not even in TIME_WAIT, which would keep a port from being bound.
    let read = || std::fs::read_to_string("/proc/thread-self/net/tcp").expect("the sockets");
    let sockets = pod.netns.run(read);
    assert_eq!(sockets.lines().count(), 1, "{sockets}");
}

#[rstest]
fn dual_stack_is_proven_in_both_families(
    #[values(Backend::Nft, Backend::Legacy)] backend: Backend,
) {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(mesh) = mesh(backend) else { return };
    let pod = &mesh.world.pod;
    let args = [
        "--mode=iptables",
        "--iptables-backend",
        name(backend),
        "--ip-families=dual",
    ];
    Container::new(pod, &args)
        .run()
        .exited(0)
        .saying("outbound (IPv6): proven: [2001:db8::1]:80 arrived at 15001")
        .saying("the sidecar to its pod (IPv6): proven")
        .saying("inbound (IPv6): proven: [fd77:1::2]:")
        .saying("inbound, the metrics port (IPv6): proven")
        .proving_all();
    let mut sidecar = pod.sidecar_with(&[
        "--outbound=0.0.0.0:15001",
        "--outbound=[::]:15001,v6only",
        "--inbound=0.0.0.0:15003",
        "--inbound=[::]:15003,v6only",
    ]);
    let _remote = mesh.world.outside.server("remote", &[REMOTE_V6]);
    let connection = pod.app().connect(REMOTE_V6);
    assert_eq!(connection.answered_by(), "remote");
    expect_outbound(&mut sidecar, &connection, REMOTE_V6, pod.ip6());
}

#[rstest]
fn run_again_it_finds_all_in_force(#[values(Backend::Nft, Backend::Legacy)] backend: Backend) {
    let Some(mesh) = mesh(backend) else { return };
    let pod = &mesh.world.pod;
    let tool = format!("iptables-{}-save", name(backend));
    let args = [
        "--mode=iptables",
        "--iptables-backend",
        name(backend),
        "--outbound-port-exclusion-list=5432",
        "--inbound-port-exclusion-list=9000",
    ];
    let _ = Container::new(pod, &args).run().exited(0);
    let written = rules(pod, &tool);
    assert!(written.contains("PROXY_REDIRECT"), "{written}");
    let again = Container::new(pod, &args).run().exited(0);
    let _ = again.saying("with these rules already").proving_all();
    assert_eq!(rules(pod, &tool), written);
    {
        // As with containers that run already: the sidecar has its ports.
        let mut sidecar = pod.sidecar();
        Container::new(pod, &args)
            .run()
            .exited(0)
            .saying("192.0.2.1:80 arrived at the sidecar's 15001, which listens already")
            .saying("arrived at the sidecar's 15003, which listens already")
            .saying("the sidecar's bypass: proven")
            .saying("inbound: not proven: the pod runs already");
        assert!(!sidecar.drain().is_empty(), "the sidecar saw the check");
    }
    assert_eq!(rules(pod, &tool), written);
    expect_intercepted(&mesh);
}

#[rstest]
#[case("OUTPUT", "outbound: 192.0.2.1:80 should arrive at 15001")]
#[case("PREROUTING", "inbound: 10.77.1.2:")]
fn foreign_rule_that_comes_first_is_noticed(
    #[case] chain: &str,
    #[case] words: &str,
    #[values(Backend::Nft, Backend::Legacy)] backend: Backend,
) {
    let Some(mesh) = mesh(backend) else { return };
    let pod = &mesh.world.pod;
    let tool = format!("iptables-{}", name(backend));
    let args = ["-t", "nat", "-I", chain, "-p", "tcp", "-j", "ACCEPT"];
    let output = pod.netns.command(&tool, &args);
    assert!(output.status.success(), "{output:?}");
    let args = ["--mode=iptables", "--iptables-backend", name(backend)];
    let _ = Container::new(pod, &args).run().exited(126).complaining(&[
        "redirection does not work",
        words,
        "another program's rules",
    ]);
}

#[rstest]
fn redirection_of_what_is_the_sidecar_s_is_noticed(
    #[values(Backend::Nft, Backend::Legacy)] backend: Backend,
) {
    let Some(mesh) = mesh(backend) else { return };
    let pod = &mesh.world.pod;
    let tool = format!("iptables-{}", name(backend));
    let rule = "-t nat -I OUTPUT -p tcp -m owner --uid-owner 1500 -j REDIRECT --to-ports 15001";
    let args: Vec<_> = rule.split(' ').collect();
    let output = pod.netns.command(&tool, &args);
    assert!(output.status.success(), "{output:?}");
    let args = ["--mode=iptables", "--iptables-backend", name(backend)];
    let _ = Container::new(pod, &args).run().exited(126).complaining(&[
        "the sidecar's bypass: 192.0.2.1:80 should not be redirected, but it arrived at 15001",
    ]);
}

#[test]
fn without_net_admin_it_says_where_to_add_it() {
    let Some(mesh) = mesh(Backend::Nft) else {
        return;
    };
    let pod = &mesh.world.pod;
    for mode in ["iptables", "auto"] {
        let args = ["--mode", mode];
        let container = Container::new(pod, &args).capabilities(&["net_raw", "setuid"]);
        let _ = container.run().exited(1).complaining(&[
            "CAP_NET_ADMIN",
            "add NET_ADMIN to securityContext.capabilities.add",
        ]);
    }
}

#[test]
fn net_admin_alone_is_enough_and_what_is_not_proven_is_said() {
    let Some(mesh) = mesh(Backend::Nft) else {
        return;
    };
    let pod = &mesh.world.pod;
    let args = [
        "--mode=iptables",
        "--iptables-backend=nft",
        "--outbound-port-exclusion-list=5432",
        "--inbound-port-exclusion-list=9000",
    ];
    Container::new(pod, &args)
        .capabilities(&["net_admin"])
        .run()
        .exited(0)
        .saying("outbound: proven")
        .saying("the sidecar's bypass: not proven: this process may not be user 1500")
        .saying("inbound: not proven: no client outside of the pod can be made up");
    expect_intercepted(&mesh);
}

#[rstest]
fn read_only_root_filesystem_is_no_obstacle(
    #[values(Backend::Nft, Backend::Legacy)] backend: Backend,
) {
    let Some(mesh) = mesh(backend) else { return };
    let args = [
        "--mode=iptables",
        "--iptables-backend",
        name(backend),
        "--outbound-port-exclusion-list=5432",
        "--inbound-port-exclusion-list=9000",
    ];
    let container = Container::new(&mesh.world.pod, &args).read_only();
    let _ = container.run().exited(0).proving_all();
    expect_intercepted(&mesh);
}

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
    assert_eq!(ended.stdout(), "nothing is intercepted: the mode is none\n");
    assert!(!rules(pod, "iptables-nft-save").contains("PROXY"));
}

#[test]
fn the_machine_s_own_namespace_is_refused() {
    let Some(mesh) = mesh(Backend::Nft) else {
        return;
    };
    let args = ["init", "--mode", "iptables"];
    let outcome = mesh.agent.run(&args);
    assert_eq!(outcome.status.code(), Some(2), "{outcome}");
    assert!(outcome.stderr.contains("is the host's own"), "{outcome}");
}

#[test]
fn application_on_the_sidecar_s_port_is_named() {
    let Some(mesh) = mesh(Backend::Nft) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _server = pod.server("app", &["0.0.0.0:15001"]);
    let container = Container::new(pod, &["--mode=iptables", "--iptables-backend=nft"]);
    let words = ["user 1000 listens on port 15001", "the sidecar's"];
    let _ = container.run().exited(1).complaining(&words);
}
