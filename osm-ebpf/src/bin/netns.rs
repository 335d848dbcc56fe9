//! The programs for pods' network namespaces: a short one, loaded once per pod, because a program
//! of this kind can't ask in which namespace it runs; and the one that it goes on in, loaded once.
//! So the verifier reads a few instructions for each pod, and not ten thousand.
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

/// Attached to one pod's namespace.
#[sk_lookup]
fn inbound_lookup(ctx: SkLookupContext) -> u32 {
    // SAFETY: a static is always there. Volatile, as the loader changes it.
    let netns_cookie = unsafe { ptr::read_volatile(&raw const NETNS_COOKIE) };
    code(inbound::enter(Lookup::new(&ctx), netns_cookie))
}

/// Where those of all pods go on.
#[sk_lookup]
fn inbound_decision(ctx: SkLookupContext) -> u32 {
    code(inbound::lookup(Lookup::new(&ctx)))
}

#[inline(always)]
const fn code(outcome: Outcome) -> u32 {
    match outcome {
        Outcome::Proceed => SK_PASS,
        Outcome::Refuse => SK_DROP,
    }
}
