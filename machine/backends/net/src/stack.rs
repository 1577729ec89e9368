//! The stack: frames in, frames out, and what an event loop has to know.
//!
//! A pure state machine over [`Host`]. Invariant: whatever a guest sends, no call panics, and work and memory
//! are bounded: tables by the constants of their modules, frames by the queue.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use smoltcp::phy::{Checksum, ChecksumCapabilities};
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv6Packet, Ipv6Repr, TcpPacket, TcpRepr,
    UdpPacket, UdpRepr,
};

use crate::config::{Config, ConfigError, Place};
use crate::context::{Context, Counters};
use crate::dns::{self, Dns};
use crate::forward::{Forward, ForwardError, Forwards};
use crate::fragments::{Fragments, Name, Place as FragmentPlace};
use crate::frame::{FRAME_MAX, Incoming, Offload, Outgoing};
use crate::host::{Host, Key, Ready};
use crate::icmp::{Echo, Pings};
use crate::slab::Kind;
use crate::tcp::{Flow, Tcp};
use crate::udp::Udp;
use crate::{dhcp, link};

const DNS_PORT: u16 = 53;

/// The user-mode network of one guest.
pub struct Stack<H: Host> {
    cx: Context<H>,
    tcp: Tcp<H>,
    udp: Udp<H>,
    dns: Dns<H>,
    pings: Pings<H>,
    forwards: Forwards<H>,
    fragments: Fragments,
    advertise: Duration,
}

/// Why a frame of the guest went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drop {
    Malformed,
    Spoofed,
    Fragment,
    /// Not for us, or of a protocol that isn't spoken here: nobody's fault.
    Ignored,
}

