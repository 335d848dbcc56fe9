//! Raw access to kernel contexts, sockets and helpers: the only file that needs to know how
//! the verifier wants things done.
//!
//! Context and socket fields are read and written by one instruction each, spelled out. Left
//! to itself, the compiler merges neighbours into one 64-bit access ("invalid bpf_context
//! access"), or the ends of two branches into one access through a computed address
//! ("dereference of modified ctx ptr", "pointer arithmetic on sock prohibited").

use core::{
    arch::asm,
    ffi::c_void,
    mem::offset_of,
    ptr::{self, NonNull},
};

use aya_ebpf::{
    bindings::{
        BPF_SK_STORAGE_GET_F_CREATE, bpf_sk_lookup, bpf_sock, bpf_sock_addr, bpf_sock_ops,
        bpf_sockopt, sockaddr,
    },
    helpers::{
        bpf_bind, bpf_get_current_uid_gid, bpf_get_netns_cookie, bpf_get_prandom_u32,
        bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release, bpf_sk_storage_delete,
        bpf_sk_storage_get, bpf_sock_hash_update, bpf_sock_ops_cb_flags_set,
    },
    programs::{SkLookupContext, SockAddrContext, SockOpsContext, SockoptContext},
};
use osm_ebpf_common::{
    address::Address,
    maps::{Family, ListenerKey, OriginalDestination},
};

use crate::maps::{LISTENERS, REMEMBERED};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;

