//! Bytes that are a function of where they belong.

use std::fmt;

/// The stream of one direction of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    key: u64,
}

/// A byte that is not the one that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Where in the stream.
    pub offset: u64,
    /// What was sent there.
    pub expected: u8,
    /// What was read there.
    pub found: u8,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offset,
            expected,
            found,
        } = self;
        write!(
            f,
            "wrong byte at offset {offset}: {found:#04x}, sent was {expected:#04x}"
        )
    }
}

impl std::error::Error for Mismatch {}

impl Pattern {
    /// The stream with this key; different keys have nothing in common.
    #[must_use]
    pub const fn new(key: u64) -> Self {
        Self { key }
    }

    /// Its key.
    #[must_use]
    pub const fn key(self) -> u64 {
        self.key
    }

    /// The bytes from `offset` on, as many as there is room for.
    pub fn fill(self, offset: u64, bytes: &mut [u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = self.word(at / 8);
            let skip = usize::from(at.to_le_bytes()[0] & 7);
            let length = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(&word[skip..skip + length]);
            rest = later;
            at += length as u64;
        }
    }

    /// Are these the bytes from `offset` on?
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(self, offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = self.word(at / 8);
            let skip = usize::from(at.to_le_bytes()[0] & 7);
            let length = rest.len().min(8 - skip);
            let (now, later) = rest.split_at(length);
            let expected = &word[skip..skip + length];
            if now != expected {
                let mut pairs = (at..).zip(expected.iter().zip(now));
                let (offset, (&expected, &found)) = pairs
                    .find(|(_, (expected, found))| expected != found)
                    .unwrap_or((at, (&0, &0)));
                return Err(Mismatch {
                    offset,
                    expected,
                    found,
                });
            }
            rest = later;
            at += length as u64;
        }
        Ok(())
    }

    /// Eight bytes of the stream (the output function of splitmix64).
    fn word(self, index: u64) -> [u8; 8] {
        let mut word = self.key ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_however_they_are_cut() {
        let pattern = Pattern::new(7);
        let mut whole = [0; 100];
        pattern.fill(3, &mut whole);
        for cut in 0..100 {
            let mut part = vec![0; 100 - cut];
            pattern.fill(3 + cut as u64, &mut part);
            assert_eq!(part, whole[cut..]);
            assert_eq!(pattern.check(3 + cut as u64, &part), Ok(()));
        }
    }

    #[test]
    fn any_changed_byte_is_found_where_it_is() {
        let pattern = Pattern::new(8);
        for at in 0..50 {
            let mut bytes = [0; 50];
            pattern.fill(5, &mut bytes);
            bytes[at] ^= 0x10;
            let found = pattern.check(5, &bytes).expect_err("it is wrong");
            assert_eq!(found.offset, 5 + at as u64);
        }
    }

    #[test]
    fn lost_or_doubled_piece_is_found() {
        let pattern = Pattern::new(9);
        let mut bytes = [0; 64];
        pattern.fill(8, &mut bytes);
        assert!(pattern.check(0, &bytes).is_err());
        assert!(pattern.check(16, &bytes).is_err());
        assert!(Pattern::new(10).check(8, &bytes).is_err());
    }
}
