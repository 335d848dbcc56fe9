//! The context of sk_lookup programs.

use core::{arch::asm, mem::offset_of, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, bpf_sk_lookup},
    btf_maps::ProgramArray,
    helpers::{bpf_sk_assign, bpf_tail_call},
    programs::SkLookupContext,
};
use osm_ebpf_common::{address::Address, maps::Family};

use super::{
    AF_INET, IPPROTO_TCP,
    access::{load, load_address},
    map_pointer,
    socket::Listener,
};

/// Whether the kernel says by which interface a packet came in (Linux 5.17), set by the agent before it loads the
/// programs.
#[unsafe(no_mangle)]
static TELLS_INTERFACES: u32 = 1;

/// The context of sk_lookup programs.
#[derive(Clone, Copy)]
pub struct Lookup(*mut bpf_sk_lookup);

impl Lookup {
    /// Wraps the context.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: &SkLookupContext) -> Self {
        Self(ctx.lookup)
    }

    /// Whether a TCP listener is looked for.
    #[inline(always)]
    #[must_use]
    pub fn is_tcp(self) -> bool {
        load!(self.0, bpf_sk_lookup.protocol) == IPPROTO_TCP
    }

    /// The packet's family.
    #[inline(always)]
    #[must_use]
    pub fn family(self) -> Family {
        if load!(self.0, bpf_sk_lookup.family) == AF_INET {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// Who connects.
    #[inline(always)]
    #[must_use]
    pub fn remote_address(self) -> Address {
        load_address!(load!(self.0, bpf_sk_lookup.family) == AF_INET, self.0, bpf_sk_lookup.{remote_ip4, remote_ip6})
    }

    /// The address that was dialled.
    #[inline(always)]
    #[must_use]
    pub fn local_address(self) -> Address {
        load_address!(load!(self.0, bpf_sk_lookup.family) == AF_INET, self.0, bpf_sk_lookup.{local_ip4, local_ip6})
    }

    /// The port that was dialled, host byte order.
    #[inline(always)]
    #[must_use]
    pub fn local_port(self) -> u16 {
        load!(self.0, bpf_sk_lookup.local_port) as u16
    }

    /// The client's port, host byte order.
    #[inline(always)]
    #[must_use]
    pub fn remote_port(self) -> u16 {
        u16::from_be(load!(self.0, bpf_sk_lookup.remote_port) as u16)
    }

    /// The number of the interface that the packet came in by; none where the kernel does not say.
    #[inline(always)]
    #[must_use]
    pub fn interface(self) -> Option<u32> {
        // SAFETY: a static is always there. Volatile, as the loader changes it. The verifier knows the number, and
        // never looks at the branch that is not taken.
        if unsafe { ptr::read_volatile(&raw const TELLS_INTERFACES) } == 0 {
            return None;
        }
        Some(load!(self.0, bpf_sk_lookup.ingress_ifindex))
    }

    /// What tells this packet from those of other connections: its addresses and ports, of IPv6
    /// the ports only.
    #[inline(always)]
    #[must_use]
    pub fn digest(self) -> u64 {
        let client = u64::from(load!(self.0, bpf_sk_lookup.remote_ip4));
        let ports = u64::from(load!(self.0, bpf_sk_lookup.local_port) << 16)
            ^ u64::from(load!(self.0, bpf_sk_lookup.remote_port));
        (client << 32) ^ ports
    }

    /// Goes on in the program of an array that is for the packet's family, and comes back only
    /// where there is none.
    ///
    /// By an index that the verifier can't know: where it does, the kernel writes a jump into the
    /// program as it is loaded, and interrupts all CPUs for that, which takes longer than all the
    /// rest of it.
    #[inline(always)]
    pub fn go_on_in(self, programs: &'static ProgramArray<2>) {
        /// `AF_INET` is 2, `AF_INET6` is 10.
        const TELLS_FAMILIES_APART: u32 = 3;
        let index = load!(self.0, bpf_sk_lookup.family) >> TELLS_FAMILIES_APART;
        // SAFETY: the context is the one the program was called with. Nothing is dropped on the
        // way, as there is nothing to drop.
        unsafe { bpf_tail_call(self.0.cast(), map_pointer(programs), index) };
    }

    /// Gives the connection to a listener; false where the kernel says it does not fit, as
    /// an IPv6-only listener does not fit an IPv4 connection.
    ///
    /// Where `exactly` is 0, the kernel then chooses among those that share the listener's port (`SO_REUSEPORT`).
    /// Where it is 1, it does not.
    #[inline(always)]
    #[must_use]
    pub fn assign(self, listener: &Listener, exactly: u64) -> bool {
        let flags = exactly * u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT);
        // SAFETY: the context is the one the program was called with, the reference is held.
        unsafe { bpf_sk_assign(self.0.cast(), listener.0.0.as_ptr().cast(), flags) == 0 }
    }
}
