//! The hand-over of the original destination, from the app's socket to the sidecar's.
//!
//! The app's SYN leaves with its ports chosen: what was dialled is noted under them. The
//! sidecar's side is established: the note is taken and remembered on that socket. A
//! handshake that never ends leaves its note until the app's socket closes.

use osm_ebpf_common::{
    maps::{HandshakeKey, OriginalDestination},
    reason::Reason,
};

use crate::{
    kernel::{Operation, Socket},
    listeners::direction_of,
    maps::HANDSHAKES,
    pod::Pod,
};

/// `BPF_SOCK_OPS_STATE_CB_FLAG`.
const REPORT_STATE: u32 = 1 << 2;
/// `BPF_TCP_ESTABLISHED`.
const ESTABLISHED: u32 = 1;
/// `BPF_TCP_CLOSE`.
const CLOSED: u32 = 7;

/// The app's SYN is about to leave.
#[inline(always)]
pub fn connecting(operation: Operation) {
    if direction_of(operation.remote_port()).is_none() {
        return;
    }
    let Some(memory) = operation.socket().and_then(Socket::memory) else {
        return;
    };
    let dialled = memory.get();
    if !dialled.is_app_end() {
        return;
    }
    // A note that does not fit is missed by `established`, and the sidecar then knows no
    // destination: refused, never sent elsewhere.
    if HANDSHAKES
        .insert(key_at_app(operation), dialled, 0)
        .is_err()
    {
        return;
    }
    let events = operation.reported_events();
    if events & REPORT_STATE == 0 {
        memory.set(dialled.watched());
        operation.report_events(events | REPORT_STATE);
    }
}

/// A connection to the sidecar is established, at its side.
#[inline(always)]
pub fn established(operation: Operation) {
    if direction_of(operation.local_port()).is_none() {
        return;
    }
    let local = operation.local_address();
    if !local.is_loopback() {
        return;
    }
    let cookie = operation.netns_cookie();
    let key = HandshakeKey::new(
        cookie,
        operation.remote_address(),
        operation.remote_port(),
        local,
        operation.local_port(),
    );
    let (Some(socket), Some(dialled)) = (operation.socket(), take(&key)) else {
        // Nobody but us sends connections to that block.
        if local.is_spread()
            && let Some(pod) = Pod::find(cookie)
        {
            pod.count(Reason::LostDestination);
        }
        return;
    };
    if socket.remember(dialled.at_sidecar()).is_err()
        && let Some(pod) = Pod::find(cookie)
    {
        pod.count(Reason::LostDestination);
    }
}

/// The app's socket changes its state: the first time after the handshake, there is
/// nothing left to watch for, or never will be.
#[inline(always)]
pub fn state_changed(operation: Operation) {
    let state = operation.second_argument();
    if state == ESTABLISHED || direction_of(operation.remote_port()).is_none() {
        return;
    }
    let watched = operation
        .socket()
        .and_then(Socket::memory)
        .is_some_and(|memory| memory.get().is_watched());
    if !watched {
        return;
    }
    let key = key_at_app(operation);
    let waits = HANDSHAKES.get_ptr(key).is_some();
    if waits && state != CLOSED {
        return;
    }
    if waits {
        let _ = HANDSHAKES.remove(key);
    }
    operation.report_events(operation.reported_events() & !REPORT_STATE);
}

#[inline(always)]
fn take(key: &HandshakeKey) -> Option<OriginalDestination> {
    let noted = HANDSHAKES.get_ptr(key)?;
    // SAFETY: an element stays readable until the program ends. Its memory is given to no
    // other key before it is removed, which only this connection does.
    let noted = unsafe { noted.read() };
    let _ = HANDSHAKES.remove(key);
    Some(noted)
}

#[inline(always)]
fn key_at_app(operation: Operation) -> HandshakeKey {
    HandshakeKey::new(
        operation.netns_cookie(),
        operation.local_address(),
        operation.local_port(),
        operation.remote_address(),
        operation.remote_port(),
    )
}
