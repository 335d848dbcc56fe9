//! A world with an agent, and what every behaviour test asks of a connection.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses a part of it"
)]

use std::net::{IpAddr, SocketAddr};

use osm_ebpf_common::maps::MAX_DESTINATIONS_PER_POD;
use osm_tests::{
    Actor, Agent, Client, Connection, Dial, Listener, Need, Outcome, World, agent::Attach,
    canonical, missing,
};

/// By which means the pod is intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Ebpf,
    Legacy,
    Nft,
}

/// A sidecar that lets others of its user share its ports.
pub const SHARED: [&str; 4] = [
    "--outbound",
    "0.0.0.0:15001,reuseport",
    "--inbound",
    "0.0.0.0:15003,reuseport",
];

/// A pod, its outside, and an agent.
pub struct Mesh {
    pub agent: Agent,
    pub world: World,
    pub backend: Backend,
    flags: Vec<[String; 2]>,
}

/// The four lists, as annotations of the pod.
#[derive(Clone, Copy, Default)]
pub struct Lists<'a> {
    pub excluded_ranges: &'a str,
    pub included_ranges: &'a str,
    pub excluded_ports: &'a str,
    pub excluded_inbound_ports: &'a str,
}

impl Mesh {
    /// By eBPF; none where the test has to be skipped.
    pub fn new() -> Option<Self> {
        Self::by(Backend::Ebpf)
    }

    /// None where the test has to be skipped.
    pub fn by(backend: Backend) -> Option<Self> {
        let tool = match backend {
            Backend::Ebpf => None,
            Backend::Legacy => Some("iptables-legacy-restore"),
            Backend::Nft => Some("iptables-nft-restore"),
        };
        if backend == Backend::Ebpf && missing(&[Need::Ebpf]) {
            return None;
        }
        if tool.is_some_and(|tool| missing(&[Need::Program(tool)])) {
            return None;
        }
        let modes: &[[&str; 2]] = match backend {
            Backend::Ebpf => &[["--mode", "ebpf"]],
            Backend::Legacy => &[["--mode", "iptables"], ["--iptables-backend", "legacy"]],
            Backend::Nft => &[["--mode", "iptables"], ["--iptables-backend", "nft"]],
        };
        Some(Self {
            world: World::new()?,
            agent: Agent::new()?,
            backend,
            flags: modes.iter().map(|flag| flag.map(String::from)).collect(),
        })
    }

    /// The same, with one more flag for every `attach`.
    pub fn with_flag(mut self, flag: &str, value: &str) -> Self {
        self.flags.push([flag.into(), value.into()]);
        self
    }

    /// Attached by eBPF, with these lists.
    #[track_caller]
    pub fn attached(lists: &Lists<'_>) -> Option<Self> {
        Self::attached_by(Backend::Ebpf, lists)
    }

    /// Attached, with these lists.
    #[track_caller]
    pub fn attached_by(backend: Backend, lists: &Lists<'_>) -> Option<Self> {
        let mesh = Self::by(backend)?;
        let _ = mesh.attach(lists).succeeded();
        Some(mesh)
    }

    /// `osm-agent attach` for the pod, with these lists.
    #[track_caller]
    pub fn attach(&self, lists: &Lists<'_>) -> Outcome {
        let mut attach = self.attach_without_lists();
        for (key, value) in [
            ("outbound-ip-range-exclusion-list", lists.excluded_ranges),
            ("outbound-ip-range-inclusion-list", lists.included_ranges),
            ("outbound-port-exclusion-list", lists.excluded_ports),
            ("inbound-port-exclusion-list", lists.excluded_inbound_ports),
        ] {
            if !value.is_empty() {
                attach = attach.annotation(&format!("openservicemesh.io/{key}"), value);
            }
        }
        attach.run()
    }

    /// The same without lists, and with the sidecar's ports open to anybody.
    #[track_caller]
    pub fn attach_open(&self) -> Outcome {
        let config = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
                      spec: {traffic: {reservedPortGuard: false}}\n";
        self.attach_without_lists().config(config).run()
    }

