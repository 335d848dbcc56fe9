//! Connections that reach the pod: which listener gets them.

use osm_ebpf_common::{
    decision::{self, Direction, Inbound, Verdict},
    reason::Reason,
};

use crate::{
    kernel::Lookup,
    listeners,
    maps::{INBOUND_CODE, INBOUND_POD},
    pod::Pod,
};

/// What the kernel is to do with the connection.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// Go on: to the listener that was assigned, or to the one on that address and port.
    Proceed,
    /// Answer with a reset.
    Refuse,
}

/// What is to go to the sidecar.
struct Redirect {
    direction: Direction,
    /// Whose counters count it.
    slot: u32,
    reason: Reason,
}

/// Says which pod a connection is to, and goes on in the program that all pods share. It comes
/// back only where that program is not there: then nothing passes.
///
/// The cookie is handed over in one word, mixed with the addresses of the packet. What runs in
/// between on the same CPU and writes its own word there (a look-up for sock_diag, which a packet
/// interrupts; a kernel with preemptible soft interrupts) has another packet: what is made of its
/// word is no pod's cookie, and refused.
#[inline(always)]
#[must_use]
pub fn enter(ctx: Lookup, netns_cookie: u64) -> Outcome {
    if !ctx.is_tcp() {
        return Outcome::Proceed;
    }
    if let Some(word) = INBOUND_POD.get_ptr_mut(0) {
        // SAFETY: this CPU's element, which stays.
        unsafe { word.write_volatile(netns_cookie ^ ctx.digest()) };
        ctx.go_on_in(&INBOUND_CODE);
    }
    Outcome::Refuse
}

/// Decides on one connection to a pod and carries the verdict out.
#[inline(always)]
#[must_use]
pub fn lookup(ctx: Lookup) -> Outcome {
    let Some(word) = INBOUND_POD.get_ptr(0) else {
        return Outcome::Refuse;
    };
    // SAFETY: as above.
    let netns_cookie = unsafe { word.read_volatile() } ^ ctx.digest();
    let redirect = match verdict(ctx, netns_cookie) {
        Ok(redirect) => redirect,
        Err(outcome) => return outcome,
    };
    // The only call: see there.
    if listeners::assign(ctx, netns_cookie, redirect.direction) {
        Pod::count_in(redirect.slot, redirect.reason);
        return Outcome::Proceed;
    }
    // A listener that is not the sidecar's never gets what is meant for it. The direction is
    // read anew, as the verifier must not have to know which one it was above.
    if let Some(pod) = Pod::find(netns_cookie) {
        pod.count(match redirected_here(&connection(ctx)) {
            Some(Direction::Outbound) => Reason::RefuseNoOutboundListener,
            Some(Direction::Inbound) | None => Reason::RefuseNoInboundListener,
        });
    }
    Outcome::Refuse
}

#[inline(always)]
fn connection(ctx: Lookup) -> Inbound {
    Inbound {
        client: ctx.remote_address(),
        destination: ctx.local_address(),
        port: ctx.local_port(),
        interface: ctx.interface(),
    }
}

/// What goes to the sidecar, or else what becomes of it.
#[inline(always)]
fn verdict(ctx: Lookup, netns_cookie: u64) -> Result<Redirect, Outcome> {
    let connection = connection(ctx);
    if let Some(direction) = redirected_here(&connection) {
        return Ok(Redirect {
            direction,
            // It was counted as it was dialled. No pod has such a slot; and it is none that the
            // verifier knows, which would have it tell this case from the others.
            slot: !u32::from(connection.port),
            reason: Reason::RedirectInbound,
        });
    }
    // The decision says the same, but what the pod says to itself needs no look-up.
    if connection.is_local() {
        return Err(Outcome::Proceed);
    }
    // A pod that is not described is being withdrawn: nothing passes by mistake.
    let Some(pod) = Pod::find(netns_cookie) else {
        return Err(Outcome::Refuse);
    };
    match decision::inbound(&pod, &connection) {
        Verdict::Pass(Reason::PassLocal) => Err(Outcome::Proceed),
        Verdict::Pass(reason) => {
            pod.count(reason);
            Err(Outcome::Proceed)
        }
        Verdict::ToPodAddress(_) => Err(Outcome::Refuse),
        Verdict::Redirect(direction, reason) => Ok(Redirect {
            direction,
            slot: pod.entry.slot(),
            reason,
        }),
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
