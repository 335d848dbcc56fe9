//! getpeername() and getsockname(): neither end is to notice the redirection.

use osm_ebpf_common::{
    address::Address,
    maps::{Family, OriginalDestination},
};

use crate::{
    kernel::{Socket, SocketAddress},
    pod::Pod,
};

/// The other end: for the app what it dialled, for the sidecar the app's address. Also
/// called by accept() on the sidecar's side.
#[inline(always)]
pub fn peer(ctx: SocketAddress, family: Family) {
    let Some(dialled) = remembered(ctx) else {
        return;
    };
    if dialled.is_app_end() {
        ctx.set_address(family, dialled.address());
        ctx.set_port(dialled.port());
    } else {
        show_pod_address(ctx, family, &dialled);
    }
}

/// The own end: for the app the pod's address, for the sidecar 127.0.0.1.
#[inline(always)]
pub fn own(ctx: SocketAddress, family: Family) {
    let Some(dialled) = remembered(ctx) else {
        return;
    };
    if dialled.is_app_end() {
        show_pod_address(ctx, family, &dialled);
    } else if ctx.address(family).is_spread() {
        ctx.set_address(family, Address::LOCALHOST_V4);
    }
}

/// A socket that had a port before it connected could not be bound to the pod's address,
/// and the kernel chose 127.0.0.1 for it.
#[inline(always)]
fn show_pod_address(ctx: SocketAddress, family: Family, dialled: &OriginalDestination) {
    if !ctx.address(family).is_loopback() {
        return;
    }
    let source = Pod::find(ctx.netns_cookie()).and_then(|pod| pod.source_for(&dialled.address()));
    if let Some(source) = source {
        ctx.set_address(family, source);
    }
}

#[inline(always)]
fn remembered(ctx: SocketAddress) -> Option<OriginalDestination> {
    ctx.socket().and_then(Socket::remembered)
}
