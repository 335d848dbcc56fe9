//! What the mesh can ask for beyond lists: both families, excluded interfaces, `PodIP`.

mod mesh;

use std::time::{Duration, Instant};

use mesh::{Backend, Lists, Mesh, expect_direct, expect_inbound, expect_outbound, expect_refused};
use osm_tests::{Accepted, Actor, Connection, Dial, Listener, Need, canonical, missing};
use rstest::rstest;

const BOTH: [&str; 4] = ["--outbound", "[::]:15001", "--inbound", "[::]:15003"];

fn config(spec: &str) -> String {
    format!("apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nspec: {{{spec}}}\n")
}

#[test]
fn native_ipv6_passes_unless_dual_stack() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let _ = mesh.agent.attach(pod).run().succeeded();
    let mut sidecar = pod.sidecar_with(&BOTH);
    let _remote = mesh.world.outside.server("remote", &["[2001:db8::10]:80"]);
    let _local = pod.server("local", &["[::]:8080"]);
    let (mut app, mut client) = (pod.app(), mesh.world.outside.client());
    expect_direct(&mut sidecar, &app.connect("[2001:db8::10]:80"), "remote");
    expect_direct(&mut sidecar, &client.connect("[fd77:1::2]:8080"), "local");
}

#[test]
#[expect(clippy::too_many_lines, reason = "every row of the table, once more")]
fn dual_stack_gives_ipv6_the_semantics_of_ipv4() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let _ = mesh
        .agent
        .attach(pod)
        .option("--ip-families", "dual")
        .annotation(
            "openservicemesh.io/outbound-ip-range-exclusion-list",
            "2001:db8::11/128",
        )
        .annotation("openservicemesh.io/outbound-port-exclusion-list", "81")
        .annotation("openservicemesh.io/inbound-port-exclusion-list", "9090")
        .run()
        .succeeded();
    let remote = [
        "[2001:db8::10]:80",
        "[2001:db8::10]:81",
        "[2001:db8::11]:80",
        "198.51.100.10:80",
    ];
    let _remote = mesh.world.outside.server("remote", &remote);
    let _local = pod.server("local", &["[::]:8080", "[::]:9090"]);
    let _metrics = pod.sidecar_server("local", &["[::]:15010"]);
    let (mut app, mut caller, mut client) =
        (pod.app(), pod.sidecar_client(), mesh.world.outside.client());
    expect_refused(&mut app, Dial::to(remote[0]));
    expect_refused(&mut client, Dial::to("[fd77:1::2]:8080"));
    let mut sidecar = pod.sidecar_with(&BOTH);
    for dial in [
        Dial::to(remote[0]),
        Dial::to(remote[0]).nonblocking(),
        Dial::to(remote[0]).bind("[::]:41000"),
        Dial::to(remote[0]).bind("[fd77:1::2]:0"),
    ] {
        let connection = app.connect(dial);
        assert_eq!(connection.answered_by(), "remote");
        let accepted = sidecar.accepted_from(connection.local());
        expect_v6(&accepted, Listener::Outbound, &connection, remote[0]);
        assert_eq!(connection.local().ip(), pod.ip6());
        assert_eq!(accepted.local.to_string(), "[::1]:15001");
    }
    for direct in [remote[1], remote[2]] {
        expect_direct(&mut sidecar, &app.connect(direct), "remote");
    }
    for local in ["[::1]:8080", "[fd77:1::2]:8080"] {
        expect_direct(&mut sidecar, &app.connect(local), "local");
    }
    // The sidecar's own calls: away and to ::1 direct, to the pod inbound.
    expect_direct(&mut sidecar, &caller.connect(remote[0]), "remote");
    expect_direct(&mut sidecar, &caller.connect("[::1]:8080"), "local");
    let connection = caller.connect("[fd77:1::2]:8080");
    let accepted = sidecar.accepted_from(connection.local());
    expect_v6(
        &accepted,
        Listener::Inbound,
        &connection,
        "[fd77:1::2]:8080",
    );
    // From outside.
    let connection = client.connect("[fd77:1::2]:8080");
    assert_eq!(connection.answered_by(), "local");
    let accepted = sidecar.accepted_from(connection.local());
    expect_v6(
        &accepted,
        Listener::Inbound,
        &connection,
        "[fd77:1::2]:8080",
    );
    for direct in ["[fd77:1::2]:9090", "[fd77:1::2]:15010"] {
        expect_direct(&mut sidecar, &client.connect(direct), "local");
    }
    // And IPv4 as ever.
    expect_outbound(&mut sidecar, &app.connect(remote[3]), remote[3], pod.ip4());
}

