//! A client outside of the pod, made up: it proves what becomes of connections that come in.
//!
//! Nothing that a pod's own processes send passes PREROUTING or `sk_lookup` as a packet from
//! outside does. So a pair of interfaces is added to the pod for a moment, one end with an
//! address of a documentation block; a handshake is played by hand into the other end, from
//! a neighbour that does not exist. What the kernel answers is read there, and never leaves.
//!
//! It takes `CAP_NET_ADMIN` for the interfaces and `CAP_NET_RAW` for the packets. Without
//! them, and in a pod that runs already, inbound paths are reported as not proven.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex, sys::socket::bind};
use osm_ebpf_common::{
    DIRECT_INBOUND_PORTS, INBOUND_PORT, OUTBOUND_PORT,
    address::Address,
    decision::{Direction, Inbound, Verdict, inbound as decide},
    maps::PolicyWord,
};
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth,
    packet_route::address::{AddressAttribute, AddressFlags},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    ATTEMPTS, Finding, Outcome, direct,
    frame::{ACK, Mac, RST, SYN, Segment},
    name,
    plan::Network,
    redirected,
    witness::Witness,
};
use crate::policy::{Policy, View};

/// The pod's end, and the one that the client's packets are put into.
const ENDS: [&str; 2] = ["osm-check-pod", "osm-check-out"];
const POD_MAC: Mac = [0x02, 0x6f, 0x73, 0x6d, 0, 1];
/// Of no interface: what is sent to it is seen, and dropped.
const CLIENT_MAC: Mac = [0x02, 0x6f, 0x73, 0x6d, 0, 2];

/// Addresses of the pod's end and of the client, in the last block of TEST-NET-1 and of the
/// documentation prefix, and how many bits they share.
const V4: (Ipv4Addr, Ipv4Addr, u8) = (
    Ipv4Addr::new(192, 0, 2, 253),
    Ipv4Addr::new(192, 0, 2, 254),
    30,
);
const V6: (Ipv6Addr, Ipv6Addr, u8) = (
    Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 2),
    126,
);

/// How long an answer is waited for, and how often a segment is sent meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long the listener may take to accept.
const ARRIVES_WITHIN: Duration = Duration::from_secs(1);
const RESEND_AFTER: Duration = Duration::from_millis(250);

/// Ports of the pod that clients reach directly, worth listening on: one of each kind.
pub fn direct_ports(policy: &Policy) -> Vec<u16> {
    let is_own = |port: &u16| {
        *port == INBOUND_PORT || *port == OUTBOUND_PORT || DIRECT_INBOUND_PORTS.contains(port)
    };
    let mut excluded = policy.excluded_ports(Direction::Inbound);
    let excluded = excluded.find(|port| !is_own(port));
    DIRECT_INBOUND_PORTS
        .into_iter()
        .take(1)
        .chain(excluded)
        .collect()
}

/// Connects to the pod from outside, on a port like any other and on those it is reached on
/// directly.
pub fn inbound(policy: &Policy, network: &dyn Network, witness: &Witness) -> Vec<Finding> {
    let own: Vec<Address> = network.own().iter().copied().map(Address::from).collect();
    let view = View::new(policy, &own);
    let dual = policy.word(0).has(PolicyWord::DUAL_STACK);
    let families: &[bool] = if dual { &[false, true] } else { &[false] };
    let of_all = |outcome: &Outcome| -> Vec<Finding> {
        let finding = |is_v6: &bool| Finding {
            path: name("inbound", *is_v6),
            outcome: outcome.clone(),
        };
        families.iter().map(finding).collect()
    };
    if witness.sidecar_listens {
        let why = "the pod runs already, and is not given an interface to try it with";
        return of_all(&Outcome::Unproven(why.into()));
    }
    let mut client = match Client::new(dual) {
        Ok(client) => client,
        Err(error) => {
            let why = format!(
                "no client outside of the pod can be made up ({error}); it takes CAP_NET_ADMIN \
                 and CAP_NET_RAW"
            );
            return of_all(&Outcome::Unproven(why));
        }
    };
    let mut findings = Vec::new();
    let direct = direct_ports(policy);
    for is_v6 in families {
        let Some(ip) = network.own().iter().find(|ip| ip.is_ipv6() == *is_v6) else {
            continue;
        };
        for port in [witness.quiet.0].iter().chain(&direct) {
            if !witness.listens_on(*port) {
                findings.push(Finding {
                    path: name(path_of(*port, false), *is_v6),
                    outcome: Outcome::Unproven(format!("{port} can't be listened on here")),
                });
                continue;
            }
            let to = SocketAddr::new(*ip, *port);
            let asked = Inbound {
                client: Client::address(*is_v6).into(),
                destination: to.ip().into(),
                port: *port,
                interface: None,
            };
            let is_redirected = matches!(decide(&view, &asked), Verdict::Redirect(..));
            findings.push(client.try_port(to, is_redirected, witness));
        }
    }
    findings
}

