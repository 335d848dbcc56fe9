//! Every way to connect a socket, and what else a socket can be asked.

mod mesh;

use std::{process::Command, time::Duration};

use mesh::{Lists, Mesh, expect_direct, expect_outbound};
use osm_tests::{
    Dial, Family, Fastopen, Listener, Many, Need, canonical, missing, process::Process,
};
use rstest::rstest;

const REMOTE: &str = "198.51.100.10:80";

#[rstest]
fn every_way_to_connect_is_redirected(#[values(false, true)] one_by_one: bool) {
    if missing(&[Need::IoUring]) {
        return;
    }
    let Some(mesh) = Mesh::handing_over(one_by_one) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    for dial in [
        Dial::to(REMOTE).nonblocking(),
        Dial::to(REMOTE).v6().nonblocking(),
        Dial::to(REMOTE).io_uring(),
        Dial::to(REMOTE).v6().io_uring(),
        Dial::to(REMOTE)
            .fastopen(Fastopen::Connect)
            .payload("early"),
        Dial::to(REMOTE).fastopen(Fastopen::Sendto).payload("early"),
        Dial::to(REMOTE).bind("10.77.1.2:0"),
        Dial::to(REMOTE).v6().bind("[::]:0"),
    ] {
        let what = format!("{dial:?}");
        let connection = app.connect(dial);
        assert_eq!(connection.error, None, "{what}");
        assert_eq!(connection.answered_by(), "remote", "{what}");
        expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    }
}

#[rstest]
fn mptcp_socket_is_redirected(#[values(false, true)] one_by_one: bool) {
    if missing(&[Need::Mptcp]) {
        return;
    }
    let Some(mesh) = Mesh::handing_over(one_by_one) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let connection = pod.app().connect(Dial::to(REMOTE).mptcp());
    assert_eq!(connection.answered_by(), "remote");
    let accepted = sidecar.next_accepted();
    assert_eq!(accepted.original_destination(), mesh::address(REMOTE));
    assert_eq!(accepted.peer, connection.local());
}

/// Data in the SYN: the sidecar's socket is there before the app's is established.
#[rstest]
fn fast_open_that_the_sidecar_accepts_keeps_its_destination(
    #[values(false, true)] one_by_one: bool,
) {
    let Some(mesh) = Mesh::handing_over(one_by_one) else {
        return;
    };
    let pod = &mesh.world.pod;
    // Client, server, and no cookies asked for on either side, on every listener.
    pod.netns.sysctl("net/ipv4/tcp_fastopen", "1543");
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    for how in [Fastopen::Connect, Fastopen::Sendto] {
        let connection = app.connect(Dial::to(REMOTE).fastopen(how).payload("early"));
        assert_eq!(connection.echoed.as_deref(), Some("early"));
        expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    }
    let netstat = pod.netns.command("cat", &["/proc/thread-self/net/netstat"]);
    let netstat = String::from_utf8_lossy(&netstat.stdout).into_owned();
    assert_eq!(
        counter(&netstat, "TCPFastOpenPassive"),
        2,
        "fast open was not used"
    );
}

fn counter(netstat: &str, name: &str) -> u64 {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let at = names
        .split(' ')
        .position(|it| it == name)
        .expect("a counter of that name");
    values
        .split(' ')
        .nth(at)
        .and_then(|value| value.parse().ok())
        .expect("its value")
}

#[rstest]
fn one_source_port_leads_to_two_destinations_at_once(#[values(false, true)] one_by_one: bool) {
    let Some(mesh) = Mesh::handing_over(one_by_one) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let to = [REMOTE, "198.51.100.11:80", "198.51.100.10:81"];
    let _remote = mesh.world.outside.server("remote", &to);
    let mut app = pod.app();
    for bind in ["0.0.0.0:40000", "10.77.1.2:40001"] {
        let connections: Vec<_> = to
            .iter()
            .map(|to| app.connect(Dial::to(to).reuseaddr().bind(bind)))
            .collect();
        for (connection, to) in connections.iter().zip(to) {
            assert_eq!(connection.local().port(), mesh::address(bind).port());
            assert_eq!(connection.peer(), mesh::address(to));
            assert_eq!(connection.local().ip(), pod.ip4());
            let accepted = sidecar.next_accepted();
            assert_eq!(accepted.original_destination(), mesh::address(to));
            assert_eq!(accepted.peer, connection.local());
            assert_eq!(accepted.peer_from_accept, connection.local());
        }
        for connection in connections {
            assert_eq!(app.send(connection.id, "mine").text, "mine");
        }
    }
}

