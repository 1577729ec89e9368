//! Frames on a byte stream.
//!
//! ```text
//!   0       1       2       4                 8          8+length
//!   +-------+-------+-------+-----------------+----------+
//!   | 0xB5  | kind  | length| crc32 (kind..)  | payload  |     integers little-endian
//!   +-------+-------+-------+-----------------+----------+
//! ```
//!
//! Invariant: the decoder holds at most one frame and never fails; bytes that are no frame are
//! skipped and counted.

use crate::crc::crc32;

/// The most a frame carries.
pub const MAX_PAYLOAD: usize = 4096;
const MARKER: u8 = 0xb5;
const HEADER: usize = 8;

/// Appends one frame to `out`. Panics if the payload is longer than [`MAX_PAYLOAD`].
pub fn encode_frame(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    assert!(payload.len() <= MAX_PAYLOAD, "callers cut payloads to MAX_PAYLOAD");
    let length = (payload.len() as u16).to_le_bytes();
    out.push(MARKER);
    out.push(kind);
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc32(&[&[kind], &length, payload]).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Finds frames in a byte stream.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    start: usize,
    skipped: u64,
}

impl Decoder {
    /// Takes in bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.pending.drain(..self.start);
            self.start = 0;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole frame: its kind and payload.
    pub fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let rest = &self.pending[self.start..];
            let skip = rest.iter().position(|byte| *byte == MARKER).unwrap_or(rest.len());
            if skip > 0 {
                self.skip(skip);
                continue;
            }
            if rest.len() < HEADER {
                return None;
            }
            let kind = rest[1];
            let length = usize::from(u16::from_le_bytes([rest[2], rest[3]]));
            if length > MAX_PAYLOAD {
                self.skip(1);
                continue;
            }
            if rest.len() < HEADER + length {
                return None;
            }
            let payload = &rest[HEADER..HEADER + length];
            let said = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]);
            if crc32(&[&[kind], &rest[2..4], payload]) != said {
                self.skip(1);
                continue;
            }
            let payload = payload.to_vec();
            self.start += HEADER + length;
            return Some((kind, payload));
        }
    }

    /// How many bytes belonged to no frame.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn skip(&mut self, count: usize) {
        self.start += count;
        self.skipped += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_whatever_the_cuts() {
        let mut wire = Vec::new();
        encode_frame(7, b"hello", &mut wire);
        encode_frame(9, &[MARKER; 300], &mut wire);
        for cut in 1..wire.len() {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in wire.chunks(cut) {
                decoder.push(piece);
                found.extend(std::iter::from_fn(|| decoder.next_frame()));
            }
            assert_eq!(found, [(7, b"hello".to_vec()), (9, vec![MARKER; 300])]);
            assert_eq!(decoder.skipped(), 0);
        }
    }

    #[test]
    fn garbage_before_and_between_is_skipped() {
        let mut wire = b"kernel says \xb5\xb5 hi\n".to_vec();
        encode_frame(1, b"a", &mut wire);
        wire.extend_from_slice(&[MARKER, 1, 2, 0, 0, 0, 0, 0, b'x', b'y']);
        encode_frame(2, b"b", &mut wire);
        let mut decoder = Decoder::default();
        decoder.push(&wire);
        assert_eq!(decoder.next_frame(), Some((1, b"a".to_vec())));
        assert_eq!(decoder.next_frame(), Some((2, b"b".to_vec())));
        assert_eq!(decoder.next_frame(), None);
        assert!(decoder.skipped() > 20);
    }

    #[test]
    fn a_damaged_frame_costs_only_itself() {
        let mut wire = Vec::new();
        encode_frame(1, &[3; 50], &mut wire);
        wire[20] ^= 1;
        encode_frame(2, b"next", &mut wire);
        let mut decoder = Decoder::default();
        decoder.push(&wire);
        assert_eq!(decoder.next_frame(), Some((2, b"next".to_vec())));
    }
}
