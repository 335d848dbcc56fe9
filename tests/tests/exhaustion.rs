//! As much as a process can ask for at once: what it takes is bounded and given back, it is counted, others do not
//! notice, and nothing gets around the sidecar.

mod mesh;

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    thread,
    time::{Duration, Instant},
};

use mesh::{Lists, Mesh, address, expect_inbound, expect_outbound};
use nix::sys::signal::Signal;
use osm_tests::{
    Actor, Client, Event, Many, Need, Pod, actor::PATIENCE, missing, segment::packet_with_syn,
};
use rstest::rstest;
use socket2::{Domain, Protocol, Socket, Type};

const REMOTE: &str = "198.51.100.10:80";
const LOCAL: &str = "10.77.1.2:8080";
const NEIGHBOUR: &str = "10.77.2.2:8080";

/// Of each kind.
const CONNECTIONS: u64 = 50_000;
const SEGMENTS: u32 = 100_000;

/// A pod beside the one that is attacked.
struct Neighbour {
    sidecar: Actor,
    app: Client,
    client: Client,
    _local: Actor,
    pod: Pod,
}

impl Neighbour {
    #[track_caller]
    fn new(mesh: &Mesh) -> Self {
        let pod = mesh.world.add_pod();
        let _ = mesh.agent.attach(&pod).run().succeeded();
        Self {
            sidecar: pod.sidecar(),
            app: pod.app(),
            client: mesh.world.outside.client(),
            _local: pod.server("local", &["0.0.0.0:8080"]),
            pod,
        }
    }

    #[track_caller]
    fn expect_service(&mut self) {
        let outbound = self.app.connect(REMOTE);
        expect_outbound(&mut self.sidecar, &outbound, REMOTE, self.pod.ip4());
        let inbound = self.client.connect(NEIGHBOUR);
        expect_inbound(&mut self.sidecar, &inbound, NEIGHBOUR);
        let _ = self.sidecar.drain();
    }

    /// As long as somebody else is busy.
    #[track_caller]
    fn expect_service_during<T: Send>(&mut self, attack: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let attack = scope.spawn(attack);
            loop {
                self.expect_service();
                if attack.is_finished() {
                    return attack.join().expect("it ends");
                }
            }
        })
    }
}

/// Waits until no handshake is on its way any more.
#[track_caller]
fn expect_no_notes(mesh: &Mesh) {
    let start = Instant::now();
    while let (notes, _) = mesh.agent.state().handshakes()
        && notes > 0
    {
        assert!(start.elapsed() < PATIENCE, "{notes} stay");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Half of them to a destination that is known by its address, half to one that is handed over; none is waited for.
/// The sidecar hangs, so that few of them get further than a SYN.
#[rstest]
fn connects_that_are_aborted_leave_nothing(#[values(false, true)] one_by_one: bool) {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::handing_over(one_by_one) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut neighbour = Neighbour::new(&mesh);
    pod.netns.sysctl("net/core/somaxconn", "4");
    let mut sidecar = pod.sidecar();
    sidecar.process().signal(Signal::SIGSTOP);
    let mut app = pod.app();
    let before = mesh.counted("redirect-outbound");
    let many = Many::to(REMOTE, CONNECTIONS).concurrency(4).abort();
    let tally = neighbour.expect_service_during(|| app.many(many));
    // Were a note forgotten now and then, the pod's share would be used up by now.
    assert_eq!(tally.succeeded, CONNECTIONS, "{tally:?}");
    assert_eq!(mesh.counted("redirect-outbound") - before, CONNECTIONS);
    assert_eq!(mesh.counted("refuse-too-many-handshakes"), 0);
    expect_no_notes(&mesh);
    for event in remote.drain() {
        let Event::Accepted(accepted) = event else {
            continue;
        };
        assert_eq!(accepted.peer.ip(), neighbour.pod.ip4(), "{accepted:?}");
    }
    sidecar.process().signal(Signal::SIGCONT);
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
}

/// From addresses that are nobody's. The sidecar accepts, or it hangs and its queue is full.
#[rstest]
fn syn_flood_from_outside_reaches_nobody_but_the_sidecar(#[values(false, true)] hangs: bool) {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let (pod, outside) = (&mesh.world.pod, &mesh.world.outside);
    let _remote = outside.server("remote", &[REMOTE]);
    let mut neighbour = Neighbour::new(&mesh);
    let mut local = pod.server("local", &["0.0.0.0:8080"]);
    if hangs {
        pod.netns.sysctl("net/core/somaxconn", "4");
    }
    let mut sidecar = pod.sidecar();
    if hangs {
        sidecar.process().signal(Signal::SIGSTOP);
    }
    // What comes back leads nowhere.
    outside.netns.ip(&["route add blackhole 198.18.0.0/15"]);
    neighbour.expect_service_during(|| outside.netns.run(flood));
    let redirected = mesh.counted("redirect-inbound");
    assert!(
        redirected > u64::from(SEGMENTS) / 2,
        "{redirected} of {SEGMENTS} are counted"
    );
    let (notes, known) = mesh.agent.state().handshakes();
    // The neighbour's one destination.
    assert_eq!((notes, known), (0, 1));
    local.expect_no_connection();
    if hangs {
        sidecar.process().signal(Signal::SIGCONT);
    }
    let inbound = outside.client().connect(LOCAL);
    expect_inbound(&mut sidecar, &inbound, LOCAL);
}

/// Sends the SYNs, each from another address and port.
fn flood() {
    let raw = Socket::new(
        Domain::IPV4,
        Type::RAW,
        Some(Protocol::from(libc::IPPROTO_RAW)),
    )
    .expect("a raw socket");
    let SocketAddr::V4(to) = address(LOCAL) else {
        panic!("it is an IPv4 address")
    };
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    for n in 0..SEGMENTS {
        let port = 1024 + u16::try_from(n % 60_000).expect("a port");
        let from = SocketAddrV4::new(Ipv4Addr::from(first + n), port);
        let packet = packet_with_syn(from, to);
        let sent = raw.send_to(&packet, &SocketAddr::V4(to).into());
        sent.expect("it is sent");
    }
}
