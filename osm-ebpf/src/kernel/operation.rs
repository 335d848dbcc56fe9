//! The context of sockops programs.

use core::{
    arch::asm,
    ffi::c_void,
    mem::offset_of,
    ptr::{self, NonNull},
};

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::{
        bpf_get_netns_cookie, bpf_map_delete_elem, bpf_sock_hash_update, bpf_sock_ops_cb_flags_set,
    },
    programs::SockOpsContext,
};
use osm_ebpf_common::{
    address::Address,
    maps::{Family, ListenerKey, ShortcutKey},
};

use super::{
    AF_INET,
    access::{load, load_address, load_pointer},
    map_pointer, namespace,
    socket::Socket,
};
use crate::maps::{LISTENERS, SHORTCUTS};

/// The context of sockops programs.
#[derive(Clone, Copy)]
pub struct Operation(*mut bpf_sock_ops);

impl Operation {
    /// Wraps the context.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: &SockOpsContext) -> Self {
        Self(ctx.ops)
    }

    /// Which operation.
    #[inline(always)]
    #[must_use]
    pub fn code(self) -> u32 {
        load!(self.0, bpf_sock_ops.op)
    }

    /// The second argument: of a state change, the new state.
    #[inline(always)]
    #[must_use]
    pub fn second_argument(self) -> u32 {
        load!(self.0, bpf_sock_ops.__bindgen_anon_1, 1)
    }

    /// The socket; none while it is only a request.
    #[inline(always)]
    #[must_use]
    pub fn socket(self) -> Option<Socket> {
        NonNull::new(load_pointer!(self.0, bpf_sock_ops.__bindgen_anon_2.sk)).map(Socket)
    }

    /// The cookie of the socket's network namespace.
    #[inline(always)]
    #[must_use]
    pub fn netns_cookie(self) -> u64 {
        // SAFETY: the context is the one the program was called with.
        namespace::cookie(self.socket(), || unsafe {
            bpf_get_netns_cookie(self.0.cast())
        })
    }

    /// The socket's family.
    #[inline(always)]
    #[must_use]
    pub fn family(self) -> Family {
        if load!(self.0, bpf_sock_ops.family) == AF_INET {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// The socket's own address.
    #[inline(always)]
    #[must_use]
    pub fn local_address(self) -> Address {
        load_address!(load!(self.0, bpf_sock_ops.family) == AF_INET, self.0, bpf_sock_ops.{local_ip4, local_ip6})
    }

    /// The other end's address.
    #[inline(always)]
    #[must_use]
    pub fn remote_address(self) -> Address {
        load_address!(load!(self.0, bpf_sock_ops.family) == AF_INET, self.0, bpf_sock_ops.{remote_ip4, remote_ip6})
    }

    /// The socket's own port, host byte order.
    #[inline(always)]
    #[must_use]
    pub fn local_port(self) -> u16 {
        load!(self.0, bpf_sock_ops.local_port) as u16
    }

    /// The other end's port, host byte order.
    #[inline(always)]
    #[must_use]
    pub fn remote_port(self) -> u16 {
        u32::from_be(load!(self.0, bpf_sock_ops.remote_port)) as u16
    }

    /// The sequence number of the next byte that the socket sends.
    #[inline(always)]
    #[must_use]
    pub fn next_sequence_number(self) -> u32 {
        load!(self.0, bpf_sock_ops.snd_nxt)
    }

    /// How many segments with data the socket has sent.
    #[inline(always)]
    #[must_use]
    pub fn data_segments_sent(self) -> u32 {
        load!(self.0, bpf_sock_ops.data_segs_out)
    }

    /// Keeps the socket in [`SHORTCUTS`]; false where the key is taken or the kernel does not want it
    /// there, as with a socket that has an upper protocol.
    #[inline(always)]
    #[must_use]
    pub fn keep_for_shortcut(self, mut key: ShortcutKey) -> bool {
        const BPF_NOEXIST: u64 = 1;
        // SAFETY: the context is the one the program was called with, the map a sock hash with keys of
        // this type.
        let error = unsafe {
            bpf_sock_hash_update(
                self.0,
                map_pointer(&SHORTCUTS),
                (&raw mut key).cast(),
                BPF_NOEXIST,
            )
        };
        error == 0
    }

    /// Which events the socket reports to programs.
    #[inline(always)]
    #[must_use]
    pub fn reported_events(self) -> u32 {
        load!(self.0, bpf_sock_ops.bpf_sock_ops_cb_flags)
    }

    /// Chooses which events the socket reports to programs, for all programs at once.
    #[inline(always)]
    pub fn report_events(self, events: u32) {
        // SAFETY: the context is the one the program was called with.
        unsafe { bpf_sock_ops_cb_flags_set(self.0, events as i32) };
    }

    /// Keeps the socket in [`LISTENERS`]; false where the key is taken, unless the one that
    /// has it is to be replaced.
    #[inline(always)]
    #[must_use]
    pub fn keep_listener(self, mut key: ListenerKey, replace: bool) -> bool {
        const BPF_ANY: u64 = 0;
        const BPF_NOEXIST: u64 = 1;
        // SAFETY: the context is the one the program was called with, the map a sock hash
        // with keys of this type.
        let error = unsafe {
            bpf_sock_hash_update(
                self.0,
                map_pointer(&LISTENERS),
                (&raw mut key).cast(),
                if replace { BPF_ANY } else { BPF_NOEXIST },
            )
        };
        error == 0
    }
}

/// Has the socket that is kept under a key go on as if it never had been. What was handed over to it and
/// not read yet is lost.
#[inline(always)]
pub fn drop_from_shortcut(key: &ShortcutKey) {
    // SAFETY: the map is a sock hash with keys of this type.
    unsafe { bpf_map_delete_elem(map_pointer(&SHORTCUTS), ptr::from_ref(key).cast()) };
}
