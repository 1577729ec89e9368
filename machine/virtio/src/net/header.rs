//! The header before every frame (virtio 1.2, 5.1.6).
//!
//! ```text
//! flags u8 | gso_type u8 | hdr_len u16 | gso_size u16 | csum_start u16 | csum_offset u16 | num_buffers u16
//! ```

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 12;

/// What rides beside a frame: an unfinished checksum, and how to cut a large segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// [`Header::NEEDS_CHECKSUM`] and [`Header::DATA_VALID`].
    pub flags: u8,
    /// [`Header::TCP4`] or [`Header::TCP6`], perhaps with [`Header::ECN`]; 0 for a frame as it is.
    pub segmentation: u8,
    /// Bytes of all headers, a hint.
    pub header_length: u16,
    /// Payload bytes of each segment.
    pub segment: u16,
    /// Where the checksum begins, in bytes from the start of the frame.
    pub checksum_start: u16,
    /// Where it is to be stored, in bytes from there.
    pub checksum_offset: u16,
}

impl Header {
    /// The checksum is that of the pseudo header alone.
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// The checksum was verified.
    pub const DATA_VALID: u8 = 2;
    /// TCP over IPv4, to be cut.
    pub const TCP4: u8 = 1;
    /// TCP over IPv6, to be cut.
    pub const TCP6: u8 = 4;
    /// The segment has congestion echoes.
    pub const ECN: u8 = 0x80;

    /// The header as it stands in a buffer, without the number of buffers.
    pub fn encode(&self) -> [u8; 10] {
        let mut bytes = [self.flags, self.segmentation, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.header_length, self.segment, self.checksum_start, self.checksum_offset];
        for (to, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The header in these bytes.
    pub fn decode(bytes: [u8; 10]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            segmentation: bytes[1],
            header_length: word(2),
            segment: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back() {
        let bytes = [1, 4, 0x36, 0, 0xa8, 5, 0x22, 0, 0x10, 0];
        let header = Header::decode(bytes);
        assert_eq!((header.header_length, header.segment), (54, 1448));
        assert_eq!((header.checksum_start, header.checksum_offset), (34, 16));
        assert_eq!(header.encode(), bytes);
    }
}