fn path_of(port: u16, is_redirected: bool) -> &'static str {
    if is_redirected {
        "inbound"
    } else if DIRECT_INBOUND_PORTS.contains(&port) {
        "inbound, the metrics port"
    } else {
        "inbound, an excluded port"
    }
}

/// The host outside, which is the kernel's neighbour by hardware address only.
struct Client {
    // Before the wire: they refer to it.
    to_pod: Socket,
    from_pod: Socket,
    _wire: Wire,
    next_port: u16,
}

impl Client {
    fn new(dual: bool) -> io::Result<Self> {
        // Before the interfaces are made: without the privilege, nothing is.
        let (to_pod, from_pod) = (packet_socket(0)?, packet_socket(libc::ETH_P_ALL)?);
        from_pod.set_read_timeout(Some(RESEND_AFTER))?;
        let wire = Wire::new(dual)?;
        let is_out = |name: &str| name == ENDS[1];
        let link = getifaddrs()?
            .filter(|it| is_out(&it.interface_name))
            .find_map(|it| it.address?.as_link_addr().copied())
            .ok_or(io::ErrorKind::NotFound)?;
        bind(to_pod.as_raw_fd(), &link)?;
        Ok(Self {
            to_pod,
            from_pod,
            _wire: wire,
            // An earlier run's connections may still be tracked, and would have ours renumbered.
            next_port: 20_000 + random() % 40_000,
        })
    }

    const fn address(is_v6: bool) -> IpAddr {
        if is_v6 {
            IpAddr::V6(V6.1)
        } else {
            IpAddr::V4(V4.1)
        }
    }

    fn try_port(&mut self, to: SocketAddr, is_redirected: bool, witness: &Witness) -> Finding {
        let mut outcome = self.try_once(to, is_redirected, witness);
        for _ in 1..ATTEMPTS {
            if matches!(outcome, Outcome::Wrong(_)) {
                outcome = self.try_once(to, is_redirected, witness);
            }
        }
        Finding {
            path: name(path_of(to.port(), is_redirected), to.is_ipv6()),
            outcome,
        }
    }

