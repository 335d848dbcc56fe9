//! Sockets, what is remembered on them, and the sidecar's listeners.

use core::{
    arch::asm,
    mem::offset_of,
    ptr::{self, NonNull},
};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{bpf_map_lookup_elem, bpf_sk_release, bpf_sk_storage_delete, bpf_sk_storage_get},
};
use osm_ebpf_common::{
    address::Address,
    maps::{ListenerKey, OriginalDestination},
};

use super::{
    AF_INET, IPPROTO_MPTCP, IPPROTO_TCP,
    access::{load, load_address},
    map_pointer,
};
use crate::maps::{BOUND_BY_SIDECAR, LISTENERS, REMEMBERED};

/// A socket that the kernel handed to a program.
#[derive(Clone, Copy)]
pub struct Socket(pub(super) NonNull<bpf_sock>);

impl Socket {
    /// Whether an address or a port was bound to it.
    #[inline(always)]
    #[must_use]
    pub fn bound(self) -> (Address, u16) {
        let address = Address::from_v4_word(load!(self.0.as_ptr(), bpf_sock.src_ip4));
        (address, load!(self.0.as_ptr(), bpf_sock.src_port) as u16)
    }

    /// Its own address and port.
    #[inline(always)]
    #[must_use]
    pub fn local(self) -> (Address, u16) {
        let pointer = self.0.as_ptr();
        let is_v4 = load!(pointer, bpf_sock.family) == AF_INET;
        let address = load_address!(is_v4, pointer, bpf_sock.{src_ip4, src_ip6});
        (address, load!(pointer, bpf_sock.src_port) as u16)
    }

    /// The other end's address and port.
    #[inline(always)]
    #[must_use]
    pub fn peer(self) -> (Address, u16) {
        let pointer = self.0.as_ptr();
        let is_v4 = load!(pointer, bpf_sock.family) == AF_INET;
        let address = load_address!(is_v4, pointer, bpf_sock.{dst_ip4, dst_ip6});
        // A 16-bit field that may be read as if it had 32.
        let port = u16::from_be(load!(pointer, bpf_sock.dst_port) as u16);
        (address, port)
    }

    /// Whether it speaks TCP, of which MPTCP is a kind.
    #[inline(always)]
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        let protocol = load!(self.0.as_ptr(), bpf_sock.protocol);
        protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
    }

    /// Whether it is one end of a connection.
    #[inline(always)]
    #[must_use]
    pub fn is_connected(self) -> bool {
        const TCP_CLOSE: u32 = 7;
        const TCP_LISTEN: u32 = 10;
        let state = load!(self.0.as_ptr(), bpf_sock.state);
        state != TCP_CLOSE && state != TCP_LISTEN
    }

    /// What was remembered on it.
    #[inline(always)]
    #[must_use]
    pub fn remembered(self) -> Option<OriginalDestination> {
        self.memory().map(Memory::get)
    }

    /// Where something is remembered on it.
    #[inline(always)]
    #[must_use]
    pub fn memory(self) -> Option<Memory> {
        // SAFETY: the map is a socket storage, the socket is one the kernel handed out.
        let found = unsafe {
            bpf_sk_storage_get(
                map_pointer(&REMEMBERED),
                self.0.as_ptr().cast(),
                ptr::null_mut(),
                0,
            )
        };
        NonNull::new(found.cast()).map(Memory)
    }

    /// Remembers on it.
    ///
    /// # Errors
    /// Where the kernel has no memory for it.
    #[inline(always)]
    pub fn remember(self, mut destination: OriginalDestination) -> Result<(), OutOfMemory> {
        // SAFETY: as in `remembered`; the value is on the stack and of the map's type.
        let stored = unsafe {
            bpf_sk_storage_get(
                map_pointer(&REMEMBERED),
                self.0.as_ptr().cast(),
                (&raw mut destination).cast(),
                BPF_SK_STORAGE_GET_F_CREATE.into(),
            )
        };
        let memory = NonNull::new(stored.cast()).map(Memory).ok_or(OutOfMemory)?;
        // Where there was a value already, the call left it as it was.
        memory.set(destination);
        Ok(())
    }

    /// Notes in which cgroup the sidecar bound it to one of its listeners' ports.
    #[inline(always)]
    pub fn remember_binder(self, cgroup: u64) {
        let mut cgroup = cgroup;
        // SAFETY: as in `remember`, of another map.
        unsafe {
            bpf_sk_storage_get(
                map_pointer(&BOUND_BY_SIDECAR),
                self.0.as_ptr().cast(),
                (&raw mut cgroup).cast(),
                BPF_SK_STORAGE_GET_F_CREATE.into(),
            )
        };
    }

    /// What was noted; none where nothing was.
    #[inline(always)]
    #[must_use]
    pub fn binder(self) -> Option<u64> {
        // SAFETY: as in `memory`, of another map.
        let cgroup = unsafe {
            bpf_sk_storage_get(
                map_pointer(&BOUND_BY_SIDECAR),
                self.0.as_ptr().cast(),
                ptr::null_mut(),
                0,
            )
        };
        // SAFETY: an element stays readable until the program ends; it is a u64, and aligned.
        NonNull::new(cgroup.cast::<u64>()).map(|cgroup| unsafe { cgroup.read() })
    }

    /// Forgets what was remembered.
    #[inline(always)]
    pub fn forget(self) {
        // Most often there is nothing, and to ask is cheaper than to delete.
        if self.memory().is_none() {
            return;
        }
        // SAFETY: as in `memory`. It fails only where there is nothing to forget.
        unsafe { bpf_sk_storage_delete(map_pointer(&REMEMBERED), self.0.as_ptr().cast()) };
    }
}