#[rstest]
fn every_destination_has_all_source_ports_to_itself(#[values(false, true)] one_by_one: bool) {
    let Some(mesh) = Mesh::handing_over(one_by_one) else {
        return;
    };
    let pod = &mesh.world.pod;
    pod.netns
        .sysctl("net/ipv4/ip_local_port_range", "40000 40099");
    let _sidecar = pod.sidecar();
    let to: Vec<_> = (9000..9004)
        .map(|port| format!("203.0.113.7:{port}"))
        .collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let _remote = mesh.world.outside.server("remote", &to);
    let mut app = pod.app();
    let mut pairs = std::collections::HashSet::new();
    for to in to {
        for _ in 0..90 {
            let connection = app.connect(to);
            assert_eq!(connection.answered_by(), "remote");
            // As without us, no two connections of the pod have the same addresses and ports.
            let is_new = pairs.insert((connection.local(), to));
            assert!(is_new, "{connection:?}");
        }
    }
    assert_eq!(pairs.len(), 360);
}

#[test]
fn socket_that_failed_connects_again_and_forgets_the_first_destination() {
    let Some(mesh) = Mesh::attached(&Lists {
        excluded_ports: "81",
        ..Lists::default()
    }) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _remote = mesh
        .world
        .outside
        .server("remote", &[REMOTE, "198.51.100.10:81"]);
    let mut app = pod.app();
    let refused = app.connect(REMOTE);
    assert_eq!(refused.error(), "ECONNREFUSED");
    let second_refused = app.connect(REMOTE);
    let mut sidecar = pod.sidecar();
    // The same socket, redirected this time.
    let connection = app.reconnect(refused.id, REMOTE);
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    // The other one, to where it is not redirected.
    let direct = app.reconnect(second_refused.id, "198.51.100.10:81");
    expect_direct(&mut sidecar, &direct, "remote");
    assert_eq!(direct.peer(), mesh::address("198.51.100.10:81"));
    // A connection that was redirected, dissolved and made anew elsewhere.
    app.disconnect(connection.id);
    assert_eq!(app.names(connection.id).peer, None);
    let direct = app.reconnect(connection.id, "198.51.100.10:81");
    expect_direct(&mut sidecar, &direct, "remote");
    assert_eq!(direct.peer(), mesh::address("198.51.100.10:81"));
    app.disconnect(connection.id);
    let again = app.reconnect(connection.id, REMOTE);
    expect_outbound(&mut sidecar, &again, REMOTE, pod.ip4());
}

/// A destination that is handed over is remembered on the socket; one that is known by its
/// address is not, and what was remembered must not be told in its place.
#[test]
fn socket_that_failed_goes_from_one_kind_of_destination_to_the_other() {
    const OTHER: &str = "198.51.100.11:80";
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _remote = mesh.world.outside.server("remote", &[REMOTE, OTHER]);
    let mut app = pod.app();
    let known = app.connect(REMOTE);
    assert_eq!(known.error(), "ECONNREFUSED");
    mesh.use_up_known_destinations();
    let noted = app.connect(OTHER);
    assert_eq!(noted.error(), "ECONNREFUSED");
    let mut sidecar = pod.sidecar();
    for (socket, to) in [(known, OTHER), (noted, REMOTE)] {
        let connection = app.reconnect(socket.id, to);
        expect_outbound(&mut sidecar, &connection, to, pod.ip4());
    }
}

#[test]
fn socket_of_another_process_goes_by_the_caller() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let (mut app, mut caller) = (pod.app(), pod.sidecar_client());
    let socket = app.take_socket(&mut caller, Family::V4);
    let connection = app.reconnect(socket.id, REMOTE);
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    let socket = caller.take_socket(&mut app, Family::V6);
    let connection = caller.reconnect(socket.id, REMOTE);
    expect_direct(&mut sidecar, &connection, "remote");
}

#[test]
fn both_directions_at_length_and_half_closed_bring_every_byte() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let _local = pod.server("local", &["127.0.0.1:8080"]);
    for (client, to) in [
        (&mut pod.app(), REMOTE),
        (&mut mesh.world.outside.client(), "10.77.1.2:8080"),
    ] {
        let id = client.connect(to).id;
        let moved = client.transfer(id, 20_000_000);
        assert_eq!(
            (moved.sent, moved.received, moved.intact),
            (20_000_000, 20_000_000, true)
        );
        assert_eq!(client.finish(id).error, None);
    }
}