    fn try_once(&mut self, to: SocketAddr, is_redirected: bool, witness: &Witness) -> Outcome {
        self.next_port += 1;
        let from = SocketAddr::new(Self::address(to.is_ipv6()), self.next_port);
        let seen = self
            .connect(from, to)
            .map(|()| witness.arrival(from, Instant::now() + ARRIVES_WITHIN));
        self.give_up(from, to);
        match seen {
            // Dropped is neither redirected nor let through: something else forbids it.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Outcome::Unproven(format!("the pod does not answer a packet to {to}"))
            }
            seen if is_redirected => redirected(to, INBOUND_PORT, seen),
            seen => direct(to, seen),
        }
    }

    /// The client's half of the handshake.
    fn connect(&mut self, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
        let syn = Segment {
            from,
            to,
            sequence: 1,
            acknowledged: 0,
            flags: SYN,
        };
        let until = Instant::now() + ANSWER_WITHIN;
        while Instant::now() < until {
            self.send(&syn)?;
            let Some(answer) = self.answer(&syn)? else {
                continue;
            };
            if answer.flags & RST != 0 {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            return self.send(&Segment {
                sequence: syn.sequence + 1,
                acknowledged: answer.sequence.wrapping_add(1),
                flags: ACK,
                ..syn
            });
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Takes the connection back, whatever became of it.
    fn give_up(&mut self, from: SocketAddr, to: SocketAddr) {
        // The listener resets it as well.
        let _ = self.send(&Segment {
            from,
            to,
            sequence: 2,
            acknowledged: 0,
            flags: RST,
        });
    }

    fn send(&mut self, segment: &Segment) -> io::Result<()> {
        let frame = segment.frame(CLIENT_MAC, POD_MAC);
        let frame = frame.ok_or(io::ErrorKind::InvalidInput)?;
        self.to_pod.write_all(&frame)
    }

    /// What the pod answers to a segment, if it does before it is time to send it again.
    fn answer(&mut self, to: &Segment) -> io::Result<Option<Segment>> {
        let until = Instant::now() + RESEND_AFTER;
        let mut frame = [0; 2048];
        while Instant::now() < until {
            let length = match self.from_pod.read(&mut frame) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let answer = Segment::read(&frame[..length])
                .filter(|it| (it.from, it.to) == (to.to, to.from))
                .filter(|it| it.flags & (SYN | RST) != 0);
            if answer.is_some() {
                return Ok(answer);
            }
        }
        Ok(None)
    }
}

fn random() -> u16 {
    let [high, low, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    u16::from_ne_bytes([high, low])
}

fn packet_socket(protocol: i32) -> io::Result<Socket> {
    let protocol = u16::try_from(protocol).map_err(io::Error::other)?;
    let protocol = Protocol::from(i32::from(protocol.to_be()));
    Socket::new(Domain::PACKET, Type::RAW, Some(protocol))
}

/// The pair of interfaces; it goes with this guard.
struct Wire(());

impl Wire {
    fn new(dual: bool) -> io::Result<Self> {
        netlink(async |handle| {
            // What a run that was killed left.
            let _ = delete(&handle).await;
            let [pod, out] = ENDS;
            let pair = LinkVeth::new(pod, out).address(POD_MAC.to_vec()).build();
            handle.link().add(pair).execute().await
        })?;
        let wire = Self(());
        let [pod, out] = ENDS;
        let (pod, out) = (if_nametoindex(pod)?, if_nametoindex(out)?);
        netlink(async |handle| {
            for index in [out, pod] {
                let up = LinkUnspec::new_with_index(index).up().build();
                handle.link().set(up).execute().await?;
            }
            let v4 = (V4.0.into(), V4.1.into(), V4.2);
            let v6 = (V6.0.into(), V6.1.into(), V6.2);
            for (own, client, length) in [v4].into_iter().chain(dual.then_some(v6)) {
                add_address(&handle, pod, own, length).await?;
                let neighbours = handle.neighbours();
                let neighbour = neighbours.add(pod, client).link_layer_address(&CLIENT_MAC);
                neighbour.execute().await?;
            }
            Ok(())
        })?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The namespace goes with the pod, if this fails; another run removes it first.
        let _ = netlink(async |handle| delete(&handle).await);
    }
}

async fn delete(handle: &Handle) -> Result<(), rtnetlink::Error> {
    let Ok(index) = if_nametoindex(ENDS[0]) else {
        return Ok(());
    };
    handle.link().del(index).execute().await
}

async fn add_address(
    handle: &Handle,
    index: u32,
    ip: IpAddr,
    length: u8,
) -> Result<(), rtnetlink::Error> {
    let mut request = handle.address().add(index, ip, length);
    // Nobody else can have it: it is ready at once.
    let flags = AddressAttribute::Flags(AddressFlags::Nodad);
    request.message_mut().attributes.push(flags);
    request.execute().await
}

fn netlink(job: impl AsyncFnOnce(Handle) -> Result<(), rtnetlink::Error> + Send) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let result = job(handle).await;
        connection.abort();
        result.map_err(in_words)
    })
}

/// The system's own error, where that is all there is to it.
fn in_words(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        error => io::Error::other(error),
    }
}
