//! Which network namespace a socket is in.

use core::ptr;

use aya_ebpf::helpers::bpf_probe_read_kernel_buf;

use super::{message::peek, socket::Socket};

/// Where a socket names its namespace, as a multiple of eight bytes, set by the agent before it loads the
/// programs; zero where programs of all kinds may ask for the namespace's cookie.
#[unsafe(no_mangle)]
static NAMESPACE_AT: u32 = 0;
/// Where that has its number.
#[unsafe(no_mangle)]
static NAMESPACE_NUMBER_AT: u32 = 0;

/// As many words of a socket as `NAMESPACE_AT` is among.
const WORDS: usize = 8;

/// The cookie, as `ask` has it from the kernel; before Linux 5.15 the number of the namespace's inode in its
/// place, read from the socket, as the agent does it too. Zero is no namespace's.
///
/// The verifier knows what the agent has set, and removes the branch that is not taken.
#[inline(always)]
pub(super) fn cookie(socket: Option<Socket>, ask: impl FnOnce() -> u64) -> u64 {
    // SAFETY: a static is always there. Volatile, as the loader changes it.
    let at = unsafe { ptr::read_volatile(&raw const NAMESPACE_AT) } as usize;
    if at == 0 {
        return ask();
    }
    // SAFETY: as above.
    let number = unsafe { ptr::read_volatile(&raw const NAMESPACE_NUMBER_AT) };
    socket
        .and_then(|socket| read(socket, at, number))
        .unwrap_or(0)
}

#[inline(always)]
fn read(socket: Socket, at: usize, number: u32) -> Option<u64> {
    let mut words = [0_u8; WORDS * 8];
    // From its beginning on: the verifier lets nobody reckon with a socket's address.
    // SAFETY: the helper checks the address and fails where there is nothing.
    unsafe { bpf_probe_read_kernel_buf(socket.0.as_ptr().cast_const().cast(), &mut words) }.ok()?;
    // SAFETY: inside of the buffer.
    let word = unsafe { words.as_ptr().add((at % WORDS) * size_of::<u64>()) };
    // SAFETY: a word of the buffer, which need not be aligned.
    let namespace = unsafe { word.cast::<u64>().read_unaligned() };
    peek(namespace, number).map(u64::from)
}