impl<H: Host> Stack<H> {
    /// A network at time zero.
    ///
    /// # Errors
    /// What of the configuration doesn't fit.
    pub fn new(config: Config, host: H) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            cx: Context::new(config, host),
            tcp: Tcp::new(),
            udp: Udp::new(),
            dns: Dns::new(),
            pings: Pings::new(),
            forwards: Forwards::new(),
            fragments: Fragments::default(),
            advertise: Duration::ZERO,
        })
    }

    /// What the driver negotiated; for frames from now on.
    pub fn set_offload(&mut self, offload: Offload) {
        self.cx.offload = offload;
    }

    /// The guest's card has another Ethernet address from now on.
    pub fn set_guest_mac(&mut self, mac: [u8; 6]) {
        self.cx.config.guest_mac = mac;
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.cx.config
    }

    /// Takes a frame of the guest; it may be one segment of up to 64 KiB.
    pub fn guest_sends(&mut self, frame: &[u8]) {
        self.guest_sends_with(frame, Incoming::default());
    }

    /// Takes a frame of the guest of which the device knows more.
    pub fn guest_sends_with(&mut self, frame: &[u8], known: Incoming) {
        self.cx.counters.from_guest += 1;
        let counters = match self.frame(frame, known) {
            Ok(()) | Err(Drop::Ignored) => return,
            Err(Drop::Malformed) => &mut self.cx.counters.malformed,
            Err(Drop::Spoofed) => &mut self.cx.counters.spoofed,
            Err(Drop::Fragment) => &mut self.cx.counters.fragments,
        };
        *counters += 1;
    }

    /// Writes the next frame for the guest into `buffer`. `None` if there is none, or the buffer holds
    /// no frame; a frame that does not fit is dropped.
    pub fn next_frame(&mut self, buffer: &mut [u8]) -> Option<Outgoing> {
        self.udp.pump(&mut self.cx);
        while let Some(frame) = self.cx.output.pop() {
            if let Some(room) = buffer.get_mut(..frame.len()) {
                room.copy_from_slice(&frame);
                self.cx.counters.to_guest += 1;
                return Some(Outgoing { length: frame.len(), checksum: None, segments: None });
            }
            self.cx.counters.dropped += 1;
        }
        let frame = self.tcp.next_frame(&mut self.cx, buffer)?;
        self.cx.counters.to_guest += 1;
        Some(frame)
    }

    /// Whether [`Stack::next_frame`] is worth a call.
    #[must_use]
    pub fn has_frame(&self) -> bool {
        !self.cx.output.is_empty() || self.tcp.has_output()
    }

    /// Sets the clock, which counts from any start and never goes back, and does what is due.
    pub fn advance(&mut self, now: Duration) {
        self.cx.now = self.cx.now.max(now);
        self.tcp.tick(&mut self.cx);
        self.udp.tick(self.cx.now);
        self.dns.tick(&mut self.cx);
        self.pings.tick(self.cx.now);
        if let Some(plan) = self.cx.config.ipv6
            && self.advertise <= self.cx.now
        {
            // Not before the guest has sent something: nobody listens yet.
            if self.cx.counters.from_guest > 0 {
                link::advertise_router(&mut self.cx, plan);
            }
            self.advertise = self.cx.now + link::ADVERTISE;
        }
    }

    /// When [`Stack::advance`] should be called next, on the same clock.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let advertise = self.cx.config.ipv6.map(|_| self.advertise);
        [
            self.tcp.deadline(),
            self.udp.deadline(),
            self.dns.deadline(),
            self.pings.deadline(),
            advertise,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The host's socket of this key has become ready.
    pub fn host_event(&mut self, key: Key, ready: Ready) {
        let cx = &mut self.cx;
        match Kind::of(key) {
            Some(Kind::Stream) => self.tcp.host_event(cx, key, ready),
            Some(Kind::Udp) => self.udp.host_event(cx, key),
            Some(Kind::Dns) => self.dns.host_event(cx, key),
            Some(Kind::Ping) => self.pings.host_event(cx, key),
            Some(Kind::Forward) => self.forwards.host_event(cx, &mut self.tcp, &mut self.udp, key),
            None => (),
        }
    }

    /// Opens a port of the host that leads into the guest; the key closes it again.
    ///
    /// # Errors
    /// Why the host refuses, and what to do.
    pub fn add_forward(&mut self, forward: Forward) -> Result<Key, ForwardError> {
        self.forwards.add(&mut self.cx.host, forward)
    }

    /// Closes a forwarded port; connections that came by it stay. Says whether there was one.
    pub fn remove_forward(&mut self, key: Key) -> bool {
        self.forwards.remove(key)
    }

    /// The guest was reset: its connections are, too. Forwards stay.
    pub fn reset(&mut self) {
        self.tcp.clear(&mut self.cx);
        self.udp.clear();
        self.dns.clear();
        self.pings.clear();
        self.fragments.clear();
        self.cx.output.clear();
        self.cx.guest_ipv6 = None;
        self.cx.offload = Offload::default();
    }

    /// What was done and dropped.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.cx.counters
    }

    /// TCP connections and UDP flows there are.
    #[must_use]
    pub fn flows(&self) -> (usize, usize) {
        (self.tcp.len(), self.udp.len())
    }

    /// The host side.
    pub fn host(&mut self) -> &mut H {
        &mut self.cx.host
    }

    fn frame(&mut self, frame: &[u8], known: Incoming) -> Result<(), Drop> {
        if frame.len() > FRAME_MAX {
            return Err(Drop::Malformed);
        }
        let frame = EthernetFrame::new_checked(frame).map_err(|_| Drop::Malformed)?;
        if frame.src_addr().0 != self.cx.config.guest_mac {
            return Err(Drop::Spoofed);
        }
        if !link::is_for_us(&self.cx.config, frame.dst_addr()) {
            return Err(Drop::Ignored);
        }
        let mut sums = ChecksumCapabilities::default();
        if known.partial_checksum {
            (sums.tcp, sums.udp) = (Checksum::None, Checksum::None);
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => {
                link::arp(&mut self.cx, frame.payload()).ok_or(Drop::Malformed)
            }
            EthernetProtocol::Ipv4 => self.ipv4(frame.payload(), &sums),
            EthernetProtocol::Ipv6 if self.cx.config.ipv6.is_some() => {
                self.ipv6(frame.payload(), &sums)
            }
            _ => Err(Drop::Ignored),
        }
    }

    fn ipv4(&mut self, bytes: &[u8], sums: &ChecksumCapabilities) -> Result<(), Drop> {
        let packet = Ipv4Packet::new_checked(bytes).map_err(|_| Drop::Malformed)?;
        if packet.version() != 4 || !packet.verify_checksum() {
            return Err(Drop::Malformed);
        }
        let ends = (packet.src_addr().into(), packet.dst_addr().into());
        let protocol = packet.next_header();
        let is_part = packet.more_frags() || packet.frag_offset() != 0;
        if !is_part && protocol == IpProtocol::Udp && self.dhcp(ends, packet.payload(), sums)? {
            return Ok(());
        }
        if !self.cx.config.is_guest(ends.0) {
            return Err(Drop::Spoofed);
        }
        if !is_part {
            return self.ipv4_payload(ends, protocol, packet.payload(), sums);
        }
        let name = Name { ends, protocol, identification: packet.ident().into() };
        let place =
            FragmentPlace { offset: packet.frag_offset().into(), more: packet.more_frags() };
        match self.fragment(name, place, packet.payload())? {
            Some(whole) => self.ipv4_payload(ends, protocol, &whole, sums),
            None => Ok(()),
        }
    }

    /// A fragment; the datagram that it completes.
    fn fragment(
        &mut self,
        name: Name,
        place: FragmentPlace,
        payload: &[u8],
    ) -> Result<Option<Vec<u8>>, Drop> {
        self.fragments.add(name, place, payload, self.cx.now).map_err(|()| Drop::Fragment)
    }

    fn ipv4_payload(
        &mut self,
        ends: (IpAddr, IpAddr),
        protocol: IpProtocol,
        bytes: &[u8],
        sums: &ChecksumCapabilities,
    ) -> Result<(), Drop> {
        match protocol {
            IpProtocol::Tcp => self.tcp_segment(ends, bytes, sums),
            IpProtocol::Udp => self.udp_datagram(ends, bytes, sums),
            IpProtocol::Icmp => {
                let packet = Icmpv4Packet::new_checked(bytes).map_err(|_| Drop::Malformed)?;
                let Icmpv4Repr::EchoRequest { ident, seq_no, data } =
                    Icmpv4Repr::parse(&packet, sums).map_err(|_| Drop::Malformed)?
                else {
                    return Err(Drop::Ignored);
                };
                let echo = Echo { identifier: ident, sequence: seq_no, data };
                self.pings.request(&mut self.cx, ends.0, ends.1, echo);
                Ok(())
            }
            _ => Err(Drop::Ignored),
        }
    }

    fn ipv6(&mut self, bytes: &[u8], sums: &ChecksumCapabilities) -> Result<(), Drop> {
        let packet = Ipv6Packet::new_checked(bytes).map_err(|_| Drop::Malformed)?;
        let header = Ipv6Repr::parse(&packet).map_err(|_| Drop::Malformed)?;
        let ends = (header.src_addr.into(), header.dst_addr.into());
        // An address under test for being in use has no sender yet (RFC 4862, section 5.4.2).
        let unspecified = header.src_addr.is_unspecified();
        let detects = unspecified && header.next_header == IpProtocol::Icmpv6;
        if !(detects || self.cx.config.is_guest(ends.0)) {
            return Err(Drop::Spoofed);
        }
        if !unspecified && !header.src_addr.is_unicast_link_local() {
            self.cx.guest_ipv6 = Some(header.src_addr);
        }
        if header.next_header != IpProtocol::Ipv6Frag {
            return self.ipv6_payload(&header, packet.payload(), sums);
        }
        // Next header, a reserved byte, offset and the flag, identification (RFC 8200, section 4.5).
        let (part, payload) = packet.payload().split_first_chunk::<8>().ok_or(Drop::Malformed)?;
        let [next, _, high, low, id @ ..] = *part;
        let next_header = IpProtocol::from(next);
        let offset = usize::from(u16::from_be_bytes([high, low]) & !7);
        let place = FragmentPlace { offset, more: low & 1 != 0 };
        let identification = u32::from_be_bytes(id);
        let name = Name { ends, protocol: next_header, identification };
        match self.fragment(name, place, payload)? {
            Some(whole) => {
                let header = Ipv6Repr { next_header, payload_len: whole.len(), ..header };
                self.ipv6_payload(&header, &whole, sums)
            }
            None => Ok(()),
        }
    }

    fn ipv6_payload(
        &mut self,
        header: &Ipv6Repr,
        bytes: &[u8],
        sums: &ChecksumCapabilities,
    ) -> Result<(), Drop> {
        let ends = (header.src_addr.into(), header.dst_addr.into());
        match header.next_header {
            IpProtocol::Tcp => self.tcp_segment(ends, bytes, sums),
            IpProtocol::Udp => self.udp_datagram(ends, bytes, sums),
            IpProtocol::Icmpv6 => {
                let message = Icmpv6Packet::new_checked(bytes).map_err(|_| Drop::Malformed)?;
                let message = Icmpv6Repr::parse(&header.src_addr, &header.dst_addr, &message, sums)
                    .map_err(|_| Drop::Malformed)?;
                match message {
                    // From the link itself, not through a router (RFC 4861, section 6.1).
                    Icmpv6Repr::Ndisc(message) if header.hop_limit == 255 => {
                        link::neighbor(&mut self.cx, header.src_addr, &message);
                    }
                    Icmpv6Repr::EchoRequest { ident, seq_no, data }
                        if !header.src_addr.is_unspecified() =>
                    {
                        let echo = Echo { identifier: ident, sequence: seq_no, data };
                        self.pings.request(&mut self.cx, ends.0, ends.1, echo);
                    }
                    _ => return Err(Drop::Ignored),
                }
                Ok(())
            }
            _ => Err(Drop::Ignored),
        }
    }

    /// Whether it was for the DHCP server.
    fn dhcp(
        &mut self,
        ends: (IpAddr, IpAddr),
        bytes: &[u8],
        sums: &ChecksumCapabilities,
    ) -> Result<bool, Drop> {
        let packet = UdpPacket::new_checked(bytes).map_err(|_| Drop::Malformed)?;
        let to = [IpAddr::V4(Ipv4Addr::BROADCAST), self.cx.config.ipv4.gateway.into()];
        let from = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), self.cx.config.ipv4.guest.into()];
        let ports = (packet.src_port(), packet.dst_port()) == (DHCP_CLIENT_PORT, DHCP_SERVER_PORT);
        if !ports || !to.contains(&ends.1) || !from.contains(&ends.0) {
            return Ok(false);
        }
        UdpRepr::parse(&packet, &ends.0.into(), &ends.1.into(), sums)
            .map_err(|_| Drop::Malformed)?;
        dhcp::datagram(&mut self.cx, packet.payload()).ok_or(Drop::Malformed)?;
        Ok(true)
    }

    fn tcp_segment(
        &mut self,
        ends: (IpAddr, IpAddr),
        bytes: &[u8],
        sums: &ChecksumCapabilities,
    ) -> Result<(), Drop> {
        let packet = TcpPacket::new_checked(bytes).map_err(|_| Drop::Malformed)?;
        let segment = TcpRepr::parse(&packet, &ends.0.into(), &ends.1.into(), sums)
            .map_err(|_| Drop::Malformed)?;
        let guest = SocketAddr::new(ends.0, segment.src_port);
        let remote = SocketAddr::new(ends.1, segment.dst_port);
        if !self.is_one(ends.1) {
            return Err(Drop::Ignored);
        }
        self.tcp.segment(&mut self.cx, Flow { guest, remote }, &segment, |cx| {
            match cx.config.place(remote.ip()) {
                Place::Dns if remote.port() == DNS_PORT => dns::servers(&mut cx.host),
                _ => cx.config.outside(remote).into_iter().collect(),
            }
        });
        Ok(())
    }

    fn udp_datagram(
        &mut self,
        ends: (IpAddr, IpAddr),
        bytes: &[u8],
        sums: &ChecksumCapabilities,
    ) -> Result<(), Drop> {
        let packet = UdpPacket::new_checked(bytes).map_err(|_| Drop::Malformed)?;
        let header = UdpRepr::parse(&packet, &ends.0.into(), &ends.1.into(), sums)
            .map_err(|_| Drop::Malformed)?;
        let guest = SocketAddr::new(ends.0, header.src_port);
        let remote = SocketAddr::new(ends.1, header.dst_port);
        if !self.is_one(ends.1) || guest.port() == 0 {
            return Err(Drop::Ignored);
        }
        if self.cx.config.place(ends.1) == Place::Dns && remote.port() == DNS_PORT {
            return self
                .dns
                .query(&mut self.cx, guest, remote, packet.payload())
                .ok_or(Drop::Malformed);
        }
        let target = self.cx.config.outside(remote);
        let flow = Flow { guest, remote };
        self.udp.datagram(&mut self.cx, &mut self.forwards, flow, packet.payload(), target);
        Ok(())
    }

    /// Whether an address is one host's: groups are answered by silence.
    fn is_one(&self, address: IpAddr) -> bool {
        let network = self.cx.config.ipv4.gateway.octets();
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                !address.is_broadcast()
                    && !address.is_multicast()
                    && ([a, b, c] != network[..3] || d != 255)
            }
            IpAddr::V6(address) => !address.is_multicast(),
        }
    }
}