    /// `osm-agent attach` for the pod, to be gone on with.
    pub fn attach_without_lists(&self) -> Attach<'_> {
        self.flags.iter().fold(
            self.agent.attach(&self.world.pod),
            |attach, [flag, value]| attach.option(flag, value),
        )
    }

    /// The same without lists; its destinations are handed over one by one, or known by their
    /// loopback addresses.
    pub fn handing_over(one_by_one: bool) -> Option<Self> {
        let mesh = Self::attached(&Lists::default())?;
        if one_by_one {
            mesh.use_up_known_destinations();
        }
        Some(mesh)
    }

    /// Has the pod dial as many destinations as may be known by their address alone, before its
    /// sidecar listens: those that are dialled later are handed over one by one.
    #[track_caller]
    pub fn use_up_known_destinations(&self) {
        let mut app = self.world.pod.app();
        for n in 0..MAX_DESTINATIONS_PER_POD {
            let to = format!("203.0.113.250:{}", 1000 + n);
            let refused = app.connect(Dial::to(&to).no_greeting());
            assert_eq!(refused.error(), "ECONNREFUSED", "{to}");
            app.close(refused.id);
        }
        let (notes, known) = self.agent.state().handshakes();
        assert_eq!(notes, 0);
        // Two of them may have the same address: one is handed over then.
        assert!(known + 3 > usize::try_from(MAX_DESTINATIONS_PER_POD).expect("a small number"));
    }

    /// What `osm-agent status` says of the pod, without a node agent.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let asked = ["status", "-o", "json", "--agent-url", "http://127.0.0.1:9"];
        let said = self.agent.ask(&self.world.pod, &asked).succeeded().stdout;
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        said["pods"][0].clone()
    }

    /// How many connections of the pod there were of a reason.
    #[track_caller]
    pub fn counted(&self, reason: &str) -> u64 {
        let counted = self.status()["counters"][reason].as_u64();
        counted.expect("a number")
    }

    /// `osm-agent detach` for the pod.
    #[track_caller]
    pub fn detach(&self) -> Outcome {
        if self.backend == Backend::Ebpf {
            return self.agent.detach(&self.world.pod);
        }
        let netns = self.world.pod.netns.path().display().to_string();
        let state = self.agent.state().path().display().to_string();
        self.agent
            .run(&["detach", "--netns", &netns, "--state-dir", &state])
    }
}

/// The app's connection went to the outbound listener, and neither end can tell.
#[track_caller]
pub fn expect_outbound(sidecar: &mut Actor, connection: &Connection, dialled: &str, pod: IpAddr) {
    expect_redirected(sidecar, Listener::Outbound, connection, dialled, pod);
}

/// The connection from inside the pod went to a listener of the sidecar; `own` is the
/// address that it came from.
#[track_caller]
pub fn expect_redirected(
    sidecar: &mut Actor,
    listener: Listener,
    connection: &Connection,
    dialled: &str,
    own: IpAddr,
) {
    assert_eq!(connection.error, None, "to {dialled}: {connection:?}");
    assert_eq!(
        canonical(connection.peer()),
        address(dialled),
        "getpeername of the app"
    );
    assert_eq!(
        canonical(connection.local()).ip(),
        own,
        "getsockname of the app"
    );
    let accepted = sidecar.accepted_from(canonical(connection.local()));
    let port = match listener {
        Listener::Outbound => 15001,
        _ => 15003,
    };
    assert_eq!(accepted.listener, listener);
    assert_eq!(accepted.original_destination(), address(dialled));
    let localhost: IpAddr = if own.is_ipv4() {
        [127, 0, 0, 1].into()
    } else {
        std::net::Ipv6Addr::LOCALHOST.into()
    };
    assert_eq!(canonical(accepted.local), SocketAddr::new(localhost, port));
    assert_eq!(canonical(accepted.peer), canonical(connection.local()));
    assert_eq!(accepted.peer_from_accept, accepted.peer);
}

/// The client's connection to the pod went to the inbound listener.
#[track_caller]
pub fn expect_inbound(sidecar: &mut Actor, connection: &Connection, dialled: &str) {
    assert!(connection.connected, "to {dialled}: {connection:?}");
    let accepted = sidecar.accepted_from(connection.local());
    assert_eq!(accepted.listener, Listener::Inbound);
    assert_eq!(accepted.original_destination(), address(dialled));
    // Behind iptables the port is the listener's, behind eBPF the one that was dialled.
    assert_eq!(canonical(accepted.local).ip(), address(dialled).ip());
    assert_eq!(
        canonical(accepted.peer),
        connection.local(),
        "the client's real address"
    );
    assert_eq!(accepted.peer_from_accept, accepted.peer);
    // The sidecar may have reset it by now, where there is nothing behind that port.
    if let Some(peer) = connection.peer {
        assert_eq!(canonical(peer), address(dialled));
    }
}

/// The connection went straight to `role`, and the sidecar saw nothing.
#[track_caller]
pub fn expect_direct(sidecar: &mut Actor, connection: &Connection, role: &str) {
    assert_eq!(connection.error, None, "{connection:?}");
    assert_eq!(connection.answered_by(), role);
    // Nobody stood in between: the server saw the client's own port.
    assert_eq!(
        canonical(connection.greeting().peer),
        canonical(connection.local())
    );
    sidecar.expect_no_connection();
}

/// Whether a connection goes straight to the server called `remote`, and not by the sidecar; it has to arrive.
#[track_caller]
pub fn is_direct(app: &mut Client, to: &str) -> bool {
    let connection = app.connect(to);
    assert_eq!(connection.answered_by(), "remote", "{to}");
    connection.greeting().peer == connection.local()
}

/// Dials from an IPv4 socket and from an IPv6 one.
pub fn both_families(to: &str) -> [Dial; 2] {
    [Dial::to(to), Dial::to(to).v6()]
}

/// A connection that is reset before anybody answers.
#[track_caller]
pub fn expect_refused(client: &mut Client, dial: Dial) {
    let dialled = format!("{dial:?}");
    let connection = client.connect(dial);
    assert_eq!(connection.error(), "ECONNREFUSED", "{dialled}");
}

pub fn address(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is not address:port"))
}
