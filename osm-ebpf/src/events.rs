//! What became of connections: counted always, and told where somebody listens.

use core::ptr;

use osm_ebpf_common::{
    maps::{Caller, Ends, Event, MonitorWord},
    reason::{self, Reason},
};

use crate::{
    kernel,
    maps::{COUNTERS, EVENTS, MONITOR},
    pod::Pod,
};

/// Counts what became of a pod's connection, and tells who listens. `ends` and `caller` are asked then only.
#[inline(always)]
pub fn report(
    pod: &Pod,
    reason: Reason,
    ends: impl FnOnce() -> Ends,
    caller: impl FnOnce() -> Caller,
) {
    report_in(
        pod.entry.netns_cookie(),
        pod.entry.slot(),
        reason,
        ends,
        caller,
    );
}

/// The same for the pod that has a slot; nothing where none can have it.
#[inline(always)]
pub fn report_in(
    netns_cookie: u64,
    slot: u32,
    reason: Reason,
    ends: impl FnOnce() -> Ends,
    caller: impl FnOnce() -> Caller,
) {
    if !count(slot, reason) {
        return;
    }
    let Some(time) = time_if_heard() else {
        return;
    };
    let Some(mut room) = EVENTS.reserve(0) else {
        if let Some(lost) = MONITOR.get_ptr_mut(MonitorWord::Lost.index()) {
            kernel::atomic_add(lost, 1);
        }
        return;
    };
    room.write(Event::new(
        time,
        netns_cookie,
        slot,
        reason,
        ends(),
        caller(),
    ));
    room.submit(0);
}

/// Nobody called, or it can't be told who.
#[inline(always)]
#[must_use]
pub const fn nobody() -> Caller {
    Caller::NONE
}

/// False where no pod can have that slot.
#[inline(always)]
fn count(slot: u32, reason: Reason) -> bool {
    let Some(counters) = COUNTERS.get_ptr_mut(slot) else {
        return false;
    };
    let counter = ptr::from_mut(
        // SAFETY: this CPU's element, which stays; programs on one CPU do not run
        // at the same time, and a lost increment would do no harm.
        &mut unsafe { &mut *counters }.0[reason as usize % reason::COUNTERS],
    );
    // SAFETY: as above.
    unsafe { *counter += 1 };
    true
}

/// What time it is, if somebody listens now. The clock is read only where somebody did not long ago.
#[inline(always)]
fn time_if_heard() -> Option<u64> {
    let until = MONITOR.get_ptr(MonitorWord::Until.index())?;
    // SAFETY: an element of an array stays; the monitor replaces the word in one store.
    let until = unsafe { until.read_volatile() };
    if until == 0 {
        return None;
    }
    let now = kernel::now();
    (now < until).then_some(now)
}
