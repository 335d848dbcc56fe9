//! What the two datapaths do differently: the table of ARCHITECTURE.md, row by row; and what
//! one might think they do.

mod mesh;

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use mesh::{Backend, Lists, Mesh};
use osm_tests::{Dial, Family, Need, missing, segment::syn};
use rstest::rstest;
use socket2::{Domain, Protocol, Socket, Type};

const REMOTE: &str = "198.51.100.10:80";
const LOCAL: &str = "10.77.1.2:8080";

#[rstest]
fn listener_that_is_not_the_sidecar_s(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::attached_by(backend, &Lists::default()) else {
        return;
    };
    let _ = mesh.attach_open().succeeded();
    let pod = &mesh.world.pod;
    let _squatter = pod.server("squatter", &["0.0.0.0:15001", "0.0.0.0:15003"]);
    let (mut app, mut client) = (pod.app(), mesh.world.outside.client());
    for (client, to) in [(&mut app, REMOTE), (&mut client, LOCAL)] {
        let connection = client.connect(to);
        match backend {
            Backend::Ebpf => assert_eq!(connection.error(), "ECONNREFUSED"),
            Backend::Legacy | Backend::Nft => assert_eq!(connection.answered_by(), "squatter"),
        }
    }
}

#[rstest]
fn port_of_the_sidecar_s_that_somebody_else_asks_for(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::attached_by(backend, &Lists::default()) else {
        return;
    };
    let asked = mesh.world.pod.app().listen("0.0.0.0:15001");
    match backend {
        Backend::Ebpf => assert_eq!(asked.error(), "EPERM"),
        // No rule is asked about bind().
        Backend::Legacy | Backend::Nft => assert_eq!(asked.error, None),
    }
}

#[rstest]
fn application_of_the_sidecar_s_user_where_the_sidecar_is_known_by_its_cgroup(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::by(backend) else {
        return;
    };
    let config = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
                  spec: {sidecar: {identity: uid-and-cgroup}}\n";
    let pod = &mesh.world.pod;
    let attach = mesh.attach_without_lists().config(config);
    let _ = attach
        .option("--sidecar-cgroup", pod.sidecar_cgroup().path())
        .run()
        .succeeded();
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let connection = pod.stranger().connect(REMOTE);
    match backend {
        Backend::Ebpf => {
            mesh::expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
        }
        // The owner match knows users only.
        Backend::Legacy | Backend::Nft => {
            mesh::expect_direct(&mut sidecar, &connection, "remote");
        }
    }
}

#[rstest]
fn own_address_of_an_inbound_connection_at_the_sidecar(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::attached_by(backend, &Lists::default()) else {
        return;
    };
    let mut sidecar = mesh.world.pod.sidecar();
    let mut client = mesh.world.outside.client();
    let connection = client.connect(Dial::to(LOCAL).no_greeting());
    let own = sidecar.accepted_from(connection.local()).local.to_string();
    match backend {
        Backend::Ebpf => assert_eq!(own, LOCAL),
        Backend::Legacy | Backend::Nft => assert_eq!(own, "10.77.1.2:15003"),
    }
}

