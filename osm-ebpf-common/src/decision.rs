//! The decision: what becomes of one connection.
//!
//! [`outbound`], [`inbound`] and [`bind`] are the only places where `spec.md` becomes code. The BPF
//! programs call them over kernel maps, the agent over the same maps read back, the tests
//! over plain sets.

use crate::{DIRECT_INBOUND_PORTS, GUARDED_PORTS, address::Address, reason::Reason};

/// What the decision asks of the pod it decides for.
pub trait Pod {
    /// Whether native IPv6 is intercepted as IPv4 is.
    fn is_dual_stack(&self) -> bool;
    /// Whether the address is one of the pod's own, loopback left aside.
    fn owns(&self, address: &Address) -> bool;
    /// What the range lists say of a destination.
    fn range(&self, destination: &Address) -> RangeRule;
    /// Whether a port is on the exclusion list of that direction.
    fn excludes_port(&self, direction: Direction, port: u16) -> bool;
    /// Whether connections to a destination leave by an excluded interface.
    fn leaves_by_excluded_interface(&self, destination: &Address) -> bool;
    /// Whether the interface of that number is excluded.
    fn excludes_interface(&self, index: u32) -> bool;
    /// Whether the sidecar's calls to the local host go to the pod's address.
    fn local_host_is_pod_address(&self) -> bool;
    /// Whether the sidecar's ports are for the sidecar alone.
    fn guards_ports(&self) -> bool;
}

/// Seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Direction {
    /// The pod connects.
    Outbound = 0,
    /// The pod is connected to.
    Inbound = 1,
}

/// What the range lists together say of one address: exclusion beats inclusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRule {
    /// An excluded range holds it.
    Excluded,
    /// There are inclusion ranges of its family, and none holds it.
    NotIncluded,
    /// Nothing speaks against interception.
    Intercepted,
}

/// A connection that a process of the pod asks for.
#[derive(Clone, Copy, Debug)]
pub struct Outbound {
    /// The address dialled; an unspecified one already replaced by what it means.
    pub destination: Address,
    /// The port dialled, host byte order.
    pub port: u16,
    /// Whether the caller runs as the sidecar's user.
    pub by_sidecar: bool,
}

/// A connection that reaches the pod.
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    /// Who connects.
    pub client: Address,
    /// The address of the pod that was dialled.
    pub destination: Address,
    /// The port that was dialled, host byte order.
    pub port: u16,
    /// The number of the interface that it came in by, where that is known.
    pub interface: Option<u32>,
}

impl Inbound {
    /// Whether the addresses alone show that the pod connects to itself. The kernel drops
    /// packets from outside that claim such addresses.
    #[inline(always)]
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.destination.is_loopback()
            || self.client.is_loopback()
            || self.client == self.destination
    }
}

/// A port that a process of the pod asks to be bound to.
#[derive(Clone, Copy, Debug)]
pub struct Bind {
    /// The port, host byte order; 0 for one that the kernel chooses.
    pub port: u16,
    /// Whether the caller is the sidecar.
    pub by_sidecar: bool,
}

/// What is done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes where it wanted to.
    Pass(Reason),
    /// Goes to the sidecar's listener for that direction.
    Redirect(Direction, Reason),
    /// Goes to the pod's own address, on the port it wanted.
    ToPodAddress(Reason),
}

impl Verdict {
    /// Why.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Redirect(_, reason) | Self::ToPodAddress(reason) => reason,
        }
    }
}

