//! Packets of virtio-vsock (virtio 1.2, 5.10.6): a header of 44 bytes, then data.
//!
//! ```text
//!  0 source CID u64   8 destination CID u64  16 source port u32  20 destination port u32
//! 24 length u32      28 type u16  30 operation u16  32 flags u32  36 buffer u32  40 forwarded u32
//! ```

/// Bytes of a header.
pub(super) const HEADER: usize = 44;

/// The host's address (5.10.4).
pub(super) const HOST_CID: u64 = 2;

/// Stream sockets, the only type here.
pub(super) const STREAM: u16 = 1;

/// The sender of SHUTDOWN will read no more.
pub(super) const NO_MORE_READS: u32 = 1;
/// The sender of SHUTDOWN will write no more.
pub(super) const NO_MORE_WRITES: u32 = 2;

/// Operations (5.10.6).
pub(super) mod operation {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const RESPONSE: u16 = 2;
    pub(in super::super) const RESET: u16 = 3;
    pub(in super::super) const SHUTDOWN: u16 = 4;
    pub(in super::super) const DATA: u16 = 5;
    pub(in super::super) const CREDIT_UPDATE: u16 = 6;
    pub(in super::super) const CREDIT_REQUEST: u16 = 7;
}

/// A connection, from the guest's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

/// A header, as far as it differs from packet to packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) operation: u16,
    pub(super) flags: u32,
    /// Room that the sender has for this connection's data, and what of it all it passed on.
    pub(super) buffer: u32,
    pub(super) forwarded: u32,
}

impl Header {
    /// A packet to the guest.
    pub(super) fn to_guest(guest_cid: u64, ports: Ports, operation: u16) -> Self {
        Self {
            source_cid: HOST_CID,
            destination_cid: guest_cid,
            source_port: ports.host,
            destination_port: ports.guest,
            kind: STREAM,
            operation,
            ..Self::default()
        }
    }

    pub(super) fn decode(bytes: [u8; HEADER]) -> Self {
        let dword = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let qword = |at: usize| u64::from(dword(at)) | u64::from(dword(at + 4)) << 32;
        Self {
            source_cid: qword(0),
            destination_cid: qword(8),
            source_port: dword(16),
            destination_port: dword(20),
            length: dword(24),
            kind: dword(28) as u16,
            operation: (dword(28) >> 16) as u16,
            flags: dword(32),
            buffer: dword(36),
            forwarded: dword(40),
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.source_cid.to_le_bytes());
        put(&self.destination_cid.to_le_bytes());
        put(&self.source_port.to_le_bytes());
        put(&self.destination_port.to_le_bytes());
        put(&self.length.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&self.operation.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buffer.to_le_bytes());
        put(&self.forwarded.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back() {
        let mut header = Header::to_guest(3, Ports { guest: 1024, host: 52 }, operation::DATA);
        header.length = 0x0102_0304;
        header.flags = 3;
        header.buffer = 1 << 18;
        header.forwarded = u32::MAX;
        let bytes = header.encode();
        assert_eq!(Header::decode(bytes), header);
        assert_eq!(bytes[16..20], 52_u32.to_le_bytes());
        assert_eq!(bytes[28..32], [1, 0, 5, 0]);
    }
}
