//! What is known of sockets: where they wanted to go, and which of them listen.

use crate::{address::Address, decision::Direction};

/// What the app dialled, remembered on both sockets of a redirected connection and, while
/// the handshake lasts, under its [`HandshakeKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OriginalDestination {
    address: Address,
    port: u16,
    end: u8,
    flags: u8,
    slot: u32,
}

/// Which end of a redirected connection a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// The socket that dialled.
    App = 1,
    /// The socket that the sidecar accepted.
    Sidecar = 2,
}

impl OriginalDestination {
    const NOTED: u8 = 1;
    const REPORTS_FOR_US: u8 = 1 << 1;
    const SHORTCUT: u8 = 1 << 2;
    const TO_APP: u8 = 1 << 3;

    /// For the socket that dialled, in the pod with that slot.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, port: u16, slot: u32) -> Self {
        Self {
            address,
            port,
            end: End::App as u8,
            flags: 0,
            slot,
        }
    }

    /// The same, for the other end.
    #[inline(always)]
    #[must_use]
    pub const fn at_sidecar(mut self) -> Self {
        self.end = End::Sidecar as u8;
        self.flags &= Self::SHORTCUT;
        self
    }

    /// The same; a note of it is among the handshakes. `for_us`: the socket reports its
    /// state changes because we asked it to, and nobody else had.
    #[inline(always)]
    #[must_use]
    pub const fn noted(mut self, for_us: bool) -> Self {
        self.flags |= Self::NOTED;
        if for_us {
            self.flags |= Self::REPORTS_FOR_US;
        }
        self
    }

    /// The same; the connection is to take the loopback shortcut.
    #[inline(always)]
    #[must_use]
    pub const fn by_shortcut(mut self) -> Self {
        self.flags |= Self::SHORTCUT;
        self
    }

    /// The same; the sidecar is the one that dials, and the app accepts.
    #[inline(always)]
    #[must_use]
    pub const fn to_app(mut self) -> Self {
        self.flags |= Self::TO_APP;
        self
    }

    /// Whether the connection is to take the loopback shortcut.
    #[inline(always)]
    #[must_use]
    pub const fn is_by_shortcut(&self) -> bool {
        self.flags & Self::SHORTCUT != 0
    }

    /// Whether the app is the one that accepts: it is not to be told of what was dialled.
    #[inline(always)]
    #[must_use]
    pub const fn is_to_app(&self) -> bool {
        self.flags & Self::TO_APP != 0
    }

    /// Whether a note of it may still be among the handshakes.
    #[inline(always)]
    #[must_use]
    pub const fn is_noted(&self) -> bool {
        self.flags & Self::NOTED != 0
    }

    /// Whether the socket reports its state changes for us alone.
    #[inline(always)]
    #[must_use]
    pub const fn reports_for_us(&self) -> bool {
        self.flags & Self::REPORTS_FOR_US != 0
    }

    /// The pod's slot.
    #[inline(always)]
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.slot
    }

    /// The address that was dialled.
    #[inline(always)]
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The port that was dialled, host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether the same address and port were dialled.
    #[inline(always)]
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.address == other.address && self.port == other.port
    }

    /// Whether the socket that remembers this is the one that dialled.
    #[inline(always)]
    #[must_use]
    pub const fn is_app_end(&self) -> bool {
        self.end == End::App as u8
    }
}

/// The key of a handshake between app and sidecar, or of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct HandshakeKey {
    netns_cookie: u64,
    app: Address,
    app_port: u16,
    listener_port: u16,
    listener: u32,
}

impl HandshakeKey {
    /// `app` is the end that connects, `listener` the loopback address it was sent to, of
    /// which the last word tells it from any other of its family.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        netns_cookie: u64,
        app: Address,
        app_port: u16,
        listener: Address,
        listener_port: u16,
    ) -> Self {
        Self {
            netns_cookie,
            app,
            app_port,
            listener_port,
            listener: listener.last_word(),
        }
    }

    /// The key of a destination that is known by its loopback address: no connection has it, as
    /// none comes from port 0.
    #[inline(always)]
    #[must_use]
    pub const fn of_destination(netns_cookie: u64, listener: Address, listener_port: u16) -> Self {
        Self::new(netns_cookie, listener, 0, listener, listener_port)
    }

    /// The key of what listens on an address and port, whoever connects.
    #[inline(always)]
    #[must_use]
    pub const fn of_app(netns_cookie: u64, listener: Address, listener_port: u16) -> Self {
        Self::new(
            netns_cookie,
            Address::UNSPECIFIED_V6,
            0,
            listener,
            listener_port,
        )
    }

    /// The key of what listens at the end that accepted this connection.
    #[inline(always)]
    #[must_use]
    pub const fn app(mut self) -> Self {
        self.app = Address::UNSPECIFIED_V6;
        self.app_port = 0;
        self
    }

    /// The pod.
    #[must_use]
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }
}

/// The key of a sidecar's listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ListenerKey {
    netns_cookie: u64,
    direction: u16,
    family: u16,
    slot: u32,
}

/// The family of a listening socket.
///
/// Envoy opens 0.0.0.0 and `[::]` on the same port, and only one of them will do for a
/// given connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Family {
    /// `AF_INET`.
    V4 = 4,
    /// `AF_INET6`; takes IPv4 connections too unless it is `IPV6_V6ONLY`.
    V6 = 6,
}

impl ListenerKey {
    /// `slot` is below [`super::LISTENER_SLOTS`].
    #[inline(always)]
    #[must_use]
    pub const fn new(netns_cookie: u64, direction: Direction, family: Family, slot: u32) -> Self {
        Self {
            netns_cookie,
            direction: direction as u16,
            family: family as u16,
            slot,
        }
    }

    /// The slots in the order in which they are taken, `nth` below [`super::LISTENER_SLOTS`]: each halves a gap between
    /// those before it. So listeners lie about evenly on the ring of the slots, however many there are.
    #[inline(always)]
    #[must_use]
    pub const fn slot(nth: u32) -> u32 {
        nth.reverse_bits() >> (u32::BITS - super::LISTENER_SLOTS.trailing_zeros())
    }

    /// The slot from which the listener of a connection with these addresses and ports is looked for on that ring.
    #[inline(always)]
    #[must_use]
    pub const fn start(digest: u64) -> u64 {
        // Multiplicative hashing, as for loopback addresses.
        digest.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            >> (u64::BITS - super::LISTENER_SLOTS.trailing_zeros())
    }

    /// The same key as two words: by whole words, the verifier of the kernel follows fewer
    /// states than by the fields.
    #[inline(always)]
    #[must_use]
    pub const fn words(
        netns_cookie: u64,
        direction: Direction,
        family: Family,
        slot: u64,
    ) -> [u64; 2] {
        let (direction, family) = (direction as u64, family as u64);
        let word = if cfg!(target_endian = "little") {
            direction | (family << 16) | (slot << 32)
        } else {
            (direction << 48) | (family << 32) | slot
        };
        [netns_cookie, word]
    }

    /// The pod.
    #[must_use]
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// Which connections it is for.
    #[must_use]
    pub const fn is_for(&self, direction: Direction) -> bool {
        self.direction == direction as u16
    }
}

const _: () = {
    assert!(size_of::<OriginalDestination>() == 24);
    assert!(size_of::<HandshakeKey>() == 32);
    assert!(size_of::<ListenerKey>() == 16);
};