/// Decides on a connection that the pod makes. The order of the rules is that of
/// `PROXY_OUTPUT` in the documented rule set.
#[inline(always)]
pub fn outbound<P: Pod>(pod: &P, connection: &Outbound) -> Verdict {
    let Outbound {
        destination,
        port,
        by_sidecar,
    } = connection;
    if !destination.is_v4() && !pod.is_dual_stack() {
        return Verdict::Pass(Reason::PassOtherFamily);
    }
    if destination.is_loopback() || pod.owns(destination) {
        return match (by_sidecar, destination.is_localhost()) {
            (true, false) => Verdict::Redirect(Direction::Inbound, Reason::RedirectSidecarToPod),
            (true, true) if pod.local_host_is_pod_address() => {
                Verdict::ToPodAddress(Reason::PassSidecarToPodAddress)
            }
            (true, true) => Verdict::Pass(Reason::PassSidecar),
            (false, _) => Verdict::Pass(Reason::PassLocal),
        };
    }
    if *by_sidecar {
        return Verdict::Pass(Reason::PassSidecar);
    }
    if destination.is_multicast_or_broadcast() {
        return Verdict::Pass(Reason::PassUnroutable);
    }
    if pod.leaves_by_excluded_interface(destination) {
        return Verdict::Pass(Reason::PassExcludedInterface);
    }
    // The rule set asks for excluded ranges, excluded ports, then inclusion. One look-up
    // answers both questions about ranges, so the port is asked for in between.
    let range = pod.range(destination);
    if range == RangeRule::Excluded {
        return Verdict::Pass(Reason::PassExcludedRange);
    }
    if pod.excludes_port(Direction::Outbound, *port) {
        return Verdict::Pass(Reason::PassExcludedPort);
    }
    match range {
        RangeRule::NotIncluded => Verdict::Pass(Reason::PassNotIncluded),
        RangeRule::Excluded | RangeRule::Intercepted => {
            Verdict::Redirect(Direction::Outbound, Reason::RedirectOutbound)
        }
    }
}

/// Decides on a connection that reaches the pod. The order of the rules is that of
/// `PROXY_INBOUND`; what the pod says to itself never leaves it and is not inbound.
#[inline(always)]
pub fn inbound<P: Pod>(pod: &P, connection: &Inbound) -> Verdict {
    let Inbound {
        client,
        destination,
        port,
        interface,
    } = connection;
    if connection.is_local() || pod.owns(client) {
        return Verdict::Pass(Reason::PassLocal);
    }
    if !destination.is_v4() && !pod.is_dual_stack() {
        return Verdict::Pass(Reason::PassOtherFamily);
    }
    if pod.excludes_port(Direction::Inbound, *port) {
        return Verdict::Pass(Reason::PassExcludedInboundPort);
    }
    // Where nobody knows by which it came in, by the one that answers leave by: most networks have no other.
    let by_excluded_interface = match *interface {
        None => pod.leaves_by_excluded_interface(client),
        Some(index) => pod.excludes_interface(index),
    };
    if by_excluded_interface {
        return Verdict::Pass(Reason::PassExcludedInterface);
    }
    if is_direct_inbound_port(*port) {
        return Verdict::Pass(Reason::PassReservedPort);
    }
    Verdict::Redirect(Direction::Inbound, Reason::RedirectInbound)
}

/// Decides on a bind() of TCP to whatever address: the reason to refuse it, or none. Ports of the
/// probes are not among the guarded ones, as others than the sidecar may answer there.
#[inline(always)]
pub fn bind<P: Pod>(pod: &P, bind: &Bind) -> Option<Reason> {
    (is_guarded_port(bind.port) && !bind.by_sidecar && pod.guards_ports())
        .then_some(Reason::RefuseReservedPortBind)
}

/// Whether it is a port that the sidecar may have for itself. Asked first: others cost no look-up.
#[inline(always)]
#[must_use]
pub const fn is_guarded_port(port: u16) -> bool {
    // Spelled out, as below.
    let [admin, outbound, inbound, metrics] = GUARDED_PORTS;
    port == admin || port == outbound || port == inbound || port == metrics
}

/// Whether clients reach this port of the pod directly, whatever the lists say.
#[inline(always)]
#[must_use]
pub const fn is_direct_inbound_port(port: u16) -> bool {
    // Spelled out: a loop over the array becomes a memory access the verifier has to follow.
    let [metrics, liveness, readiness, startup, tcp_probe] = DIRECT_INBOUND_PORTS;
    port == metrics || port == liveness || port == readiness || port == startup || port == tcp_probe
}
