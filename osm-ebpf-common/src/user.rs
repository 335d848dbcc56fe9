//! Conversions to the types of `std::net`, for userspace.

extern crate std;

use core::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::{
    address::Address,
    maps::{
        AppCalls, Counters, Event, HandshakeKey, InterceptedPair, InterfaceKey, ListenerKey,
        LocalKey, Meta, OriginalDestination, PodEntry, PodRecord, PolicyRecord, PolicyWord,
        PortPage, PortPageKey, RangeEntry, RangeKey, RouteEntry, RouteKey, ShortcutKey,
        ShortcutPair, ShortcutSocket, SocketLayout, State,
    },
};

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4_octets(v4.octets()),
            IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Self::V6(Ipv6Addr::from(address.octets())).to_canonical()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<OriginalDestination> for SocketAddr {
    fn from(destination: OriginalDestination) -> Self {
        Self::new(destination.address().into(), destination.port())
    }
}

impl Event {
    /// An event as it lies in the ring buffer; none where that is of another size.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        read_value(bytes)
    }
}

/// A value as it lies in a map; none where that is of another size.
#[must_use]
pub fn read_value<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: these are as many bytes as it has, and every bit pattern is a value: see below.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

macro_rules! pod {
    ($($name:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` or transparent, made of integers only, without implicit
            // padding (the sizes are asserted beside the types): every bit pattern is a value.
            unsafe impl aya::Pod for $name {}
        )+
    };
}

pod!(
    AppCalls,
    Counters,
    Event,
    HandshakeKey,
    InterceptedPair,
    InterfaceKey,
    ListenerKey,
    LocalKey,
    Meta,
    OriginalDestination,
    PodEntry,
    PodRecord,
    PolicyRecord,
    PolicyWord,
    PortPage,
    PortPageKey,
    RangeEntry,
    RangeKey,
    RouteEntry,
    RouteKey,
    ShortcutKey,
    ShortcutPair,
    ShortcutSocket,
    SocketLayout,
    State,
);
