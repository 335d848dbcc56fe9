//! bind(): the sidecar's ports are for the sidecar.

use aya_log_ebpf::warn;
use osm_ebpf_common::{
    decision::{self, Bind},
    maps::{Ends, Family},
};

use crate::{
    connect::Outcome,
    events,
    kernel::{self, SocketAddress},
    listeners::direction_of,
    pod::Pod,
};

/// Decides on one bind(), whatever the address. Only TCP is redirected, and only TCP ports are the sidecar's.
#[inline(always)]
#[must_use]
pub fn bind(ctx: SocketAddress, family: Family) -> Outcome {
    let port = ctx.port();
    if !decision::is_guarded_port(port) || !ctx.is_tcp() {
        return Outcome::Proceed;
    }
    let Some(pod) = Pod::find(ctx.netns_cookie()) else {
        return Outcome::Proceed;
    };
    let asked = Bind {
        port,
        by_sidecar: pod.is_caller_the_sidecar(),
    };
    // Always, and in which cgroup: how the sidecar is known may change before it listens.
    if asked.by_sidecar {
        mark_listener(ctx, port);
    }
    let Some(reason) = decision::bind(&pod, &asked) else {
        return Outcome::Proceed;
    };
    warn!(
        ctx,
        "refuses to bind to port {}, which is the sidecar's", port
    );
    let ends = || Ends::inbound(ctx.address(family), port);
    events::report(&pod, reason, ends, kernel::current_caller);
    Outcome::Refuse
}

/// Without memory for it, the socket is not known as the sidecar's: refused, never somebody else's.
#[inline(always)]
fn mark_listener(ctx: SocketAddress, port: u16) {
    if direction_of(port).is_some()
        && let Some(socket) = ctx.socket()
    {
        socket.remember_binder(kernel::current_cgroup());
    }
}