#[rstest]
fn original_destination_is_told_to_both_ends(#[values(false, true)] one_by_one: bool) {
    const SO_ORIGINAL_DST: i32 = 80;
    let Some(mesh) = Mesh::handing_over(one_by_one) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    for dial in mesh::both_families(REMOTE) {
        let id = app.connect(dial).id;
        for length in [16, 128, 4095, 4097, 65536] {
            let option = app.getsockopt(id, libc::SOL_IP, SO_ORIGINAL_DST, length);
            assert_eq!(option.error, None, "length {length}");
            assert_eq!(
                option.value,
                [2, 0, 0, 80, 198, 51, 100, 10, 0, 0, 0, 0, 0, 0, 0, 0]
            );
        }
        assert!(
            app.getsockopt(id, libc::SOL_IP, SO_ORIGINAL_DST, 15)
                .error
                .is_some()
        );
        assert!(
            app.getsockopt(id, libc::SOL_IPV6, SO_ORIGINAL_DST, 28)
                .error
                .is_some()
        );
    }
}

#[test]
fn other_options_are_unharmed_whatever_their_length() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    let id = app.connect(REMOTE).id;
    let info = app.getsockopt(id, libc::SOL_TCP, libc::TCP_INFO, 104);
    assert_eq!(
        (info.error, info.value.len(), info.value.first()),
        (None, 104, Some(&1))
    );
    for length in [4, 4096, 4097, 100_000] {
        let option = app.getsockopt(id, libc::SOL_SOCKET, libc::SO_TYPE, length);
        assert_eq!(
            (option.error, option.value),
            (None, vec![1, 0, 0, 0]),
            "length {length}"
        );
    }
    let option = app.getsockopt(id, libc::SOL_TCP, 9999, 4);
    assert_eq!(option.error.as_deref(), Some("ENOPROTOOPT"));
}

/// `iptables-save` reads tables through getsockopt calls far longer than a page.
#[test]
fn iptables_save_of_a_large_table_works_inside_the_pod() {
    if missing(&[Need::Program("iptables-legacy-save")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let rules: Vec<_> = (0..2000)
        .map(|i| {
            format!(
                "-A OUTPUT -d 172.16.{}.{} -p tcp -j ACCEPT\n",
                i / 250,
                i % 250
            )
        })
        .collect();
    let rules = rules.concat();
    let table = format!("*filter\n{rules}COMMIT\n");
    let files = osm_tests::TempDir::new();
    let path = files.file("rules", &table);
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec nsenter --net={} sh -c \
         'iptables-legacy-restore {} && iptables-legacy-save -t filter'",
        pod.app_cgroup().path().display(),
        pod.netns.path().display(),
        path.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let mut process = Process::start("iptables-save", command);
    let status = process.wait(Duration::from_secs(30)).expect("it ends");
    let (stdout, stderr) = process.output();
    assert!(status.success(), "{stderr}");
    let saved = stdout
        .lines()
        .filter(|line| line.starts_with("-A OUTPUT"))
        .count();
    assert_eq!(saved, 2000);
}

#[rstest]
fn forty_connections_at_once_keep_their_destinations_apart(
    #[values(false, true)] one_by_one: bool,
) {
    let Some(mesh) = Mesh::handing_over(one_by_one) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let to: Vec<_> = (1..=40)
        .map(|i| format!("198.51.100.10:{}", 8000 + i))
        .collect();
    let targets: Vec<&str> = to.iter().map(String::as_str).collect();
    let _remote = mesh.world.outside.server("remote", &targets);
    let mut app = pod.app();
    let connections: Vec<_> = to.iter().map(|to| app.connect(to.as_str())).collect();
    for (connection, to) in connections.iter().zip(&to) {
        let accepted = sidecar.accepted_from(canonical(connection.local()));
        assert_eq!(accepted.original_destination(), mesh::address(to));
        assert_eq!(accepted.listener, Listener::Outbound);
    }
    let tally = app.many(Many::to(&to[0], 400).concurrency(40));
    assert_eq!(tally.roles.get("remote"), Some(&400), "{tally:?}");
    assert_eq!(tally.wrong_peer, 0);
}
