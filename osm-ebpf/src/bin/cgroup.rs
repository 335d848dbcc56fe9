//! The programs attached to a pod's cgroup. Loaded once per node, shared by all pods.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros hand contexts over by value"
)]

use core::ptr;

use aya_ebpf::{
    macros::{cgroup_sock_addr, cgroup_sockopt, sk_msg, sock_ops},
    programs::{SkMsgContext, SockAddrContext, SockOpsContext, SockoptContext},
};
use osm_ebpf::{
    bind,
    connect::{self, Outcome},
    handshake,
    kernel::{self, Message, Operation, SocketAddress, SocketOption},
    listeners, names, option, shortcut,
};
use osm_ebpf_common::maps::Family;

/// Where a task has its credentials, set by the agent before it loads the programs; zero where the kernel
/// lets programs of sockops ask who calls.
#[unsafe(no_mangle)]
static CREDENTIALS_AT: u32 = 0;
/// Where these have the user.
#[unsafe(no_mangle)]
static USER_AT: u32 = 0;

const ALLOW: i32 = 1;
const DENY: i32 = 0;

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    call_code(connect::connect(SocketAddress::new(&ctx), Family::V4))
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    call_code(connect::connect(SocketAddress::new(&ctx), Family::V6))
}

#[inline(always)]
const fn call_code(outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Proceed => ALLOW,
        Outcome::Refuse => DENY,
    }
}

#[cgroup_sock_addr(bind4)]
fn bind4(ctx: SockAddrContext) -> i32 {
    call_code(bind::bind(SocketAddress::new(&ctx), Family::V4))
}

#[cgroup_sock_addr(bind6)]
fn bind6(ctx: SockAddrContext) -> i32 {
    call_code(bind::bind(SocketAddress::new(&ctx), Family::V6))
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    names::peer(SocketAddress::new(&ctx), Family::V4);
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    names::peer(SocketAddress::new(&ctx), Family::V6);
    ALLOW
}

#[cgroup_sock_addr(getsockname4)]
fn getsockname4(ctx: SockAddrContext) -> i32 {
    names::own(SocketAddress::new(&ctx), Family::V4);
    ALLOW
}

#[cgroup_sock_addr(getsockname6)]
fn getsockname6(ctx: SockAddrContext) -> i32 {
    names::own(SocketAddress::new(&ctx), Family::V6);
    ALLOW
}

// Not called like its section, `sockops`: the loader could not tell them apart.
#[sock_ops]
fn socket_events(ctx: SockOpsContext) -> u32 {
    const TCP_CONNECT: u32 = 3;
    const ACTIVE_ESTABLISHED: u32 = 4;
    const PASSIVE_ESTABLISHED: u32 = 5;
    const STATE_CHANGED: u32 = 10;
    const LISTEN: u32 = 11;
    const ROUND_TRIP: u32 = 12;

    let operation = Operation::new(&ctx);
    match operation.code() {
        TCP_CONNECT => handshake::connecting(operation),
        ACTIVE_ESTABLISHED => handshake::connected(operation),
        PASSIVE_ESTABLISHED => handshake::established(operation),
        STATE_CHANGED => handshake::state_changed(operation),
        LISTEN => listeners::listening(operation, listener_s_user),
        ROUND_TRIP => shortcut::answered(operation),
        _ => {}
    }
    1
}

/// The verifier knows these numbers, and removes the branch that is not taken: a helper in it that the
/// kernel refuses is never looked at.
#[inline(always)]
fn listener_s_user() -> Option<u32> {
    // SAFETY: a static is always there. Volatile, as the loader changes it.
    let credentials = unsafe { ptr::read_volatile(&raw const CREDENTIALS_AT) };
    // SAFETY: as above.
    let user = unsafe { ptr::read_volatile(&raw const USER_AT) };
    if credentials == 0 {
        Some(kernel::current_uid())
    } else {
        kernel::current_uid_at(credentials, user)
    }
}

#[cgroup_sockopt(getsockopt)]
fn getsockopt(ctx: SockoptContext) -> i32 {
    match option::get(SocketOption::new(&ctx)) {
        option::Outcome::Proceed => ALLOW,
        option::Outcome::Refuse => DENY,
    }
}

/// Attached to the map of the sockets that take the loopback shortcut, not to a cgroup.
#[sk_msg]
fn loopback(ctx: SkMsgContext) -> u32 {
    const SK_PASS: u32 = 1;
    shortcut::send(Message::new(&ctx));
    SK_PASS
}
