//! Frames to the guest: how they are written, what rides beside them, and the bounded queue.
//!
//! Invariant: the queue holds at most [`QUEUE_FRAMES`] frames of at most [`FRAME_MAX`] bytes. It is for
//! small and rare things; TCP segments are made when the device asks for a frame.

use std::collections::VecDeque;
use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
};

use crate::config::Config;

/// Largest frame either way: an Ethernet header and what an IPv4 length can say.
pub const FRAME_MAX: usize = ETHERNET_HEADER_LEN + 65_535;

/// Frames that wait in the queue at most.
pub const QUEUE_FRAMES: usize = 256;

/// What the guest's driver can do with frames (virtio 1.3, section 5.1.3: `GUEST_CSUM`, `GUEST_TSO4`,
/// `GUEST_TSO6`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// It completes TCP checksums itself; without it none of the following is used.
    pub checksum: bool,
    /// It takes TCP segments over IPv4 that are larger than the MTU.
    pub tcp4: bool,
    /// The same over IPv6.
    pub tcp6: bool,
}

/// What the device knows of a frame from the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// The transport checksum is that of the pseudo header alone (`VIRTIO_NET_HDR_F_NEEDS_CSUM`):
    /// the bytes never were on a wire, so nothing is verified.
    pub partial_checksum: bool,
}

/// A frame for the guest, beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Bytes of the frame in the buffer.
    pub length: usize,
    /// The checksum that the guest has to complete, if it said that it does.
    pub checksum: Option<PartialChecksum>,
    /// The segment is to be taken as several.
    pub segments: Option<Segments>,
}

/// `csum_start` and `csum_offset` of the header before the frame (virtio 1.3, section 5.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the sum begins, in bytes from the start of the frame.
    pub start: u16,
    /// Where it is to be stored, in bytes from `start`.
    pub offset: u16,
}

/// `gso_type`, `hdr_len` and `gso_size` of the same header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// `VIRTIO_NET_HDR_GSO_TCPV6` rather than `_TCPV4`.
    pub ipv6: bool,
    /// Bytes of all headers.
    pub header_length: u16,
    /// Payload bytes of each segment.
    pub size: u16,
}

/// Frames that are ready, oldest first.
pub(crate) struct FrameQueue {
    frames: VecDeque<Vec<u8>>,
}

impl FrameQueue {
    pub(crate) fn new() -> Self {
        Self { frames: VecDeque::new() }
    }

    /// Whether another frame of what may wait would be in the way of what must not.
    pub(crate) fn is_busy(&self) -> bool {
        self.frames.len() >= QUEUE_FRAMES / 2
    }

    /// Queues a frame; says no if there is no room.
    pub(crate) fn push(&mut self, frame: Vec<u8>) -> bool {
        debug_assert!(frame.len() <= FRAME_MAX);
        let room = self.frames.len() < QUEUE_FRAMES;
        if room {
            self.frames.push_back(frame);
        }
        room
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.frames.clear();
    }
}

/// Writes an Ethernet header to the guest and says where what it carries begins.
pub(crate) fn ethernet(config: &Config, protocol: EthernetProtocol, buffer: &mut [u8]) -> usize {
    let header = EthernetRepr {
        src_addr: EthernetAddress(config.gateway_mac),
        dst_addr: EthernetAddress(config.guest_mac),
        ethertype: protocol,
    };
    header.emit(&mut EthernetFrame::new_unchecked(buffer));
    ETHERNET_HEADER_LEN
}

/// Bytes of Ethernet and IP header for packets to `address`.
pub(crate) fn headers_length(address: IpAddr) -> usize {
    ETHERNET_HEADER_LEN + if address.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN }
}

/// Writes Ethernet and IP headers for `length` bytes of `protocol` and says where those begin.
///
/// `buffer` has room for all of it, and source and destination are of one family: callers see to it.
pub(crate) fn ip(
    config: &Config,
    (from, to): (IpAddr, IpAddr),
    protocol: IpProtocol,
    length: usize,
    buffer: &mut [u8],
) -> usize {
    match (from, to) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let at = ethernet(config, EthernetProtocol::Ipv4, buffer);
            let header = Ipv4Repr {
                src_addr,
                dst_addr,
                next_header: protocol,
                payload_len: length,
                hop_limit: 64,
            };
            let mut packet = Ipv4Packet::new_unchecked(&mut buffer[at..]);
            header.emit(&mut packet, &ChecksumCapabilities::default());
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let at = ethernet(config, EthernetProtocol::Ipv6, buffer);
            // Neighbor discovery asks for 255 (RFC 4861, section 4); for the rest any number does.
            let hop_limit = if protocol == IpProtocol::Icmpv6 { 255 } else { 64 };
            let header = Ipv6Repr {
                src_addr,
                dst_addr,
                next_header: protocol,
                payload_len: length,
                hop_limit,
            };
            header.emit(&mut Ipv6Packet::new_unchecked(&mut buffer[at..]));
        }
        _ => unreachable!("both addresses of a flow are of one family"),
    }
    headers_length(to)
}

/// Bytes before a fragment's own in IPv6 (RFC 8200, section 4.5).
const FRAGMENT_HEADER: usize = 8;

/// Where a fragment lies in its packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) protocol: IpProtocol,
    pub(crate) identification: u32,
    /// In bytes, a multiple of 8.
    pub(crate) offset: usize,
    pub(crate) more: bool,
}

/// Bytes of each fragment to `address` but the last: a multiple of 8.
pub(crate) fn fragment_size(config: &Config, address: IpAddr) -> usize {
    let headers = match address {
        IpAddr::V4(_) => IPV4_HEADER_LEN,
        IpAddr::V6(_) => IPV6_HEADER_LEN + FRAGMENT_HEADER,
    };
    (usize::from(config.mtu) - headers) & !7
}

/// A fragment as a frame.
pub(crate) fn fragment(
    config: &Config,
    (from, to): (IpAddr, IpAddr),
    part: Part,
    payload: &[u8],
) -> Vec<u8> {
    let more = if to.is_ipv6() { FRAGMENT_HEADER } else { 0 };
    let protocol = if to.is_ipv6() { IpProtocol::Ipv6Frag } else { part.protocol };
    let mut bytes = vec![0; headers_length(to) + more + payload.len()];
    let at = ip(config, (from, to), protocol, more + payload.len(), &mut bytes);
    bytes[at + more..].copy_from_slice(payload);
    if to.is_ipv6() {
        let place = part.offset as u16 | u16::from(part.more);
        bytes[at] = part.protocol.into();
        bytes[at + 2..at + 4].copy_from_slice(&place.to_be_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&part.identification.to_be_bytes());
    } else {
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[ETHERNET_HEADER_LEN..]);
        packet.set_ident(part.identification as u16);
        packet.set_dont_frag(false);
        packet.set_more_frags(part.more);
        packet.set_frag_offset(part.offset as u16);
        packet.fill_checksum();
    }
    bytes
}

/// The ones' complement sum of a pseudo header (RFC 9293, section 3.1): a partial checksum.
pub(crate) fn pseudo_header_sum(
    (from, to): (IpAddr, IpAddr),
    protocol: IpProtocol,
    length: usize,
) -> u16 {
    smoltcp::wire::checksum::pseudo_header(&from.into(), &to.into(), protocol, length as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = FrameQueue::new();
        assert_eq!((0..1000).filter(|_| queue.push(vec![0; 60])).count(), QUEUE_FRAMES);
        assert!(queue.is_busy());
        assert!(queue.pop().is_some() && queue.push(vec![0; 60]));
    }
}
