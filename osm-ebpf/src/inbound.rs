//! Connections that reach the pod: which listener gets them.

use osm_ebpf_common::{
    decision::{self, Direction, Inbound, Verdict},
    reason::Reason,
};

use crate::{kernel::Lookup, listeners, pod::Pod};

/// What the kernel is to do with the connection.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// Go on: to the listener that was assigned, or to the one on that address and port.
    Proceed,
    /// Answer with a reset.
    Refuse,
}

/// Decides on one connection to the pod and carries the verdict out.
#[inline(always)]
#[must_use]
pub fn lookup(ctx: Lookup, netns_cookie: u64) -> Outcome {
    if !ctx.is_tcp() {
        return Outcome::Proceed;
    }
    let connection = Inbound {
        client: ctx.remote_address(),
        destination: ctx.local_address(),
        port: ctx.local_port(),
        interface: ctx.interface(),
    };
    if let Some(direction) = redirected_here(&connection) {
        return to_sidecar(ctx, netns_cookie, direction);
    }
    // The decision says the same, but what the pod says to itself needs no look-up.
    if connection.is_local() {
        return Outcome::Proceed;
    }
    // A pod that is not described is being withdrawn: nothing passes by mistake.
    let Some(pod) = Pod::find(netns_cookie) else {
        return Outcome::Refuse;
    };
    let verdict = decision::inbound(&pod, &connection);
    match verdict {
        Verdict::Pass(Reason::PassLocal) => Outcome::Proceed,
        Verdict::Pass(reason) => {
            pod.count(reason);
            Outcome::Proceed
        }
        Verdict::ToPodAddress(_) => Outcome::Refuse,
        Verdict::Redirect(direction, reason) => {
            if listeners::assign(ctx, netns_cookie, direction) {
                pod.count(reason);
                Outcome::Proceed
            } else {
                refuse(&pod, direction)
            }
        }
    }
}

/// The listener that a connection was sent to by [`crate::connect`]. Nobody else has a reason
/// to dial these addresses. At `::1` somebody may have: the sidecar is the only one that
/// listens on its ports all the same.
#[inline(always)]
fn redirected_here(connection: &Inbound) -> Option<Direction> {
    let destination = connection.destination;
    if !destination.is_spread() && (destination.is_v4() || !destination.is_localhost()) {
        return None;
    }
    listeners::direction_of(connection.port)
}

/// A listener that is not the sidecar's never gets what is meant for it.
#[inline(always)]
fn to_sidecar(ctx: Lookup, netns_cookie: u64, direction: Direction) -> Outcome {
    if listeners::assign(ctx, netns_cookie, direction) {
        return Outcome::Proceed;
    }
    match Pod::find(netns_cookie) {
        Some(pod) => refuse(&pod, direction),
        None => Outcome::Refuse,
    }
}

#[inline(always)]
fn refuse(pod: &Pod, direction: Direction) -> Outcome {
    pod.count(match direction {
        Direction::Outbound => Reason::RefuseNoOutboundListener,
        Direction::Inbound => Reason::RefuseNoInboundListener,
    });
    Outcome::Refuse
}
