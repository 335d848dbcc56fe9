//! `osm-agent init`, as an init container runs it: it proves that the pod is intercepted, or
//! fails in clear words.

#[path = "../mesh/mod.rs"]
mod mesh;

mod agent_socket;
mod container;
mod settings;

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

/// One that no connection of the check meets.
#[rstest]
fn foreign_rule_for_some_connections_is_said_not_to_be_proven(
    #[values(Backend::Nft, Backend::Legacy)] backend: Backend,
) {
    let Some(mesh) = mesh(backend) else { return };
    let pod = &mesh.world.pod;
    let tool = format!("iptables-{}", name(backend));
    for rule in [
        "-A OUTPUT -d 198.51.100.99/32 -p tcp -j ACCEPT",
        "-A OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353",
    ] {
        let args: Vec<_> = "-t nat".split(' ').chain(rule.split(' ')).collect();
        let output = pod.netns.command(&tool, &args);
        assert!(output.status.success(), "{output:?}");
    }
    let args = ["--mode=iptables", "--iptables-backend", name(backend)];
    let ended = Container::new(pod, &args).run().exited(0).saying(
        "self-check: every connection: not proven: a rule of others comes first and may take \
         some: iptables: -A OUTPUT -d 198.51.100.99/32 -p tcp -j ACCEPT",
    );
    assert!(!ended.stdout().contains("5353"), "{}", ended.stdout());
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

#[test]
fn tool_that_only_says_it_wrote_the_rules_is_found_out() {
    let Some(mesh) = mesh(Backend::Nft) else {
        return;
    };
    let files = osm_tests::TempDir::new();
    let fake = files.file("iptables-nft-restore", "#!/bin/sh\nexec cat >/dev/null\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&fake, executable).expect("our own file");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", files.path().display());
    let args = ["--mode=iptables", "--iptables-backend=nft"];
    let container = Container::new(&mesh.world.pod, &args).environment("PATH", &path);
    let ended = container.run().exited(1);
    assert!(
        !ended.stdout().contains("intercepted"),
        "{}",
        ended.stdout()
    );
}