/// The storage of a socket. It stays until the program ends.
#[derive(Clone, Copy)]
pub struct Memory(NonNull<OriginalDestination>);

impl Memory {
    /// Reads it.
    #[inline(always)]
    #[must_use]
    pub fn get(self) -> OriginalDestination {
        // SAFETY: found storage is readable until the program ends.
        unsafe { self.0.as_ptr().read() }
    }

    /// Replaces it.
    #[inline(always)]
    pub fn set(self, destination: OriginalDestination) {
        // Word by word: the compiler makes a copy of the whole a call of memmove, which the
        // verifier refuses ("doesn't return scalar").
        let from = (&raw const destination).cast::<u32>();
        let to = self.0.as_ptr().cast::<u32>();
        for i in 0..size_of::<OriginalDestination>() / 4 {
            // SAFETY: within the value, which is made of words.
            let from = unsafe { from.add(i) };
            // SAFETY: as above.
            let word = unsafe { from.read() };
            // SAFETY: within the storage, which is as large.
            let to = unsafe { to.add(i) };
            // SAFETY: as above.
            unsafe { to.write_volatile(word) };
        }
    }
}

/// The kernel had no memory for it.
pub struct OutOfMemory;

/// A listening socket, which must be given back.
pub struct Listener(pub(super) Socket);

impl Listener {
    /// The socket kept under the words of a [`ListenerKey`].
    #[inline(always)]
    #[must_use]
    pub fn find(key: &[u64; 2]) -> Option<Self> {
        const { assert!(size_of::<ListenerKey>() == size_of::<[u64; 2]>()) };
        // SAFETY: the map is a sock hash with keys of this size.
        let found =
            unsafe { bpf_map_lookup_elem(map_pointer(&LISTENERS), ptr::from_ref(key).cast()) };
        Some(Self(Socket(NonNull::new(found.cast())?)))
    }

    /// The socket, as long as it is not given back.
    #[inline(always)]
    #[must_use]
    pub const fn socket(&self) -> Socket {
        self.0
    }

    /// Gives it back. Not a `Drop`: the verifier wants to see it on every path, and so
    /// should the reader.
    #[inline(always)]
    pub fn release(self) {
        // SAFETY: the reference is ours and is not used again.
        unsafe { bpf_sk_release(self.0.0.as_ptr().cast()) };
    }
}
