//! The hand-over of the original destination, from the app's socket to the sidecar's.
//!
//! The app's SYN leaves with its ports chosen: what was dialled is noted under them. The
//! sidecar's side is established: the note is taken and remembered on that socket. A
//! handshake that never ends leaves its note until the app's socket closes.

use aya_log_ebpf::{debug, warn};
use osm_ebpf_common::{
    maps::{Ends, HandshakeKey, MAX_HANDSHAKES_PER_POD, OriginalDestination},
    reason::Reason,
};

use crate::{
    events,
    kernel::{self, Operation, Socket},
    listeners::direction_of,
    maps::{HANDSHAKES, HANDSHAKES_OF_POD},
    pod::Pod,
    shortcut,
};

/// `BPF_SOCK_OPS_STATE_CB_FLAG`.
const REPORT_STATE: u32 = 1 << 2;
/// `BPF_TCP_ESTABLISHED`.
const ESTABLISHED: u32 = 1;
const BPF_NOEXIST: u64 = 1;
/// More than any number of notes is ever counted wrongly by.
const SLACK: u64 = 1 << 20;
/// `BPF_TCP_CLOSE`.
const CLOSED: u32 = 7;

/// The app's SYN is about to leave.
#[inline(always)]
pub fn connecting(operation: Operation) {
    if !may_be_noted(operation) {
        return;
    }
    let Some(memory) = operation.socket().and_then(Socket::memory) else {
        return;
    };
    let dialled = memory.get();
    if !dialled.is_app_end() || is_left_alone(operation, &dialled) {
        return;
    }
    // A note that does not fit is missed by `established`, and the sidecar then knows no
    // destination: refused, never sent elsewhere.
    if HANDSHAKES
        .insert(key_at_app(operation), dialled, BPF_NOEXIST)
        .is_err()
    {
        return;
    }
    count(dialled.slot(), 1);
    debug!(
        operation,
        "hands over [{:i}]:{}, dialled from port {}",
        dialled.address().octets(),
        dialled.port(),
        operation.local_port()
    );
    let events = operation.reported_events();
    let for_us = events & REPORT_STATE == 0;
    memory.set(dialled.noted(for_us));
    if for_us {
        operation.report_events(events | REPORT_STATE);
    }
}

/// The same connection is established, at the app's side.
#[inline(always)]
pub fn connected(operation: Operation) {
    if !may_be_noted(operation) {
        return;
    }
    if let Some(socket) = operation.socket()
        && let Some(memory) = socket.memory()
        && memory.get().is_noted()
        && memory.get().is_by_shortcut()
    {
        shortcut::dialled(operation, socket, key_at_app(operation), &memory.get());
    }
}

/// A connection to the sidecar is established, at its side.
#[inline(always)]
pub fn established(operation: Operation) {
    let is_to_sidecar = direction_of(operation.local_port()).is_some();
    if !is_to_sidecar && !operation.remote_address().is_loopback() {
        return;
    }
    let local = operation.local_address();
    // No note was made.
    if local.is_known() {
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
        if local.is_spread() {
            lost(operation);
        }
        return;
    };
    debug!(
        operation,
        "takes over [{:i}]:{}, dialled from port {}",
        dialled.address().octets(),
        dialled.port(),
        operation.remote_port()
    );
    if dialled.is_by_shortcut() {
        shortcut::accepted(operation, key, &dialled);
    } else if dialled.is_to_app() {
        shortcut::watch(operation);
    }
    if !dialled.is_to_app() && socket.remember(dialled.at_sidecar()).is_err() {
        lost(operation);
    }
}

/// Where this connection of the sidecar's was to go is not known.
#[inline(always)]
fn lost(operation: Operation) {
    warn!(
        operation,
        "does not know what was dialled from port {}",
        operation.remote_port()
    );
    if let Some(pod) = Pod::find(operation.netns_cookie()) {
        let ends = || {
            Ends::outbound(operation.local_address(), operation.local_port())
                .from(operation.remote_address(), operation.remote_port())
        };
        events::report(&pod, Reason::LostDestination, ends, events::nobody);
    }
}

/// The app's socket changes its state: the first time after the handshake, there is
/// nothing left to watch for, or never will be.
#[inline(always)]
pub fn state_changed(operation: Operation) {
    let state = operation.second_argument();
    if state == ESTABLISHED || !may_be_noted(operation) {
        return;
    }
    let Some(memory) = operation.socket().and_then(Socket::memory) else {
        return;
    };
    let dialled = memory.get();
    if !dialled.is_noted() {
        return;
    }
    let key = key_at_app(operation);
    let waits = HANDSHAKES.get_ptr(key).is_some();
    if waits && state != CLOSED {
        return;
    }
    if waits {
        remove(&key, &dialled);
    }
    if dialled.is_by_shortcut() {
        shortcut::forget(&key);
    }
    if dialled.reports_for_us() {
        operation.report_events(operation.reported_events() & !REPORT_STATE);
    }
}

/// Whether as many handshakes of a pod are on their way as may be.
#[inline(always)]
#[must_use]
pub fn are_too_many(slot: u32) -> bool {
    number_of(slot) >= MAX_HANDSHAKES_PER_POD
}

/// How many entries of [`HANDSHAKES`] a pod has.
#[inline(always)]
#[must_use]
pub fn number_of(slot: u32) -> u64 {
    // SAFETY: an element of an array stays; the number may be a little old.
    HANDSHAKES_OF_POD
        .get_ptr(slot)
        .map_or(u64::MAX, |number| unsafe { number.read_volatile() })
        // Below zero: a note of the pod that had the slot before was taken away after the number was zeroed.
        .wrapping_add(SLACK)
        .saturating_sub(SLACK)
}

/// Whether the app's side may have been sent to the sidecar, or the sidecar's to the app.
#[inline(always)]
fn may_be_noted(operation: Operation) -> bool {
    direction_of(operation.remote_port()).is_some() || operation.local_address().is_loopback()
}

/// Whether a connection that the sidecar makes to its app has nothing to hand over.
#[inline(always)]
fn is_left_alone(operation: Operation, dialled: &OriginalDestination) -> bool {
    let goes_to_listener = direction_of(operation.remote_port()).is_some();
    !goes_to_listener && !dialled.is_to_app()
}

#[inline(always)]
fn remove(key: &HandshakeKey, noted: &OriginalDestination) {
    if HANDSHAKES.remove(key).is_ok() {
        count(noted.slot(), u64::MAX);
    }
}

/// Adds to the number of a pod's handshakes; `u64::MAX` takes one away.
#[inline(always)]
pub fn count(slot: u32, change: u64) {
    if let Some(number) = HANDSHAKES_OF_POD.get_ptr_mut(slot) {
        kernel::atomic_add(number, change);
    }
}

#[inline(always)]
fn take(key: &HandshakeKey) -> Option<OriginalDestination> {
    let noted = HANDSHAKES.get_ptr(key)?;
    // SAFETY: an element stays readable until the program ends. Its memory is given to no
    // other key before it is removed, which only this connection does.
    let noted = unsafe { noted.read() };
    remove(key, &noted);
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