#[track_caller]
fn expect_v6(accepted: &Accepted, listener: Listener, connection: &Connection, dialled: &str) {
    assert_eq!(accepted.listener, listener);
    assert_eq!(accepted.original_destination(), mesh::address(dialled));
    assert_eq!(accepted.peer, connection.local());
    assert_eq!(accepted.peer_from_accept, connection.local());
    assert_eq!(connection.peer(), mesh::address(dialled));
}

#[test]
fn dual_stack_without_an_ipv6_listener_refuses_ipv6_only() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let _ = mesh
        .agent
        .attach(pod)
        .option("--ip-families", "dual")
        .run()
        .succeeded();
    let mut sidecar = pod.sidecar();
    let _remote = mesh
        .world
        .outside
        .server("remote", &["[2001:db8::10]:80", "198.51.100.10:80"]);
    let mut app = pod.app();
    expect_refused(&mut app, Dial::to("[2001:db8::10]:80"));
    expect_refused(
        &mut mesh.world.outside.client(),
        Dial::to("[fd77:1::2]:8080"),
    );
    let connection = app.connect("198.51.100.10:80");
    expect_outbound(&mut sidecar, &connection, "198.51.100.10:80", pod.ip4());
}

#[rstest]
fn inclusions_limit_their_own_family_only(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(mesh) = Mesh::by(backend) else {
        return;
    };
    let mesh = mesh.with_flag("--ip-families", "dual");
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar_with(&BOTH);
    let v4 = ["198.51.100.10:80", "203.0.113.7:80"];
    let v6 = ["[2001:db8::10]:80", "[2001:db8::11]:80"];
    let _remote = mesh.world.outside.server("remote", &[v4, v6].concat());
    let mut app = pod.app();
    for (included_ranges, redirected, direct) in [
        ("203.0.113.0/24", [v4[1], v6[0], v6[1]], Some(v4[0])),
        ("2001:db8::11/128", [v6[1], v4[0], v4[1]], Some(v6[0])),
        // Across the block in which IPv4 may be written.
        ("0.0.0.0/0,::/0", [v4[0], v6[0], v6[1]], None),
    ] {
        let lists = Lists {
            included_ranges,
            ..Lists::default()
        };
        let _ = mesh.attach(&lists).succeeded();
        for to in redirected {
            let own = [pod.ip4(), pod.ip6()][usize::from(mesh::address(to).is_ipv6())];
            expect_outbound(&mut sidecar, &app.connect(to), to, own);
        }
        if let Some(direct) = direct {
            expect_direct(&mut sidecar, &app.connect(direct), "remote");
        }
    }
}

#[test]
fn excluded_interface_is_left_alone_in_both_directions() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    pod.add_interface(&mesh.world.outside, "net1", 5);
    pod.netns.ip(&["route add 192.0.2.0/24 via 10.78.5.1"]);
    let text = config("traffic: {networkInterfaceExclusionList: [net1, absent0]}");
    let _ = mesh.agent.attach(pod).config(&text).run().succeeded();
    let mut sidecar = pod.sidecar();
    let remote = ["198.51.100.10:80", "10.78.5.1:80", "192.0.2.20:80"];
    let _remote = mesh.world.outside.server("remote", &remote);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let (mut app, mut client) = (pod.app(), mesh.world.outside.client());
    expect_outbound(&mut sidecar, &app.connect(remote[0]), remote[0], pod.ip4());
    for direct in &remote[1..] {
        expect_direct(&mut sidecar, &app.connect(*direct), "remote");
    }
    expect_inbound(
        &mut sidecar,
        &client.connect("10.77.1.2:8080"),
        "10.77.1.2:8080",
    );
    expect_direct(&mut sidecar, &client.connect("10.78.5.2:8080"), "local");
    // Without the list, all of it is intercepted; and attaching again reads routes anew.
    let _ = mesh.agent.attach(pod).run().succeeded();
    let connection = app.connect(remote[2]);
    sidecar.accepted_from(connection.local());
    pod.netns.ip(&["route add 198.51.100.0/24 via 10.78.5.1"]);
    let _ = mesh.agent.attach(pod).config(&text).run().succeeded();
    expect_direct(&mut sidecar, &app.connect(remote[0]), "remote");
    pod.netns.ip(&["route del 198.51.100.0/24"]);
    let _ = mesh.agent.attach(pod).config(&text).run().succeeded();
    expect_outbound(&mut sidecar, &app.connect(remote[0]), remote[0], pod.ip4());
    let _ = mesh.detach().succeeded();
    assert!(mesh.agent.state().pins().is_empty());
}

