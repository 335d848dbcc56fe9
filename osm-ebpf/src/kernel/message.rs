//! The context of sk_msg programs.

use core::{
    arch::asm,
    ffi::c_void,
    mem::offset_of,
    ptr::{self, NonNull},
};

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, BPF_SK_STORAGE_GET_F_CREATE, sk_msg_md},
    helpers::{bpf_msg_redirect_hash, bpf_probe_read_kernel_buf, bpf_sk_storage_get},
    programs::SkMsgContext,
};
use osm_ebpf_common::maps::{ShortcutKey, ShortcutSocket};

use super::{
    access::{load, load_pointer},
    map_pointer,
    socket::{OutOfMemory, Socket},
};
use crate::maps::{SHORTCUT_SOCKETS, SHORTCUTS};

/// The context of sk_msg programs: what a socket is about to send.
#[derive(Clone, Copy)]
pub struct Message(*mut sk_msg_md);

impl Message {
    /// Wraps the context.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: &SkMsgContext) -> Self {
        Self(ctx.msg)
    }

    /// The socket that sends. Linux 5.8.
    #[inline(always)]
    #[must_use]
    pub fn socket(self) -> Option<Socket> {
        NonNull::new(load_pointer!(self.0, sk_msg_md.__bindgen_anon_3.sk)).map(Socket)
    }

    /// How many bytes it is.
    #[inline(always)]
    #[must_use]
    pub fn size(self) -> u32 {
        load!(self.0, sk_msg_md.size)
    }

    /// Hands it to the other end's reader; false where that is not in [`SHORTCUTS`].
    #[inline(always)]
    #[must_use]
    pub fn hand_over(self, other: &mut ShortcutKey) -> bool {
        const SK_PASS: i64 = 1;
        // SAFETY: the context is the one the program was called with, the map a sock hash with keys of
        // this type.
        let verdict = unsafe {
            bpf_msg_redirect_hash(
                self.0,
                map_pointer(&SHORTCUTS),
                ptr::from_mut(other).cast(),
                u64::from(BPF_F_INGRESS),
            )
        };
        verdict == SK_PASS
    }
}

impl Socket {
    /// Where the kernel keeps it: only to be read from, by [`peek`] and [`peek_wide`].
    #[inline(always)]
    #[must_use]
    pub fn place(self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// What its shortcut needs; none where it takes none.
    #[inline(always)]
    #[must_use]
    pub fn shortcut(self) -> Option<NonNull<ShortcutSocket>> {
        // SAFETY: the map is a socket storage, the socket is one the kernel handed out.
        let found = unsafe {
            bpf_sk_storage_get(
                map_pointer(&SHORTCUT_SOCKETS),
                self.0.as_ptr().cast(),
                ptr::null_mut(),
                0,
            )
        };
        NonNull::new(found.cast())
    }

    /// The same, made anew where there is none.
    ///
    /// # Errors
    /// Where the kernel has no memory for it.
    #[inline(always)]
    pub fn make_shortcut(self) -> Result<NonNull<ShortcutSocket>, OutOfMemory> {
        // SAFETY: as in `shortcut`; without a value, it begins with zeros.
        let made = unsafe {
            bpf_sk_storage_get(
                map_pointer(&SHORTCUT_SOCKETS),
                self.0.as_ptr().cast(),
                ptr::null_mut(),
                BPF_SK_STORAGE_GET_F_CREATE.into(),
            )
        };
        NonNull::new(made.cast()).ok_or(OutOfMemory)
    }
}

/// Reads 32 bits of the kernel's memory, near a place that was a socket's once. What it reads there
/// means something only while the socket lives; it never fails the program. Linux 5.5, not where the
/// kernel is locked down.
#[inline(always)]
#[must_use]
pub fn peek(place: u64, offset: u32) -> Option<u32> {
    let mut bytes = [0; 4];
    // SAFETY: the helper checks the address and fails where there is nothing.
    unsafe { bpf_probe_read_kernel_buf((place + u64::from(offset)) as *const u8, &mut bytes) }
        .ok()?;
    Some(u32::from_ne_bytes(bytes))
}

/// The same for 64 bits.
#[inline(always)]
#[must_use]
pub fn peek_wide(place: u64, offset: u32) -> Option<u64> {
    let mut bytes = [0; 8];
    // SAFETY: as in `peek`.
    unsafe { bpf_probe_read_kernel_buf((place + u64::from(offset)) as *const u8, &mut bytes) }
        .ok()?;
    Some(u64::from_ne_bytes(bytes))
}