/// Reads the `$index`th 32-bit word of a field of a context or a socket.
macro_rules! load {
    ($pointer:expr, $type:ident.$field:ident) => {
        load!($pointer, $type.$field, 0)
    };
    ($pointer:expr, $type:ident.$field:ident, $index:literal) => {{
        let value: u64;
        // SAFETY: the kernel passed the pointer, and the verifier proves that programs of
        // this kind may read this field. Nothing but the output is changed.
        unsafe {
            asm!(
                "{value} = *(u32 *)({pointer} + {offset})",
                value = out(reg) value,
                pointer = in(reg) $pointer,
                offset = const offset_of!($type, $field) + 4 * $index,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value as u32
    }};
}

/// Reads a field that holds a pointer.
macro_rules! load_pointer {
    ($pointer:expr, $type:ident.$($field:ident).+) => {{
        let value: *mut c_void;
        // SAFETY: as for `load`.
        unsafe {
            asm!(
                "{value} = *(u64 *)({pointer} + {offset})",
                value = out(reg) value,
                pointer = in(reg) $pointer,
                offset = const offset_of!($type, $($field).+),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value.cast()
    }};
}

/// Writes the `$index`th 32-bit word of a field of a context.
macro_rules! store {
    ($value:expr => $pointer:expr, $type:ident.$field:ident) => {
        store!($value => $pointer, $type.$field, 0)
    };
    ($value:expr => $pointer:expr, $type:ident.$field:ident, $index:literal) => {{
        let value: u64 = u64::from($value);
        // SAFETY: as for `load`, for writing.
        unsafe {
            asm!(
                "*(u32 *)({pointer} + {offset}) = {value}",
                value = in(reg) value,
                pointer = in(reg) $pointer,
                offset = const offset_of!($type, $field) + 4 * $index,
                options(nostack, preserves_flags),
            );
        }
    }};
}

/// Reads an address from a pair of fields: the IPv4 word and the IPv6 words.
macro_rules! load_address {
    ($is_v4:expr, $pointer:expr, $type:ident.{$v4:ident, $v6:ident}) => {
        if $is_v4 {
            Address::from_v4_word(load!($pointer, $type.$v4))
        } else {
            Address::from_words([
                load!($pointer, $type.$v6, 0),
                load!($pointer, $type.$v6, 1),
                load!($pointer, $type.$v6, 2),
                load!($pointer, $type.$v6, 3),
            ])
        }
    };
}

/// A socket that the kernel handed to a program.
#[derive(Clone, Copy)]
pub struct Socket(NonNull<bpf_sock>);

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

    /// Remembers on it; `Err` when there is no memory.
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

    /// Forgets what was remembered.
    #[inline(always)]
    pub fn forget(self) {
        // SAFETY: as in `remembered`. It fails only where there is nothing to forget.
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
            let word = unsafe { from.add(i).read() };
            // SAFETY: within the storage, which is as large.
            unsafe { to.add(i).write_volatile(word) };
        }
    }
}

/// The kernel had no memory for it.
pub struct OutOfMemory;

/// A socket from [`LISTENERS`], which must be given back.
pub struct Listener(Socket);

impl Listener {
    /// The socket kept under a key.
    #[inline(always)]
    #[must_use]
    pub fn find(key: &ListenerKey) -> Option<Self> {
        // SAFETY: the map is a sock hash with keys of this type.
        let found =
            unsafe { bpf_map_lookup_elem(map_pointer(&LISTENERS), ptr::from_ref(key).cast()) };
        Some(Self(Socket(NonNull::new(found.cast())?)))
    }

    /// Its own address.
    #[inline(always)]
    #[must_use]
    pub fn address(&self) -> Address {
        self.0.local().0
    }

    /// Gives it back. Not a `Drop`: the verifier wants to see it on every path, and so
    /// should the reader.
    #[inline(always)]
    pub fn release(self) {
        // SAFETY: the reference is ours and is not used again.
        unsafe { bpf_sk_release(self.0.0.as_ptr().cast()) };
    }
}

/// The context of connect, getpeername and getsockname programs.
#[derive(Clone, Copy)]
pub struct SocketAddress(*mut bpf_sock_addr);

impl SocketAddress {
    /// Wraps the context.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr)
    }

    /// Whether the socket speaks TCP, of which MPTCP is a kind.
    #[inline(always)]
    #[must_use]
    pub fn is_tcp(self) -> bool {
        let protocol = load!(self.0, bpf_sock_addr.protocol);
        load!(self.0, bpf_sock_addr.type_) == SOCK_STREAM
            && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
    }

    /// The cookie of the socket's network namespace.
    #[inline(always)]
    #[must_use]
    pub fn netns_cookie(self) -> u64 {
        // SAFETY: the context is the one the program was called with.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }

    /// The socket.
    #[inline(always)]
    #[must_use]
    pub fn socket(self) -> Option<Socket> {
        NonNull::new(load_pointer!(self.0, bpf_sock_addr.__bindgen_anon_1.sk)).map(Socket)
    }

    /// The address in the context.
    #[inline(always)]
    #[must_use]
    pub fn address(self, family: Family) -> Address {
        load_address!(matches!(family, Family::V4), self.0, bpf_sock_addr.{user_ip4, user_ip6})
    }

    /// The port in the context, host byte order.
    #[inline(always)]
    #[must_use]
    pub fn port(self) -> u16 {
        u16::from_be(load!(self.0, bpf_sock_addr.user_port) as u16)
    }

    /// Replaces the address.
    #[inline(always)]
    pub fn set_address(self, family: Family, address: Address) {
        match family {
            Family::V4 => store!(address.last_word() => self.0, bpf_sock_addr.user_ip4),
            Family::V6 => {
                let words = address.words();
                store!(words[0] => self.0, bpf_sock_addr.user_ip6, 0);
                store!(words[1] => self.0, bpf_sock_addr.user_ip6, 1);
                store!(words[2] => self.0, bpf_sock_addr.user_ip6, 2);
                store!(words[3] => self.0, bpf_sock_addr.user_ip6, 3);
            }
        }
    }

    /// Replaces the port, given in host byte order.
    #[inline(always)]
    pub fn set_port(self, port: u16) {
        store!(u32::from(port.to_be()) => self.0, bpf_sock_addr.user_port);
    }

    /// Makes the connection come from `address`, with a port that the kernel chooses later.
    /// The kernel may refuse, for instance where the socket has a port already.
    #[inline(always)]
    pub fn bind(self, family: Family, address: Address) {
        match family {
            Family::V4 => {
                // struct sockaddr_in: family, port, address, padding.
                let mut name = [family_word(AF_INET), address.last_word(), 0, 0];
                self.bind_name(name.as_mut_ptr().cast(), 16);
            }
            Family::V6 => {
                // struct sockaddr_in6: family and port, flow information, address, scope.
                let [a, b, c, d] = address.words();
                let mut name = [family_word(AF_INET6), 0, a, b, c, d, 0];
                self.bind_name(name.as_mut_ptr().cast(), 28);
            }
        }
    }

    #[inline(always)]
    fn bind_name(self, name: *mut sockaddr, length: i32) {
        // SAFETY: the name is `length` bytes on the stack, laid out as its family wants it.
        unsafe { bpf_bind(self.0, name, length) };
    }
}

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
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
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

    /// Keeps the socket in [`LISTENERS`]; false where the key is taken.
    #[inline(always)]
    #[must_use]
    pub fn keep_listener(self, mut key: ListenerKey) -> bool {
        const BPF_NOEXIST: u64 = 1;
        // SAFETY: the context is the one the program was called with, the map a sock hash
        // with keys of this type.
        let error = unsafe {
            bpf_sock_hash_update(
                self.0,
                map_pointer(&LISTENERS),
                (&raw mut key).cast(),
                BPF_NOEXIST,
            )
        };
        error == 0
    }
}

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
        (load!(self.0, bpf_sockopt.level) as i32, load!(self.0, bpf_sockopt.optname) as i32)
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
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }

    /// Answers with `N` words; false where the caller's buffer is smaller.
    #[inline(always)]
    pub fn answer<const N: usize>(self, words: [u32; N]) -> bool {
        let start: *mut u32 = load_pointer!(self.0, bpf_sockopt.__bindgen_anon_2.optval);
        let end: *mut u32 = load_pointer!(self.0, bpf_sockopt.__bindgen_anon_3.optval_end);
        if start.wrapping_add(N) > end {
            return false;
        }
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: within the buffer, as was just compared.
            unsafe { start.add(i).write_volatile(word) };
        }
        store!((N * 4) as u32 => self.0, bpf_sockopt.optlen);
        store!(0_u32 => self.0, bpf_sockopt.retval);
        true
    }
}

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

    /// Gives the connection to a listener; false where the kernel says it does not fit, as
    /// an IPv6-only listener does not fit an IPv4 connection.
    #[inline(always)]
    #[must_use]
    pub fn assign(self, listener: &Listener) -> bool {
        // SAFETY: the context is the one the program was called with, the reference is held.
        unsafe { bpf_sk_assign(self.0.cast(), listener.0.0.as_ptr().cast(), 0) == 0 }
    }
}

/// The first word of a socket name: the family, then port 0.
#[inline(always)]
const fn family_word(family: u32) -> u32 {
    let [a, b] = (family as u16).to_ne_bytes();
    u32::from_ne_bytes([a, b, 0, 0])
}

/// The user that runs the program, as the initial user namespace numbers it.
#[inline(always)]
#[must_use]
pub fn current_uid() -> u32 {
    bpf_get_current_uid_gid() as u32
}

/// A random number.
#[inline(always)]
#[must_use]
pub fn random() -> u32 {
    // SAFETY: no arguments, no failure.
    unsafe { bpf_get_prandom_u32() }
}

/// What helpers take for a map: the address of its definition, which the loader replaces.
#[inline(always)]
fn map_pointer<M>(map: &'static M) -> *mut c_void {
    ptr::from_ref(map).cast_mut().cast()
}
