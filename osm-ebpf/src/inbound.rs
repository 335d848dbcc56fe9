//! Connections that reach the pod: which listener gets them.

use osm_ebpf_common::{
    decision::{self, Direction, Inbound, Verdict},
    maps::{Ends, HandshakeKey},
    reason::Reason,
};

use crate::{
    destinations, events,
    kernel::Lookup,
    listeners,
    maps::{HANDSHAKES, INBOUND_CODE, INBOUND_POD},
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
    counted: Counted,
}

/// As what a connection is counted, and in whose counters.
struct Counted {
    slot: u32,
    reason: Reason,
}

/// What becomes of a connection, and as what it is counted, if it is.
type Decided = (Outcome, Option<Counted>);

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
    let (outcome, counted) = decide(ctx, netns_cookie);
    // Here only, behind the loop over the listeners, and of nothing that was known before it.
    if let Some(Counted { slot, reason }) = counted {
        let ends = || ends(ctx, netns_cookie);
        events::report_in(netns_cookie, slot, reason, ends, events::nobody);
    }
    outcome
}

#[inline(always)]
fn decide(ctx: Lookup, netns_cookie: u64) -> Decided {
    let redirect = match verdict(ctx, netns_cookie) {
        Ok(redirect) => redirect,
        Err(decided) => return decided,
    };
    // The only call: see there.
    if listeners::assign(ctx, netns_cookie, redirect.direction) {
        return (Outcome::Proceed, Some(redirect.counted));
    }
    // A listener that is not the sidecar's never gets what is meant for it. The direction is
    // read anew, as the verifier must not have to know which one it was above.
    let refused = Pod::find(netns_cookie).map(|pod| Counted {
        slot: pod.entry.slot(),
        reason: match redirected_here(&connection(ctx)) {
            Some(Direction::Outbound) => Reason::RefuseNoOutboundListener,
            Some(Direction::Inbound) | None => Reason::RefuseNoInboundListener,
        },
    });
    (Outcome::Refuse, refused)
}

/// Who connects to what, for who listens: of a connection that [`crate::connect`] redirected, what was dialled.
#[inline(always)]
fn ends(ctx: Lookup, netns_cookie: u64) -> Ends {
    let connection = connection(ctx);
    let (local, port, client) = (connection.destination, connection.port, ctx.remote_port());
    if redirected_here(&connection).is_none() {
        return Ends::inbound(local, port).from(connection.client, client);
    }
    let note = || {
        let key = HandshakeKey::new(netns_cookie, connection.client, client, local, port);
        let note = HANDSHAKES.get_ptr(key)?;
        // SAFETY: an element stays readable until the program ends.
        Some(unsafe { note.read() })
    };
    let dialled = destinations::find(netns_cookie, local, port).or_else(note);
    dialled.map_or(Ends::outbound(local, port), |dialled| {
        Ends::outbound(dialled.address(), dialled.port())
    })
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
fn verdict(ctx: Lookup, netns_cookie: u64) -> Result<Redirect, Decided> {
    let connection = connection(ctx);
    if let Some(direction) = redirected_here(&connection) {
        return Ok(Redirect {
            direction,
            counted: Counted {
                // It was counted as it was dialled. No pod has such a slot; and it is none that the
                // verifier knows, which would have it tell this case from the others.
                slot: !u32::from(connection.port),
                reason: Reason::RedirectInbound,
            },
        });
    }
    // The decision says the same, but what the pod says to itself needs no look-up.
    if connection.is_local() {
        return Err((Outcome::Proceed, None));
    }
    // A pod that is not described is being withdrawn: nothing passes by mistake.
    let Some(pod) = Pod::find(netns_cookie) else {
        return Err((Outcome::Refuse, None));
    };
    let slot = pod.entry.slot();
    match decision::inbound(&pod, &connection) {
        Verdict::Pass(Reason::PassLocal) => Err((Outcome::Proceed, None)),
        Verdict::Pass(reason) => Err((Outcome::Proceed, Some(Counted { slot, reason }))),
        Verdict::ToPodAddress(_) => Err((Outcome::Refuse, None)),
        Verdict::Redirect(direction, reason) => Ok(Redirect {
            direction,
            counted: Counted { slot, reason },
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
