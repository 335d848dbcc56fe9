//! The context of getsockopt programs.

use core::{arch::asm, ffi::c_void, mem::offset_of, ptr::NonNull};

use aya_ebpf::{bindings::bpf_sockopt, helpers::bpf_get_netns_cookie, programs::SockoptContext};

use super::{
    access::{load, load_pointer, store},
    namespace,
    socket::Socket,
};

/// The context of getsockopt programs.
#[derive(Clone, Copy)]
pub struct SocketOption(*mut bpf_sockopt);

impl SocketOption {
    /// Wraps the context.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: &SockoptContext) -> Self {
        Self(ctx.sockopt)
    }

    /// The level and the name of the option.
    #[inline(always)]
    #[must_use]
    pub fn level_and_name(self) -> (i32, i32) {
        (
            load!(self.0, bpf_sockopt.level) as i32,
            load!(self.0, bpf_sockopt.optname) as i32,
        )
    }

    /// The length of the caller's buffer.
    #[inline(always)]
    #[must_use]
    pub fn length(self) -> i32 {
        load!(self.0, bpf_sockopt.optlen) as i32
    }

    /// Tells the kernel to return what it has, not what the program was shown of it.
    #[inline(always)]
    pub fn leave_to_kernel(self) {
        store!(0_u32 => self.0, bpf_sockopt.optlen);
    }

    /// Whether the call succeeded without the program.
    #[inline(always)]
    #[must_use]
    pub fn kernel_has_answered(self) -> bool {
        load!(self.0, bpf_sockopt.retval) == 0
    }

    /// The socket.
    #[inline(always)]
    #[must_use]
    pub fn socket(self) -> Option<Socket> {
        NonNull::new(load_pointer!(self.0, bpf_sockopt.__bindgen_anon_1.sk)).map(Socket)
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

    /// Answers with `N` words; false where the caller's buffer is smaller.
    #[inline(always)]
    #[must_use]
    pub fn answer<const N: usize>(self, words: [u32; N]) -> bool {
        let start: *mut u32 = load_pointer!(self.0, bpf_sockopt.__bindgen_anon_2.optval);
        let end: *mut u32 = load_pointer!(self.0, bpf_sockopt.__bindgen_anon_3.optval_end);
        if start.wrapping_add(N) > end {
            return false;
        }
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: within the buffer, as was just compared.
            let field = unsafe { start.add(i) };
            // SAFETY: as above.
            unsafe { field.write_volatile(word) };
        }
        store!((N * 4) as u32 => self.0, bpf_sockopt.optlen);
        store!(0_u32 => self.0, bpf_sockopt.retval);
        true
    }
}
