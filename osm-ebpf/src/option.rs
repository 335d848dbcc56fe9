//! getsockopt(`SO_ORIGINAL_DST`), which iptables would answer from conntrack.

use osm_ebpf_common::{address::Address, maps::Ends, reason::Reason};

use crate::{
    destinations, events,
    kernel::{self, Socket, SocketOption},
    listeners,
    pod::Pod,
};

const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
/// `SO_ORIGINAL_DST` at `SOL_IP`, `IP6T_SO_ORIGINAL_DST` at `SOL_IPV6`.
const SO_ORIGINAL_DST: i32 = 80;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// The smallest page. What a program sees of a longer buffer is cut off.
const PAGE: i32 = 4096;

/// What the kernel is to do with the call.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// Return what is in the context, or what the kernel itself has.
    Proceed,
    /// Fail with `EPERM`.
    Refuse,
}

/// Answers the one option that is ours; all others come from the kernel unharmed.
#[inline(always)]
#[must_use]
pub fn get(ctx: SocketOption) -> Outcome {
    let answered = match ctx.level_and_name() {
        (SOL_IP, SO_ORIGINAL_DST) => match answer(ctx, true) {
            Answer::Lost => return Outcome::Refuse,
            answer => matches!(answer, Answer::Given),
        },
        (SOL_IPV6, SO_ORIGINAL_DST) => match answer(ctx, false) {
            Answer::Lost => return Outcome::Refuse,
            answer => matches!(answer, Answer::Given),
        },
        _ => false,
    };
    // The kernel fails the call with EFAULT if the length is still longer than what it
    // showed to the program.
    if !answered && ctx.length() > PAGE {
        ctx.leave_to_kernel();
    }
    Outcome::Proceed
}

enum Answer {
    Given,
    /// The kernel may have one.
    None,
    /// There was one, and it is lost. The kernel's, from conntrack, would be wrong.
    Lost,
}

/// Answers by the address's family, not by the socket's: sidecars ask `SOL_IP` on an IPv6
/// socket that took an IPv4 connection.
#[inline(always)]
fn answer(ctx: SocketOption, v4: bool) -> Answer {
    let Some(socket) = ctx.socket().filter(Socket::is_tcp) else {
        return Answer::None;
    };
    let (local, port) = socket.local();
    let (peer, peer_port) = socket.peer();
    // At the sidecar's end, or at the app's.
    let known = if local.is_known() {
        destinations::find(ctx.netns_cookie(), local, port)
    } else if peer.is_known() {
        destinations::find(ctx.netns_cookie(), peer, peer_port)
    } else {
        None
    };
    let (address, port) = match known.or_else(|| socket.remembered()) {
        Some(dialled) => (dialled.address(), dialled.port()),
        None if local.is_spread() => {
            report_lost(ctx, local, port);
            return Answer::Lost;
        }
        // Redirected by iptables: so it was when eBPF took over, or still is.
        None if ctx.kernel_has_answered() => return Answer::None,
        None if is_redirected_v6(&local, port, &peer) => {
            report_lost(ctx, local, port);
            return Answer::Lost;
        }
        None => match own_destination(ctx, socket) {
            Some(own) => own,
            None => return Answer::None,
        },
    };
    if address.is_v4() != v4 {
        return Answer::None;
    }
    let [a, b, c, d] = address.words();
    let given = if v4 {
        // struct sockaddr_in: family and port, address, padding.
        ctx.answer([family_and_port(AF_INET, port), d, 0, 0])
    } else {
        // struct sockaddr_in6: family and port, flow information, address, scope.
        ctx.answer([family_and_port(AF_INET6, port), 0, a, b, c, d, 0])
    };
    if given { Answer::Given } else { Answer::None }
}

/// Somebody in the pod dialled an address that stands for no destination. Those that a note
/// should have come with were counted when they were established.
#[inline(always)]
fn report_lost(ctx: SocketOption, local: Address, port: u16) {
    if (local.is_known() || !local.is_v4())
        && let Some(pod) = Pod::find(ctx.netns_cookie())
    {
        let ends = || Ends::outbound(local, port);
        events::report(&pod, Reason::LostDestination, ends, events::nobody);
    }
}

/// Whether the sidecar accepted what [`crate::connect`] sent it at `::1`, where an app that dials it by
/// itself comes from `::1` as well: its own address, as an answer, would have it call itself for ever.
#[inline(always)]
fn is_redirected_v6(local: &Address, port: u16, peer: &Address) -> bool {
    !local.is_v4()
        && local.is_localhost()
        && !peer.is_loopback()
        && listeners::direction_of(port).is_some()
}

/// A connection of the sidecar that was not redirected inside the pod: it came from outside,
/// or directly, and its own address is what the client dialled.
#[inline(always)]
fn own_destination(ctx: SocketOption, socket: Socket) -> Option<(Address, u16)> {
    let pod = Pod::find(ctx.netns_cookie())?;
    let asked_by_sidecar = kernel::current_uid() == pod.entry.sidecar_uid();
    (asked_by_sidecar && socket.is_connected()).then(|| socket.local())
}

#[inline(always)]
const fn family_and_port(family: u16, port: u16) -> u32 {
    let [a, b] = family.to_ne_bytes();
    let [c, d] = port.to_be_bytes();
    u32::from_ne_bytes([a, b, c, d])
}
