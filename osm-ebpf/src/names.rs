//! getpeername() and getsockname(): neither end is to notice the redirection.

use osm_ebpf_common::{
    OUTBOUND_PORT,
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
    } else if shown.is_loopback() && is_outbound_listener_s(socket.local()) {
        // A look-up would tell which destination it is, and no more. A connection to an
        // address that stands for none also comes from the pod.
        show_pod_s_first_address(ctx, family);
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
    } else if is_outbound_listener_s(socket.peer()) {
        show_pod_s_first_address(ctx, family);
    }
}

/// Whether an end is the sidecar's, of a connection to a known destination.
#[inline(always)]
fn is_outbound_listener_s((address, port): (Address, u16)) -> bool {
    address.is_known() && port == OUTBOUND_PORT
}

/// The app's end of such a connection is 127.0.0.1: known destinations are neither loopback nor
/// the pod's own.
#[inline(always)]
fn show_pod_s_first_address(ctx: SocketAddress, family: Family) {
    let source = Pod::find(ctx.netns_cookie()).and_then(|pod| pod.address(true));
    if let Some(source) = source {
        ctx.set_address(family, source);
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
