//! getpeername() and getsockname(): neither end is to notice the redirection.

use osm_ebpf_common::{
    address::Address,
    maps::{Family, OriginalDestination},
};

use crate::{destinations, kernel::SocketAddress, pod::Pod};

/// The other end: for the app what it dialled, for the sidecar the app's address. Also
/// called by accept() on the sidecar's side.
#[inline(always)]
pub fn peer(ctx: SocketAddress, family: Family) {
    let shown = ctx.address(family);
    if shown.is_known() {
        if let Some(dialled) = destinations::find(ctx.netns_cookie(), shown, ctx.port()) {
            show_dialled(ctx, family, &dialled);
        }
        return;
    }
    let Some(socket) = ctx.socket() else {
        return;
    };
    if let Some(dialled) = socket.remembered() {
        if dialled.is_app_end() {
            show_dialled(ctx, family, &dialled);
        } else {
            show_pod_address(ctx, family, &dialled);
        }
    } else if shown.is_loopback() {
        let (local, port) = socket.local();
        show_pod_address_if_known(ctx, family, local, port);
    }
}

/// The own end: for the app the pod's address, for the sidecar 127.0.0.1.
#[inline(always)]
pub fn own(ctx: SocketAddress, family: Family) {
    let shown = ctx.address(family);
    if !shown.is_loopback() {
        return;
    }
    if shown.is_known() {
        if destinations::find(ctx.netns_cookie(), shown, ctx.port()).is_some() {
            ctx.set_address(family, Address::LOCALHOST_V4);
        }
        return;
    }
    let Some(socket) = ctx.socket() else {
        return;
    };
    if let Some(dialled) = socket.remembered() {
        if dialled.is_app_end() {
            show_pod_address(ctx, family, &dialled);
        } else if shown.is_spread() {
            ctx.set_address(family, Address::LOCALHOST_V4);
        }
    } else {
        let (peer, port) = socket.peer();
        show_pod_address_if_known(ctx, family, peer, port);
    }
}

#[inline(always)]
fn show_dialled(ctx: SocketAddress, family: Family, dialled: &OriginalDestination) {
    ctx.set_address(family, dialled.address());
    ctx.set_port(dialled.port());
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

/// The same, by the address and the port of the listener's end.
#[inline(always)]
fn show_pod_address_if_known(ctx: SocketAddress, family: Family, listener: Address, port: u16) {
    if let Some(dialled) = destinations::find(ctx.netns_cookie(), listener, port) {
        show_pod_address(ctx, family, &dialled);
    }
}
