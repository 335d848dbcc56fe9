//! connect(): where the pod's own connections are decided on and redirected.

use aya_log_ebpf::warn;
use osm_ebpf_common::{
    address::Address,
    decision::{self, Direction, Outbound, Verdict},
    maps::{Ends, Family, OriginalDestination},
    reason::Reason,
};

use crate::{
    destinations, events, handshake,
    kernel::{self, Socket, SocketAddress},
    listeners,
    pod::Pod,
    shortcut,
};

/// What the kernel is to do with the call.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// Go on, with the address that is in the context now.
    Proceed,
    /// Fail with `EPERM`.
    Refuse,
}

/// Decides on one connect() and carries the verdict out.
#[inline(always)]
#[must_use]
pub fn connect(ctx: SocketAddress, family: Family) -> Outcome {
    if !ctx.is_tcp() {
        return Outcome::Proceed;
    }
    let (Some(pod), Some(socket)) = (Pod::find(ctx.netns_cookie()), ctx.socket()) else {
        return Outcome::Proceed;
    };
    let dialled = OriginalDestination::new(ctx.address(family), ctx.port(), pod.entry.slot());
    let (outcome, reason) = decide(ctx, family, &pod, socket, dialled);
    if matches!(outcome, Outcome::Refuse) {
        warn!(
            ctx,
            "refuses to connect to [{:i}]:{}",
            dialled.address().octets(),
            dialled.port()
        );
    }
    if let Some(reason) = reason {
        let ends = || Ends::outbound(dialled.address(), dialled.port());
        events::report(&pod, reason, ends, kernel::current_caller);
    }
    outcome
}

/// What becomes of the call, and why; no reason where nothing was decided.
type Decided = (Outcome, Option<Reason>);

#[inline(always)]
const fn refused(reason: Reason) -> Decided {
    (Outcome::Refuse, Some(reason))
}

#[inline(always)]
fn decide(
    ctx: SocketAddress,
    family: Family,
    pod: &Pod,
    socket: Socket,
    dialled: OriginalDestination,
) -> Decided {
    if shortcut::was_taken(socket) {
        return refused(Reason::RefuseReusedSocket);
    }
    let verdict = decision::outbound(
        pod,
        &Outbound {
            destination: meant(dialled.address(), socket),
            port: dialled.port(),
            by_sidecar: pod.is_caller_the_sidecar(),
        },
    );
    match verdict {
        Verdict::Pass(reason) => {
            if is_to_app(pod, reason, &dialled)
                && let Some(marked) =
                    shortcut::marked_to_app(ctx, socket, dialled, dialled.address())
                && socket.remember(marked).is_ok()
            {
                return (Outcome::Proceed, Some(reason));
            }
            // An earlier connect() on this socket may have been redirected, and failed.
            socket.forget();
            (Outcome::Proceed, Some(reason))
        }
        Verdict::Redirect(direction, reason) => {
            redirect(ctx, family, pod, socket, dialled, direction, reason)
        }
        Verdict::ToPodAddress(reason) => to_pod_address(ctx, family, pod, socket, dialled, reason),
    }
}

#[inline(always)]
fn redirect(
    ctx: SocketAddress,
    family: Family,
    pod: &Pod,
    socket: Socket,
    dialled: OriginalDestination,
    direction: Direction,
    reason: Reason,
) -> Decided {
    let dialled = if pod.takes_shortcut() {
        shortcut::marked(ctx, socket, dialled)
    } else {
        dialled
    };
    let known = match direction {
        // The shortcut begins with the hand-over.
        Direction::Outbound if !dialled.is_by_shortcut() => {
            destinations::address_of(pod.entry.netns_cookie(), dialled)
        }
        Direction::Outbound | Direction::Inbound => None,
    };
    let target = if let Some(known) = known {
        socket.forget();
        known
    } else {
        if handshake::are_too_many(pod.entry.slot()) {
            return refused(Reason::RefuseTooManyHandshakes);
        }
        if socket.remember(dialled).is_err() {
            return refused(Reason::RefuseNoMemory);
        }
        come_from_the_pod(ctx, family, pod, socket, &dialled.address());
        listeners::target(&dialled)
    };
    // Which socket gets it, if any, is decided when the SYN arrives there: `inbound`.
    ctx.set_address(family, target);
    ctx.set_port(listeners::port_of(direction));
    (Outcome::Proceed, Some(reason))
}

/// The sidecar called the local host: it gets to the pod's address, and is not told.
#[inline(always)]
fn to_pod_address(
    ctx: SocketAddress,
    family: Family,
    pod: &Pod,
    socket: Socket,
    dialled: OriginalDestination,
    reason: Reason,
) -> Decided {
    let v4 = dialled.address().is_v4();
    let Some(address) = pod.address(v4) else {
        socket.forget();
        return (Outcome::Proceed, None);
    };
    let remembered = if is_to_app(pod, reason, &dialled) {
        shortcut::marked_to_app(ctx, socket, dialled, address).unwrap_or(dialled)
    } else {
        dialled
    };
    if socket.remember(remembered).is_err() {
        return refused(Reason::RefuseNoMemory);
    }
    let (bound, port) = socket.bound();
    if port == 0 && bound.is_unspecified() {
        ctx.bind(family, Address::localhost(v4));
    }
    ctx.set_address(family, address);
    (Outcome::Proceed, Some(reason))
}

/// Whether a connection is the sidecar's to its app, and may take the loopback shortcut.
#[inline(always)]
fn is_to_app(pod: &Pod, reason: Reason, dialled: &OriginalDestination) -> bool {
    let is_to_local_host = match reason {
        Reason::PassSidecar => dialled.address().is_localhost(),
        Reason::PassSidecarToPodAddress => true,
        _ => false,
    };
    is_to_local_host
        && pod.takes_shortcut()
        && !is_sidecars_own(dialled.port())
        && !handshake::are_too_many(pod.entry.slot())
}

/// A port of the sidecar: what it says to itself is nobody's traffic.
#[inline(always)]
const fn is_sidecars_own(port: u16) -> bool {
    port >= 15000 && port <= 15010 || decision::is_direct_inbound_port(port)
}

/// Binds the socket to the address it would have used, so that the sidecar sees the app's
/// own address and not 127.0.0.1. A socket that has a port can't be bound any more; its
/// names are corrected in [`crate::names`].
#[inline(always)]
fn come_from_the_pod(
    ctx: SocketAddress,
    family: Family,
    pod: &Pod,
    socket: Socket,
    destination: &Address,
) {
    let (address, port) = socket.bound();
    if port != 0 || !address.is_unspecified() {
        return;
    }
    if let Some(source) = pod.source_for(destination) {
        ctx.bind(family, source);
    }
}

/// The address that a dialled one stands for: an unspecified one is the local host, or
/// the address that the socket is bound to.
#[inline(always)]
fn meant(dialled: Address, socket: Socket) -> Address {
    if !dialled.is_unspecified() {
        return dialled;
    }
    if !dialled.is_v4() {
        return Address::LOCALHOST_V6;
    }
    let (bound, _) = socket.bound();
    if bound.is_unspecified() {
        Address::LOCALHOST_V4
    } else {
        bound
    }
}
