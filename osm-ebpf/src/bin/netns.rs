//! The program attached to a pod's network namespace. Loaded once per pod, because a
//! program of this kind can't ask in which namespace it runs.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros hand contexts over by value"
)]

use core::ptr;

use aya_ebpf::{macros::sk_lookup, programs::SkLookupContext};
use osm_ebpf::{
    inbound::{self, Outcome},
    kernel::Lookup,
};

/// The pod's netns cookie, set by the agent before it loads the program.
#[unsafe(no_mangle)]
static NETNS_COOKIE: u64 = 0;

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

#[sk_lookup]
fn inbound_lookup(ctx: SkLookupContext) -> u32 {
    // SAFETY: a static is always there. Volatile, as the loader changes it.
    let netns_cookie = unsafe { ptr::read_volatile(&raw const NETNS_COOKIE) };
    match inbound::lookup(Lookup::new(&ctx), netns_cookie) {
        Outcome::Proceed => SK_PASS,
        Outcome::Refuse => SK_DROP,
    }
}
