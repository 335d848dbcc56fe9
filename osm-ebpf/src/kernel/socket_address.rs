//! The context of programs on connect(), bind(), getpeername() and getsockname().

use core::{arch::asm, ffi::c_void, mem::offset_of, ptr::NonNull};

use aya_ebpf::{
    bindings::{
        bpf_sock_addr, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2, sockaddr,
    },
    helpers::{bpf_bind, bpf_get_netns_cookie, bpf_sk_lookup_tcp},
    programs::SockAddrContext,
};
use osm_ebpf_common::{address::Address, maps::Family};

use super::{
    AF_INET, IPPROTO_MPTCP, IPPROTO_TCP,
    access::{load, load_address, load_pointer, store},
    namespace,
    socket::{Listener, Socket},
};

const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;

/// The context of connect, bind, getpeername and getsockname programs.
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

    /// Whether the socket speaks MPTCP.
    #[inline(always)]
    #[must_use]
    pub fn is_mptcp(self) -> bool {
        load!(self.0, bpf_sock_addr.protocol) == IPPROTO_MPTCP
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

    /// The socket.
    #[inline(always)]
    #[must_use]
    pub fn socket(self) -> Option<Socket> {
        NonNull::new(load_pointer!(self.0, bpf_sock_addr.__bindgen_anon_1.sk)).map(Socket)
    }

    /// Who listens on an address and port (host byte order) of the socket's network namespace.
    #[inline(always)]
    #[must_use]
    pub fn find_listener(self, address: Address, port: u16) -> Option<Listener> {
        const CURRENT_NETNS: u64 = u64::MAX;
        let [a, b, c, d] = address.words();
        let (mut tuple, size) = if address.is_v4() {
            let v4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: Address::LOCALHOST_V4.last_word(),
                daddr: d,
                sport: 0,
                dport: port.to_be(),
            };
            (bpf_sock_tuple__bindgen_ty_1 { ipv4: v4 }, size_of_val(&v4))
        } else {
            let v6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: Address::LOCALHOST_V6.words(),
                daddr: [a, b, c, d],
                sport: 0,
                dport: port.to_be(),
            };
            (bpf_sock_tuple__bindgen_ty_1 { ipv6: v6 }, size_of_val(&v6))
        };
        // SAFETY: the context is the one the program was called with, the tuple is as long as is said.
        let found = unsafe {
            bpf_sk_lookup_tcp(
                self.0.cast(),
                (&raw mut tuple).cast(),
                size as u32,
                CURRENT_NETNS,
                0,
            )
        };
        Some(Listener(Socket(NonNull::new(found)?)))
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

/// The first word of a socket name: the family, then port 0.
#[inline(always)]
const fn family_word(family: u32) -> u32 {
    let [a, b] = (family as u16).to_ne_bytes();
    u32::from_ne_bytes([a, b, 0, 0])
}
