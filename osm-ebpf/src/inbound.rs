//! Connections that reach the pod: which listener gets them.

use osm_ebpf_common::{
    decision::{self, Inbound, Verdict},
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
    // The decision says the same; every redirected connection of the pod itself comes by
    // here, and needs no look-up.
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
        Verdict::Redirect(_, reason) => {
            if listeners::assign(ctx, netns_cookie) {
                pod.count(reason);
                Outcome::Proceed
            } else {
                pod.count(Reason::RefuseNoInboundListener);
                Outcome::Refuse
            }
        }
    }
}
