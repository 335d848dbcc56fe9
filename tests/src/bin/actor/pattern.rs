//! Bytes that show when some are lost, doubled or moved.

use std::io::Write;

use socket2::Socket;

use crate::connect::step_error;

/// A prime, so that no buffer's size hides a shift.
const PERIOD: usize = 65_521;

/// An endless sequence of bytes, kept as two periods so that a period's length starts anywhere.
pub struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    /// Makes it; it is always the same.
    pub fn new() -> Self {
        let mixed = (0..PERIOD as u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let period: Vec<u8> = mixed.map(|it| it.to_be_bytes()[0]).collect();
        Self {
            bytes: period.repeat(2),
        }
    }

    /// Is this what the sequence has at `start`?
    pub fn matches(&self, start: u64, mut data: &[u8]) -> bool {
        let mut at = start;
        while !data.is_empty() {
            let (head, tail) = data.split_at(data.len().min(PERIOD));
            if !self.from(at).starts_with(head) {
                return false;
            }
            at += head.len() as u64;
            data = tail;
        }
        true
    }

    /// Sends its beginning; how much went out, and the name of the error that stopped it.
    pub fn send(&self, writer: &mut Socket, bytes: u64) -> (u64, Option<String>) {
        let mut sent = 0;
        while sent < bytes {
            let left = usize::try_from(bytes - sent).unwrap_or(PERIOD);
            let chunk = &self.from(sent)[..left.min(PERIOD)];
            if let Err(error) = writer.write_all(chunk) {
                return (sent, Some(step_error(&error)));
            }
            sent += chunk.len() as u64;
        }
        (sent, None)
    }

    fn from(&self, at: u64) -> &[u8] {
        let phase = usize::try_from(at % PERIOD as u64).unwrap_or_default();
        &self.bytes[phase..]
    }
}
