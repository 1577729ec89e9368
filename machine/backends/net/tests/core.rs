//! The core without any network: a scripted guest, made of frames by smoltcp's `wire`, over a host that
//! does what the test says, at times that the test says.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use net::{Config, Datagrams, FRAME_MAX, Host, Key, Ready, Stack, Stream};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
    EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet, Icmpv4Repr, IpProtocol,
    Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

#[derive(Default)]
struct Wires {
    key: Option<Key>,
    to: Option<SocketAddr>,
    connected: bool,
    refused: bool,
    from_guest: Vec<u8>,
    room: usize,
    to_guest: VecDeque<u8>,
    ended: bool,
    finished: bool,
    aborted: bool,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Wires>>);

fn no() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

impl Host for Fake {
    type Stream = Self;
    type Listener = ();
    type Datagrams = Self;

    fn connect(&mut self, key: Key, to: SocketAddr) -> io::Result<Self> {
        let mut wires = self.0.borrow_mut();
        (wires.key, wires.to) = (Some(key), Some(to));
        Ok(self.clone())
    }
    fn listen(&mut self, _: Key, _: SocketAddr) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn accept(&mut self, (): &mut (), _: Key) -> io::Result<Self> {
        Err(no())
    }
    fn datagrams_to(&mut self, key: Key, to: SocketAddr) -> io::Result<Self> {
        self.connect(key, to)
    }
    fn datagrams_at(&mut self, key: Key, at: SocketAddr) -> io::Result<Self> {
        self.connect(key, at)
    }
    fn ping(&mut self, _: Key, _: IpAddr) -> io::Result<Self> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn resolvers(&mut self) -> Vec<SocketAddr> {
        Vec::new()
    }
}

impl Stream for Fake {
    fn connected(&mut self) -> io::Result<bool> {
        let wires = self.0.borrow();
        if wires.refused {
            Err(io::ErrorKind::ConnectionRefused.into())
        } else {
            Ok(wires.connected)
        }
    }
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut wires = self.0.borrow_mut();
        let count = bytes.len().min(wires.room);
        wires.room -= count;
        wires.from_guest.extend(&bytes[..count]);
        if count == 0 { Err(no()) } else { Ok(count) }
    }
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut wires = self.0.borrow_mut();
        let count = buffer.len().min(wires.to_guest.len());
        for (to, from) in buffer.iter_mut().zip(wires.to_guest.drain(..count)) {
            *to = from;
        }
        if count == 0 && !wires.ended { Err(no()) } else { Ok(count) }
    }
    fn finish(&mut self) -> io::Result<()> {
        self.0.borrow_mut().finished = true;
        Ok(())
    }
    fn abort(&mut self) {
        self.0.borrow_mut().aborted = true;
    }
}

impl Datagrams for Fake {
    fn send(&mut self, bytes: &[u8], _: Option<SocketAddr>) -> io::Result<()> {
        self.0.borrow_mut().from_guest.extend(bytes);
        Ok(())
    }
    fn receive(&mut self, _: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Err(no())
    }
}

struct Script {
    stack: Stack<Fake>,
    wires: Rc<RefCell<Wires>>,
    buffer: Vec<u8>,
}

/// A TCP segment to the guest, in short.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    control: TcpControl,
    at: u32,
    ack: Option<u32>,
    window: u16,
    payload: Vec<u8>,
}

impl Script {
    fn new() -> Self {
        let fake = Fake::default();
        let wires = Rc::clone(&fake.0);
        wires.borrow_mut().room = usize::MAX;
        let config = Config { ipv6: None, ..Config::default() };
        Self { stack: Stack::new(config, fake).expect("sound"), wires, buffer: vec![0; FRAME_MAX] }
    }

    fn ethernet(protocol: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
        let config = Config::default();
        let mut frame = vec![0; 14 + payload.len()];
        EthernetRepr {
            src_addr: EthernetAddress(config.guest_mac),
            dst_addr: EthernetAddress(config.gateway_mac),
            ethertype: protocol,
        }
        .emit(&mut EthernetFrame::new_unchecked(&mut frame));
        frame[14..].copy_from_slice(payload);
        frame
    }

