//! Raw access to kernel contexts, sockets and helpers: the only module that needs to know how
//! the verifier wants things done.
//!
//! Context and socket fields are read and written by one instruction each, spelled out. Left
//! to itself, the compiler merges neighbours into one 64-bit access ("invalid bpf_context
//! access"), or the ends of two branches into one access through a computed address
//! ("dereference of modified ctx ptr", "pointer arithmetic on sock prohibited").

mod access;
mod lookup;
mod message;
mod namespace;
mod operation;
mod socket;
mod socket_address;
mod socket_option;

use core::{arch::asm, ffi::c_void, ptr};

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
    bpf_get_current_task, bpf_get_current_uid_gid, bpf_get_prandom_u32, bpf_ktime_get_boot_ns,
};
use osm_ebpf_common::maps::Caller;

pub use lookup::Lookup;
pub use message::{Message, peek, peek_wide};
pub use operation::{Operation, drop_from_shortcut};
pub use socket::{Listener, Memory, OutOfMemory, Socket};
pub use socket_address::SocketAddress;
pub use socket_option::SocketOption;

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;

/// The user that runs the program, as the initial user namespace numbers it.
#[inline(always)]
#[must_use]
pub fn current_uid() -> u32 {
    bpf_get_current_uid_gid() as u32
}

/// The same, read from the running task by whoever knows where a task has its credentials and these the
/// user, as the initial user namespace numbers it: for programs of kinds that may not ask (sockops up
/// to Linux 6.12; 6.18 lets them). None where the kernel is locked down.
#[inline(always)]
#[must_use]
pub fn current_uid_at(credentials: u32, user: u32) -> Option<u32> {
    // SAFETY: no arguments, no failure.
    let task = unsafe { bpf_get_current_task() };
    peek(peek_wide(task, credentials)?, user)
}

/// The cgroup (v2) that the process is in which runs the program. For programs of connect() and bind() only,
/// Linux 5.7: others may not ask on 6.12 and before.
#[inline(always)]
#[must_use]
pub fn current_cgroup() -> u64 {
    // SAFETY: no arguments, no failure.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The process that runs the program. For programs of connect() and bind() only: not all that run in a process's
/// context may ask before Linux 6.0.
#[inline(always)]
#[must_use]
pub fn current_caller() -> Caller {
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    let command = bpf_get_current_comm().unwrap_or_default();
    Caller::new(process, current_uid(), command)
}

/// Nanoseconds of `CLOCK_BOOTTIME`. Linux 5.8.
#[inline(always)]
#[must_use]
pub fn now() -> u64 {
    // SAFETY: no arguments, no failure.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// A random number.
#[inline(always)]
#[must_use]
pub fn random() -> u32 {
    // SAFETY: no arguments, no failure.
    unsafe { bpf_get_prandom_u32() }
}

/// Adds to a number in a map that other CPUs add to as well.
///
/// Spelled out: to Rust, this machine has no atomic operations but loads and stores.
#[inline(always)]
pub fn atomic_add(number: *mut u64, change: u64) {
    // SAFETY: the pointer is one that a look-up in a map returned, as the verifier proves.
    unsafe {
        asm!(
            "lock *(u64 *)({number} + 0) += {change}",
            number = in(reg) number,
            change = in(reg) change,
            options(nostack, preserves_flags),
        );
    }
}

/// Puts a number in the place of another one in a map, and returns that, all at once. Linux 5.12.
#[inline(always)]
#[must_use]
pub fn exchange(number: *mut u64, new: u64) -> u64 {
    let mut value = new;
    // SAFETY: as in `atomic_add`.
    unsafe {
        asm!(
            "{value} = xchg_64({number} + 0, {value})",
            number = in(reg) number,
            value = inout(reg) value,
            options(nostack, preserves_flags),
        );
    }
    value
}

/// What helpers take for a map: the address of its definition, which the loader replaces.
#[inline(always)]
fn map_pointer<M>(map: &'static M) -> *mut c_void {
    ptr::from_ref(map).cast_mut().cast()
}