#[rstest]
fn socket_that_another_process_opened(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::attached_by(backend, &Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let (mut app, mut opener) = (pod.app(), pod.sidecar_client());
    let socket = app.take_socket(&mut opener, Family::V4);
    let connection = app.reconnect(socket.id, REMOTE);
    match backend {
        // The app calls connect().
        Backend::Ebpf => {
            mesh::expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
        }
        // The sidecar's user opened it.
        Backend::Legacy | Backend::Nft => {
            mesh::expect_direct(&mut sidecar, &connection, "remote");
        }
    }
}

#[rstest]
fn peer_of_an_mptcp_socket(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
    #[values(false, true)] one_by_one: bool,
) {
    if missing(&[Need::Mptcp]) {
        return;
    }
    let Some(mesh) = Mesh::attached_by(backend, &Lists::default()) else {
        return;
    };
    if one_by_one && backend == Backend::Ebpf {
        mesh.use_up_known_destinations();
    }
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let connection = pod.app().connect(Dial::to(REMOTE).mptcp());
    assert_eq!(connection.answered_by(), "remote");
    let accepted = sidecar.accepted_from(connection.local());
    assert_eq!(accepted.original_destination(), mesh::address(REMOTE));
    if one_by_one && backend == Backend::Ebpf {
        assert!(connection.peer().ip().is_loopback());
    } else {
        assert_eq!(connection.peer(), mesh::address(REMOTE));
    }
}

#[rstest]
fn source_port_that_leads_to_two_destinations_at_once(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::attached_by(backend, &Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let to = [REMOTE, "198.51.100.11:80"];
    let _remote = mesh.world.outside.server("remote", &to);
    let mut app = pod.app();
    let seen = to.map(|to| {
        let connection = app.connect(Dial::to(to).reuseaddr().bind("0.0.0.0:40000"));
        assert_eq!(connection.local().port(), 40000);
        sidecar.next_accepted().peer.port()
    });
    assert_eq!(seen[0], 40000);
    // Two connections from one port to one listener: conntrack has to tell them apart.
    assert_eq!(seen[1] == 40000, backend == Backend::Ebpf);
}

#[rstest]
fn one_source_port_to_two_ipv6_destinations(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(mesh) = Mesh::by(backend) else {
        return;
    };
    let mesh = mesh.with_flag("--ip-families", "dual");
    let _ = mesh.attach(&Lists::default()).succeeded();
    let pod = &mesh.world.pod;
    let _sidecar = pod.sidecar_with(&["--outbound", "[::]:15001", "--inbound", "[::]:15003"]);
    let to = ["[2001:db8::10]:80", "[2001:db8::11]:80"];
    let _remote = mesh.world.outside.server("remote", &to);
    let mut app = pod.app();
    let [first, second] = to.map(|to| app.connect(Dial::to(to).reuseaddr().bind("[::]:42000")));
    assert_eq!(first.answered_by(), "remote");
    match backend {
        Backend::Ebpf => assert_eq!(second.error(), "EADDRNOTAVAIL"),
        Backend::Legacy | Backend::Nft => assert_eq!(second.answered_by(), "remote"),
    }
}

/// No difference: redirected to the loopback interface, it is not allowed there by its own
/// wish. It reaches nobody, and nobody is reached around the sidecar.
#[rstest]
fn socket_bound_to_an_interface_reaches_nobody(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::attached_by(backend, &Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let mut remote = mesh.world.outside.server("remote", &[REMOTE]);
    let dial = Dial::to(REMOTE)
        .device("eth0")
        .timeout(Duration::from_millis(300));
    assert_eq!(pod.app().connect(dial).error(), "timeout");
    sidecar.expect_no_connection();
    remote.expect_no_connection();
}

/// A process with CAP_NET_RAW writes its own TCP segments: no connect() is called.
#[rstest]
fn segment_from_a_raw_socket(
    #[values(Backend::Ebpf, Backend::Legacy, Backend::Nft)] backend: Backend,
) {
    let Some(mesh) = Mesh::attached_by(backend, &Lists::default()) else {
        return;
    };
    let (from, to) = ("10.77.1.2:45678", REMOTE);
    let mut seen = mesh
        .world
        .outside
        .netns
        .run(|| raw_tcp(Ipv4Addr::new(198, 51, 100, 10)));
    mesh.world.pod.netns.run(|| {
        let raw = raw_tcp(Ipv4Addr::UNSPECIFIED);
        let segment = syn(mesh::address(from), mesh::address(to));
        let sent = raw
            .send_to(&segment, &mesh::address(to).into())
            .expect("it is sent");
        assert_eq!(sent, segment.len());
    });
    let arrived = arrives(&mut seen, 45678);
    assert_eq!(arrived, backend == Backend::Ebpf);
}

fn raw_tcp(bind: Ipv4Addr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).expect("a raw socket");
    if !bind.is_unspecified() {
        socket
            .bind(&SocketAddr::from((bind, 0)).into())
            .expect("an address of the namespace");
    }
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a time limit");
    socket
}

/// Whether a TCP segment with that source port comes in within a while.
fn arrives(socket: &mut Socket, port: u16) -> bool {
    let start = Instant::now();
    let mut buffer = [0; 256];
    while start.elapsed() < Duration::from_secs(1) {
        // The IPv4 header comes first, 20 bytes without options.
        if let Ok(length) = socket.read(&mut buffer)
            && length >= 40
            && buffer[20..22] == port.to_be_bytes()
        {
            return true;
        }
    }
    false
}
