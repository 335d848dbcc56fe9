//! The BPF programs' shared parts. The entry points are the two binaries: `osm-cgroup`
//! (connect, bind, names, handshake, options) and `osm-netns` (inbound).
//!
//! Everything that touches a kernel context or calls a helper is in [`kernel`]; everything
//! that decides is in `osm_ebpf_common::decision`.
#![no_std]
// Inline assembly for BPF is not stable yet; see `kernel`.
#![feature(asm_experimental_arch)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "contexts hold ports and flags in wider fields; a check would bring a panic with it"
)]

pub mod bind;
pub mod connect;
pub mod destinations;
pub mod events;
pub mod handshake;
pub mod inbound;
pub mod kernel;
pub mod listeners;
pub mod maps;
pub mod names;
pub mod option;
pub mod pod;
pub mod shortcut;

/// A panic that the optimiser could not remove is an endless loop, which the verifier
/// refuses: such a program never loads.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
