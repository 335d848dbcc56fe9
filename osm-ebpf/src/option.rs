//! getsockopt(`SO_ORIGINAL_DST`), which iptables would answer from conntrack.

use osm_ebpf_common::address::Address;

use crate::{
    kernel::{self, SocketOption},
    pod::Pod,
};

const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
/// `SO_ORIGINAL_DST` at `SOL_IP`, `IP6T_SO_ORIGINAL_DST` at `SOL_IPV6`.
const SO_ORIGINAL_DST: i32 = 80;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// The smallest page. What a program sees of a longer buffer is cut off.
const PAGE: i32 = 4096;

/// Answers the one option that is ours; all others come from the kernel unharmed.
#[inline(always)]
pub fn get(ctx: SocketOption) {
    let answered = match ctx.level_and_name() {
        (SOL_IP, SO_ORIGINAL_DST) => answer(ctx, true),
        (SOL_IPV6, SO_ORIGINAL_DST) => answer(ctx, false),
        _ => false,
    };
    // The kernel fails the call with EFAULT if the length is still longer than what it
    // showed to the program.
    if !answered && ctx.length() > PAGE {
        ctx.leave_to_kernel();
    }
}

/// Answers by the address's family, not by the socket's: sidecars ask `SOL_IP` on an IPv6
/// socket that took an IPv4 connection.
#[inline(always)]
fn answer(ctx: SocketOption, v4: bool) -> bool {
    let Some((address, port)) = original_destination(ctx) else {
        return false;
    };
    if address.is_v4() != v4 {
        return false;
    }
    let [a, b, c, d] = address.words();
    if v4 {
        // struct sockaddr_in: family and port, address, padding.
        ctx.answer([family_and_port(AF_INET, port), d, 0, 0])
    } else {
        // struct sockaddr_in6: family and port, flow information, address, scope.
        ctx.answer([family_and_port(AF_INET6, port), 0, a, b, c, d, 0])
    }
}

/// What was remembered. Otherwise the sidecar's connection came from outside or was not
/// redirected, and its own address is what the client dialled.
#[inline(always)]
fn original_destination(ctx: SocketOption) -> Option<(Address, u16)> {
    let socket = ctx.socket()?;
    if let Some(dialled) = socket.remembered() {
        return Some((dialled.address(), dialled.port()));
    }
    let pod = Pod::find(ctx.netns_cookie())?;
    let (address, port) = socket.local();
    let asked_by_sidecar = kernel::current_uid() == pod.entry.sidecar_uid();
    // A redirected connection has lost what it carried: no answer is better than a wrong one.
    (asked_by_sidecar && socket.is_connected() && !address.is_spread()).then_some((address, port))
}

#[inline(always)]
const fn family_and_port(family: u16, port: u16) -> u32 {
    let [a, b] = family.to_ne_bytes();
    let [c, d] = port.to_be_bytes();
    u32::from_ne_bytes([a, b, c, d])
}
