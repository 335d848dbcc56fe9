//! Destinations that are known by the loopback address that stands for them.
//!
//! Connections to one of these need neither memory of their own nor a hand-over: both ends find
//! what was dialled under the address that the connection was sent to. A pod has a share of
//! such destinations; those beyond it, those whose address is taken by another one, and IPv6
//! ones, which have no address of their own, are handed over one by one: [`crate::handshake`].

use osm_ebpf_common::{
    OUTBOUND_PORT,
    address::Address,
    maps::{HandshakeKey, MAX_DESTINATIONS_PER_POD, OriginalDestination},
};

use crate::{handshake, maps::HANDSHAKES};

const BPF_NOEXIST: u64 = 1;

/// The address that an outbound connection is sent to where its destination is known, or
/// comes to be known by this; none where the connection needs memory of its own.
#[inline(always)]
#[must_use]
pub fn address_of(netns_cookie: u64, dialled: OriginalDestination) -> Option<Address> {
    if !dialled.address().is_v4() {
        return None;
    }
    let address = dialled.address().known_loopback(dialled.port());
    let key = HandshakeKey::of_destination(netns_cookie, address, OUTBOUND_PORT);
    if let Some(known) = HANDSHAKES.get_ptr(key) {
        // SAFETY: an element stays readable until the program ends.
        let known = unsafe { known.read() };
        return known.is_same_place(&dialled).then_some(address);
    }
    if handshake::number_of(dialled.slot()) >= MAX_DESTINATIONS_PER_POD
        || HANDSHAKES.insert(key, dialled, BPF_NOEXIST).is_err()
    {
        return None;
    }
    handshake::count(dialled.slot(), 1);
    Some(address)
}

/// The destination of an outbound connection, by the address and the port that it was sent to;
/// none where these say nothing.
#[inline(always)]
#[must_use]
pub fn find(netns_cookie: u64, address: Address, port: u16) -> Option<OriginalDestination> {
    if !address.is_known() || port != OUTBOUND_PORT {
        return None;
    }
    let key = HandshakeKey::of_destination(netns_cookie, address, OUTBOUND_PORT);
    let known = HANDSHAKES.get_ptr(key)?;
    // SAFETY: as in `address_of`.
    let known = unsafe { known.read() };
    // While it is read, the kernel may give the memory of a removed pod's to another one.
    (known.address().known_loopback(known.port()) == address).then_some(known)
}