    /// Sends a packet, in fragments if it is too long for the link, the last one first.
    fn ip(&mut self, from: Ipv4Addr, to: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) {
        const MOST: usize = 1480;
        let pieces: Vec<&[u8]> = payload.chunks(MOST).collect();
        for (index, piece) in pieces.iter().enumerate().rev() {
            let header = Ipv4Repr {
                src_addr: from,
                dst_addr: to,
                next_header: protocol,
                payload_len: piece.len(),
                hop_limit: 64,
            };
            let mut bytes = vec![0; 20 + piece.len()];
            let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
            header.emit(&mut packet, &ChecksumCapabilities::default());
            if pieces.len() > 1 {
                packet.set_dont_frag(false);
                packet.set_ident(77);
                packet.set_more_frags(index + 1 < pieces.len());
                packet.set_frag_offset((index * MOST) as u16);
                packet.fill_checksum();
            }
            bytes[20..].copy_from_slice(piece);
            self.stack.guest_sends(&Self::ethernet(EthernetProtocol::Ipv4, &bytes));
        }
    }

    fn tcp(&mut self, control: TcpControl, at: u32, ack: Option<u32>, window: u16, payload: &[u8]) {
        let segment = TcpRepr {
            src_port: 40_000,
            dst_port: 80,
            control,
            seq_number: TcpSeqNumber(at as i32),
            ack_number: ack.map(|ack| TcpSeqNumber(ack as i32)),
            window_len: window,
            window_scale: None,
            max_seg_size: (control == TcpControl::Syn).then_some(100),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        let mut bytes = vec![0; segment.buffer_len()];
        let (from, to) = (GUEST.into(), WORLD.into());
        segment.emit(
            &mut TcpPacket::new_unchecked(&mut bytes),
            &from,
            &to,
            &ChecksumCapabilities::default(),
        );
        self.ip(GUEST, WORLD, IpProtocol::Tcp, &bytes);
    }

    fn udp(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let (IpAddr::V4(source), IpAddr::V4(target)) = (from.ip(), to.ip()) else {
            panic!("IPv4 only")
        };
        let mut bytes = vec![0; 8 + payload.len()];
        UdpRepr { src_port: from.port(), dst_port: to.port() }.emit(
            &mut UdpPacket::new_unchecked(&mut bytes),
            &source.into(),
            &target.into(),
            payload.len(),
            |room| room.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
        self.ip(source, target, IpProtocol::Udp, &bytes);
    }

    /// The next frame's IP payload, checked.
    fn packet(&mut self) -> Option<(Ipv4Repr, Vec<u8>)> {
        let frame = self.stack.next_frame(&mut self.buffer)?;
        let packet = Ipv4Packet::new_checked(&self.buffer[14..frame.length]).expect("a packet");
        let header = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).expect("sound");
        Some((header, packet.payload().to_vec()))
    }

    fn seen(&mut self) -> Option<Seen> {
        let (header, bytes) = self.packet()?;
        let packet = TcpPacket::new_checked(&bytes[..]).expect("a segment");
        let sums = ChecksumCapabilities::default();
        let segment =
            TcpRepr::parse(&packet, &header.src_addr.into(), &header.dst_addr.into(), &sums)
                .expect("sound");
        Some(Seen {
            control: segment.control,
            at: segment.seq_number.0 as u32,
            ack: segment.ack_number.map(|ack| ack.0 as u32),
            window: segment.window_len,
            payload: segment.payload.to_vec(),
        })
    }

    fn event(&mut self) {
        let key = self.wires.borrow().key.expect("a socket");
        self.stack.host_event(key, Ready { read: true, write: true });
    }

    /// A connection that stands; answers with our first sequence number. The guest's is 1000.
    fn connection(&mut self) -> u32 {
        self.tcp(TcpControl::Syn, 999, None, 1000, &[]);
        self.wires.borrow_mut().connected = true;
        self.event();
        let syn = self.seen().expect("a SYN-ACK");
        assert_eq!((syn.control, syn.ack), (TcpControl::Syn, Some(1000)));
        self.tcp(TcpControl::None, 1000, Some(syn.at.wrapping_add(1)), 1000, &[]);
        syn.at.wrapping_add(1)
    }
}

#[test]
fn the_guest_hears_of_a_connection_only_when_the_host_has_it() {
    let mut script = Script::new();
    script.tcp(TcpControl::Syn, 999, None, 1000, &[]);
    assert_eq!(script.wires.borrow().to, Some((WORLD, 80).into()));
    assert_eq!(script.seen(), None, "the host still connects");
    script.wires.borrow_mut().refused = true;
    script.event();
    let reset = script.seen().expect("a reset");
    assert_eq!((reset.control, reset.ack), (TcpControl::Rst, Some(1000)));
    assert_eq!(script.stack.flows().0, 0);
}

#[test]
fn a_lost_segment_is_sent_again_after_three_duplicates_and_by_time() {
    let mut script = Script::new();
    let first = script.connection();
    script.wires.borrow_mut().to_guest.extend([1; 400]);
    script.event();
    let sent: Vec<u32> =
        std::iter::from_fn(|| script.seen()).map(|one| one.at.wrapping_sub(first)).collect();
    assert_eq!(sent, [0, 100, 200, 300]);
    for _ in 0..3 {
        assert_eq!(script.seen(), None);
        script.tcp(TcpControl::None, 1000, Some(first), 1000, &[]);
    }
    let again = script.seen().expect("fast retransmission");
    assert_eq!((again.at, again.payload.len()), (first, 100));
    assert_eq!(script.seen(), None);
    // Nothing comes back: the timer sends it again, later each time, and gives up at last.
    let (mut now, mut waits) = (Duration::ZERO, Vec::new());
    while script.stack.flows().0 > 0 {
        let due = script.stack.deadline().expect("a timer");
        script.stack.advance(due);
        if let Some(again) = script.seen() {
            if again.control == TcpControl::Rst {
                break;
            }
            assert_eq!(again.at, first);
            waits.push(due - now);
            now = due;
        }
    }
    assert!(waits.len() >= 5 && waits.windows(2).skip(1).all(|two| two[0] <= two[1]), "{waits:?}");
    assert_eq!((script.stack.flows().0, script.wires.borrow().aborted), (0, true));
}

#[test]
fn segments_out_of_order_reach_the_host_in_order_and_ask_for_what_is_missing() {
    let mut script = Script::new();
    let first = script.connection();
    for (at, text) in [(1003, b"def"), (1006, b"ghi")] {
        script.tcp(TcpControl::Psh, at, Some(first), 1000, text);
        assert_eq!(script.seen().expect("a duplicate").ack, Some(1000));
    }
    script.tcp(TcpControl::Psh, 1000, Some(first), 1000, b"abcd");
    assert_eq!(script.wires.borrow().from_guest, b"abcdefghi");
    assert_eq!(script.seen().expect("an acknowledgement").ack, Some(1009));
    script.tcp(TcpControl::Fin, 1009, Some(first), 1000, b"!");
    assert!(script.wires.borrow().finished);
    assert_eq!(script.seen().expect("an acknowledgement").ack, Some(1011));
}

#[test]
fn a_closed_window_is_probed_and_a_full_host_closes_ours() {
    let mut script = Script::new();
    let first = script.connection();
    script.tcp(TcpControl::None, 1000, Some(first), 0, &[]);
    script.wires.borrow_mut().to_guest.extend([1; 50]);
    script.event();
    assert_eq!(script.seen(), None, "the window is closed");
    script.stack.advance(script.stack.deadline().expect("a timer"));
    let probe = script.seen().expect("a probe");
    assert_eq!((probe.at, probe.payload.len()), (first, 1));
    script.tcp(TcpControl::None, 1000, Some(first.wrapping_add(1)), 1000, &[]);
    assert_eq!(script.seen().expect("the rest").payload.len(), 49);
    // Ours, unscaled as the guest asked.
    script.wires.borrow_mut().room = 0;
    let (mut at, mut window) = (1000, u32::MAX);
    while window > 0 {
        script.tcp(TcpControl::Psh, at, Some(first.wrapping_add(50)), 1000, &[2; 1000]);
        let seen = script.seen().expect("an acknowledgement");
        let ack = seen.ack.expect("always");
        assert!(ack == at + 1000 || u32::from(seen.window) < 1000);
        if ack == at {
            break;
        }
        (at, window) = (ack, u32::from(seen.window));
    }
    assert!((60_000..66_000).contains(&(at - 1000)), "{} bytes are held", at - 1000);
    script.wires.borrow_mut().room = usize::MAX;
    script.event();
    assert!(script.seen().expect("the window opens").window > 30_000);
    assert_eq!(script.wires.borrow().from_guest.len() as u32, at - 1000);
}

#[test]
fn dhcp_gives_the_one_address_with_name_server_mtu_and_name() {
    let mut script = Script::new();
    let mac = EthernetAddress(Config::default().guest_mac);
    let mut ask = |kind, requested| {
        let request = DhcpRepr {
            message_type: kind,
            transaction_id: 77,
            secs: 0,
            client_hardware_address: mac,
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: requested,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).expect("room");
        script.udp((Ipv4Addr::UNSPECIFIED, 68).into(), (Ipv4Addr::BROADCAST, 67).into(), &bytes);
        let (_, bytes) = script.packet().expect("an answer");
        bytes[8..].to_vec()
    };
    for (kind, requested, expected) in [
        (DhcpMessageType::Discover, None, DhcpMessageType::Offer),
        (DhcpMessageType::Request, Some(GUEST), DhcpMessageType::Ack),
        (DhcpMessageType::Request, Some(WORLD), DhcpMessageType::Nak),
    ] {
        let bytes = ask(kind, requested);
        let packet = DhcpPacket::new_checked(&bytes[..]).expect("a message");
        let reply = DhcpRepr::parse(&packet).expect("sound");
        assert_eq!((reply.message_type, reply.transaction_id), (expected, 77));
        let option =
            |kind| packet.options().find(|one| one.kind == kind).map(|one| one.data.to_vec());
        if expected == DhcpMessageType::Nak {
            assert_eq!(option(6), None);
        } else {
            assert_eq!((reply.your_ip, reply.router), (GUEST, Some(GATEWAY)));
            assert_eq!(option(6), Some(vec![10, 0, 2, 3]));
            assert_eq!(option(26), Some(1500_u16.to_be_bytes().to_vec()));
            assert_eq!(option(12), Some(b"oneroof".to_vec()));
        }
    }
}

#[test]
fn the_gateway_answers_arp_and_ping_and_others_do_not_without_ping_sockets() {
    let mut script = Script::new();
    for (target, answered) in
        [(GATEWAY, true), (GUEST, false), (Ipv4Addr::new(10, 0, 2, 99), false)]
    {
        let request = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(Config::default().guest_mac),
            source_protocol_addr: GUEST,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        };
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        script.stack.guest_sends(&Script::ethernet(EthernetProtocol::Arp, &bytes));
        assert_eq!(script.stack.next_frame(&mut script.buffer).is_some(), answered, "{target}");
    }
    for (target, answered) in [(GATEWAY, true), (WORLD, false)] {
        let echo = Icmpv4Repr::EchoRequest { ident: 3, seq_no: 4, data: b"ping" };
        let mut bytes = vec![0; echo.buffer_len()];
        echo.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
        script.ip(GUEST, target, IpProtocol::Icmp, &bytes);
        let reply = script.packet();
        assert_eq!(reply.is_some(), answered, "{target}");
        if let Some((_, bytes)) = reply {
            let packet = Icmpv4Packet::new_checked(&bytes[..]).expect("a message");
            let reply =
                Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).expect("sound");
            assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 3, seq_no: 4, data: b"ping" });
        }
    }
}

