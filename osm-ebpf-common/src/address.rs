//! The one form of an address: 16 bytes in network order, IPv4 as v4-mapped IPv6.

/// An IP address as the maps hold it.
///
/// The four words are the address's bytes as they lie in memory (network byte order),
/// whatever the byte order of the machine: words are copied from kernel contexts as they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "user"), derive(Debug))]
#[repr(C)]
pub struct Address([u32; 4]);

/// The middle word of a v4-mapped address, `0000:ffff`, as it lies in memory.
const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// 127.0.0.1.
    pub const LOCALHOST_V4: Self = Self::from_v4_octets([127, 0, 0, 1]);
    /// `::1`.
    pub const LOCALHOST_V6: Self = Self([0, 0, 0, 1_u32.to_be()]);
    /// 0.0.0.0, also the value that stands for "none".
    pub const UNSPECIFIED_V4: Self = Self::from_v4_octets([0, 0, 0, 0]);
    /// `::`.
    pub const UNSPECIFIED_V6: Self = Self([0; 4]);

    /// 127.0.0.1 or `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn localhost(v4: bool) -> Self {
        if v4 {
            Self::LOCALHOST_V4
        } else {
            Self::LOCALHOST_V6
        }
    }

    /// An IPv4 address from its four bytes.
    #[must_use]
    pub const fn from_v4_octets(octets: [u8; 4]) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(octets))
    }

    /// An IPv4 address from the word that a kernel context holds (network byte order).
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, V4_MAPPED, word])
    }

    /// An IPv6 address from the words that a kernel context holds (network byte order).
    /// A v4-mapped one is the IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The words as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// The last word: of an IPv4 address, all of it (network byte order).
    #[inline(always)]
    #[must_use]
    pub const fn last_word(&self) -> u32 {
        self.0[3]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == V4_MAPPED
    }

    /// 0.0.0.0 or `::`, which a connect() takes for the local host.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(&self) -> bool {
        self.0[3] == 0
            && self.0[0] == 0
            && self.0[1] == 0
            && (self.0[2] == 0 || self.0[2] == V4_MAPPED)
    }

    /// In 127.0.0.0/8, or `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return first_octet(self.0[3]) == 127;
        }
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1_u32.to_be()
    }

    /// Exactly 127.0.0.1 or `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_localhost(&self) -> bool {
        if self.is_v4() {
            return self.0[3] == Self::LOCALHOST_V4.0[3];
        }
        self.is_loopback()
    }

    /// An address to which no TCP connection can be made: IPv4 multicast and broadcast,
    /// IPv6 multicast. The kernel refuses these itself.
    #[inline(always)]
    #[must_use]
    pub const fn is_multicast_or_broadcast(&self) -> bool {
        if self.is_v4() {
            let octet = first_octet(self.0[3]);
            return (octet >= 224 && octet < 240) || self.0[3] == u32::MAX;
        }
        first_octet(self.0[0]) == 0xff
    }

    /// The loopback address in 127.64.0.0/11 that stands for a destination.
    ///
    /// Redirected connections are spread over such blocks, so that one source port can
    /// lead to many destinations at once. Equal destinations have the same address: the
    /// kernel goes on keeping their connections' ports apart, as it would without us. They
    /// hold neither 127.0.0.0/16, which people use, nor 127.255.255.255, which is a
    /// broadcast address.
    #[inline(always)]
    #[must_use]
    pub const fn spread_loopback(&self, port: u16) -> Self {
        // Multiplicative hashing: every input bit reaches the upper bits, which are taken.
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let [a, b, c, d] = self.0;
        let high = ((a as u64) << 32 | b as u64).wrapping_mul(ODD);
        let low = ((c as u64) << 32 | d as u64) ^ (high >> 29) ^ ((port as u64) << 32);
        let hash = (low.wrapping_mul(ODD) ^ (low >> 31)).wrapping_mul(ODD);
        let bits = (hash >> 43) as u32;
        Self::from_v4_word(u32::from_be(0x7f40_0000 | bits))
    }

    /// The same in 127.96.0.0/11, where destinations are known by their loopback address alone.
    #[inline(always)]
    #[must_use]
    pub const fn known_loopback(&self, port: u16) -> Self {
        let spread = self.spread_loopback(port);
        Self::from_v4_word(spread.0[3] | u32::from_be(0x0020_0000))
    }

    /// Whether this is one of the addresses that [`Self::known_loopback`] chooses.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.is_v4() && u32::from_be(self.0[3]) & 0xffe0_0000 == 0x7f60_0000
    }

    /// Whether this is one of the addresses that [`Self::spread_loopback`] or
    /// [`Self::known_loopback`] choose.
    #[inline(always)]
    #[must_use]
    pub const fn is_spread(&self) -> bool {
        self.is_v4() && u32::from_be(self.0[3]) & 0xffc0_0000 == 0x7f40_0000
    }

    /// The 16 bytes, in network order.
    #[must_use]
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = [
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
            self.0[3].to_ne_bytes(),
        ];
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// From 16 bytes in network order.
    #[must_use]
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }
}

#[inline(always)]
const fn first_octet(word: u32) -> u8 {
    (u32::from_be(word) >> 24) as u8
}