#[test]
fn routes_and_interfaces_are_followed_in_the_foreground() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let files = osm_tests::TempDir::new();
    let path = files.file(
        "mesh.yaml",
        &config("traffic: {networkInterfaceExclusionList: [net1]}"),
    );
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &["198.51.100.10:80"]);
    let mut app = pod.app();
    let [netns, cgroup, path] =
        [pod.netns.path(), pod.cgroup.path().into(), path].map(|path| path.display().to_string());
    let args = [
        "attach",
        "--foreground",
        "--netns",
        &netns,
        "--cgroup",
        &cgroup,
        "--config",
        &path,
    ];
    let mut agent = mesh.agent.start(&args);
    assert!(
        agent
            .line(Duration::from_secs(30))
            .is_some_and(|line| line.contains("intercepted"))
    );
    expect_outbound(
        &mut sidecar,
        &app.connect("198.51.100.10:80"),
        "198.51.100.10:80",
        pod.ip4(),
    );
    pod.add_interface(&mesh.world.outside, "net1", 6);
    pod.netns.ip(&["route add 198.51.100.0/24 via 10.78.6.1"]);
    eventually(&mut sidecar, "the new route is left alone", || {
        let connection = app.connect("198.51.100.10:80");
        connection.greeting().peer == connection.local()
    });
    pod.netns.ip(&["route del 198.51.100.0/24"]);
    eventually(&mut sidecar, "the old route is intercepted again", || {
        let connection = app.connect("198.51.100.10:80");
        connection.greeting().peer != connection.local()
    });
}

#[track_caller]
fn eventually(sidecar: &mut Actor, what: &str, mut happens: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happens() {
        assert!(start.elapsed() < Duration::from_secs(10), "not yet: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    sidecar.drain();
}

#[test]
fn pod_ip_mode_leads_the_sidecar_s_local_calls_to_the_pod_s_address() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let text = config("sidecar: {localProxyMode: PodIP}");
    let _ = mesh.agent.attach(pod).config(&text).run().succeeded();
    let mut sidecar = pod.sidecar();
    let mut local = pod.server("local", &["10.77.1.2:8080"]);
    let _loopback = pod.server("loopback", &["127.0.0.1:8081"]);
    let (mut app, mut caller) = (pod.app(), pod.sidecar_client());
    for dial in mesh::both_families("127.0.0.1:8080") {
        let connection = caller.connect(dial);
        assert_eq!(connection.answered_by(), "local");
        assert_eq!(
            canonical(connection.peer()),
            mesh::address("127.0.0.1:8080")
        );
        let accepted = local.next_accepted();
        assert_eq!(accepted.local, mesh::address("10.77.1.2:8080"));
        assert_eq!(accepted.peer, canonical(connection.local()));
        assert!(accepted.peer.ip().is_loopback());
    }
    expect_refused(&mut caller, Dial::to("127.0.0.1:8081"));
    // Only for the sidecar, and only for that address.
    expect_direct(&mut sidecar, &app.connect("127.0.0.1:8081"), "loopback");
    let connection = caller.connect(Dial::to("10.77.1.2:8080").no_greeting());
    assert_eq!(
        sidecar.accepted_from(connection.local()).listener,
        Listener::Inbound
    );
    // A client from outside reaches the application through the sidecar's call.
    let connection = mesh.world.outside.client().connect("10.77.1.2:8080");
    assert_eq!(connection.answered_by(), "local");
    expect_inbound(&mut sidecar, &connection, "10.77.1.2:8080");
}