#[test]
fn senders_other_than_the_guest_are_dropped_and_counted() {
    let mut script = Script::new();
    script.udp((Ipv4Addr::new(10, 0, 2, 16), 9).into(), (WORLD, 9).into(), b"x");
    script.udp((WORLD, 9).into(), (WORLD, 9).into(), b"x");
    let mut frame = Script::ethernet(EthernetProtocol::Ipv4, &[0; 40]);
    frame[6] ^= 2;
    script.stack.guest_sends(&frame);
    assert_eq!((script.stack.counters().spoofed, script.stack.flows()), (3, (0, 0)));
    assert!(script.wires.borrow().from_guest.is_empty());
}

#[test]
fn what_is_longer_than_the_link_s_packets_goes_in_fragments() {
    let mut script = Script::new();
    let payload: Vec<u8> = (0..5000).map(|at| (at / 7) as u8).collect();
    script.udp((GUEST, 5000).into(), (WORLD, 9).into(), &payload);
    assert_eq!(script.wires.borrow().from_guest, payload);
    let echo = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: &payload };
    let mut bytes = vec![0; echo.buffer_len()];
    let sums = ChecksumCapabilities::default();
    echo.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &sums);
    script.ip(GUEST, GATEWAY, IpProtocol::Icmp, &bytes);
    let (mut whole, mut more) = (Vec::new(), true);
    while more {
        let frame = script.stack.next_frame(&mut script.buffer).expect("another fragment");
        assert!(frame.length <= 1514);
        let packet = Ipv4Packet::new_checked(&script.buffer[14..frame.length]).expect("a packet");
        assert!(packet.verify_checksum() && !packet.dont_frag());
        assert_eq!(usize::from(packet.frag_offset()), whole.len());
        whole.extend_from_slice(packet.payload());
        more = packet.more_frags();
    }
    let packet = Icmpv4Packet::new_checked(&whole[..]).expect("a message");
    let reply = Icmpv4Repr::parse(&packet, &sums).expect("a sound sum");
    assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 1, seq_no: 2, data: &payload });
    assert!(script.stack.next_frame(&mut script.buffer).is_none());
}

#[test]
fn a_thousand_and_more_flows_stay_within_the_tables() {
    let mut script = Script::new();
    for port in 1..3000 {
        script.udp((GUEST, port).into(), (WORLD, 9).into(), b"x");
    }
    assert_eq!(script.stack.flows().1, net::limits::FLOWS);
    script.stack.advance(Duration::from_secs(200));
    assert_eq!(script.stack.flows().1, 0, "idle flows end");
}
