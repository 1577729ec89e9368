//! What every part of the stack works with: configuration, host, time, random numbers, the queue of
//! frames, and counts of what was dropped and why.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, UDP_HEADER_LEN, UdpPacket, UdpRepr};

use crate::config::Config;
use crate::frame::{self, FRAME_MAX, FrameQueue, Offload};

/// What the stack did and dropped, for a report and for whoever wonders why nothing arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that the guest sent.
    pub from_guest: u64,
    /// Frames that the device took for the guest.
    pub to_guest: u64,
    /// Frames of the guest that are no valid packet of a protocol spoken here.
    pub malformed: u64,
    /// Frames of the guest that name a sender other than the guest.
    pub spoofed: u64,
    /// IP fragments that do not fit together, or overlap.
    pub fragments: u64,
    /// Connections and datagrams to where the guest may not go.
    pub refused: u64,
    /// Flows that found their table full.
    pub table_full: u64,
    /// Frames to the guest that found the queue full or do not fit into the device's buffer or MTU.
    pub dropped: u64,
}

/// See the module.
pub(crate) struct Context<H> {
    pub(crate) config: Config,
    pub(crate) host: H,
    pub(crate) now: Duration,
    pub(crate) random: Random,
    pub(crate) output: FrameQueue,
    pub(crate) offload: Offload,
    pub(crate) counters: Counters,
    /// Where forwarded IPv6 connections go: what the guest last sent from.
    pub(crate) guest_ipv6: Option<std::net::Ipv6Addr>,
    /// What one read of a host socket can bring.
    pub(crate) scratch: Box<[u8]>,
}

impl<H> Context<H> {
    pub(crate) fn new(config: Config, host: H) -> Self {
        Self {
            random: Random(config.seed),
            config,
            host,
            now: Duration::ZERO,
            output: FrameQueue::new(),
            offload: Offload::default(),
            counters: Counters::default(),
            guest_ipv6: None,
            scratch: vec![0; 65_536].into_boxed_slice(),
        }
    }

    /// Queues a whole frame.
    pub(crate) fn push(&mut self, frame: Vec<u8>) {
        if !self.output.push(frame) {
            self.counters.dropped += 1;
        }
    }

    /// Queues an IP packet whose content `fill` writes.
    pub(crate) fn packet(
        &mut self,
        (from, to): (IpAddr, IpAddr),
        protocol: IpProtocol,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let headers = frame::headers_length(to);
        let ip_header = headers - smoltcp::wire::ETHERNET_HEADER_LEN;
        if ip_header + length > usize::from(self.config.mtu) {
            let mut payload = vec![0; length];
            fill(&mut payload);
            return self.fragments((from, to), protocol, &payload);
        }
        let mut bytes = vec![0; headers + length];
        let at = frame::ip(&self.config, (from, to), protocol, length, &mut bytes);
        fill(&mut bytes[at..]);
        self.push(bytes);
    }

    /// Queues a packet that is larger than the MTU, in pieces.
    fn fragments(&mut self, ends: (IpAddr, IpAddr), protocol: IpProtocol, payload: &[u8]) {
        let whole = frame::headers_length(ends.1) + payload.len();
        if whole > FRAME_MAX {
            self.counters.dropped += 1;
            return;
        }
        let identification = self.random.next() as u32;
        let size = frame::fragment_size(&self.config, ends.1);
        for (index, piece) in payload.chunks(size).enumerate() {
            let part = frame::Part {
                protocol,
                identification,
                offset: index * size,
                more: (index + 1) * size < payload.len(),
            };
            let bytes = frame::fragment(&self.config, ends, part, piece);
            self.push(bytes);
        }
    }

    /// Queues a UDP datagram.
    pub(crate) fn datagram(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let ends = (from.ip(), to.ip());
        self.packet(ends, IpProtocol::Udp, UDP_HEADER_LEN + payload.len(), |bytes| {
            UdpRepr { src_port: from.port(), dst_port: to.port() }.emit(
                &mut UdpPacket::new_unchecked(bytes),
                &ends.0.into(),
                &ends.1.into(),
                payload.len(),
                |room| room.copy_from_slice(payload),
                &ChecksumCapabilities::default(),
            );
        });
    }

    /// The guest's address of the family of `like`, if it has one.
    pub(crate) fn guest_address(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => Some(self.config.ipv4.guest.into()),
            IpAddr::V6(_) => self.guest_ipv6.map(IpAddr::V6),
        }
    }

    /// The gateway's address of the family of `like`.
    pub(crate) fn gateway_address(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => Some(self.config.ipv4.gateway.into()),
            IpAddr::V6(_) => self.config.ipv6.map(|plan| plan.gateway().into()),
        }
    }
}

/// Numbers that a guest can't foresee if the seed is random (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A port of those for outgoing connections (RFC 6335, section 6).
    pub(crate) fn port(&mut self) -> u16 {
        49_152 + (self.next() % 16_384) as u16
    }
}
