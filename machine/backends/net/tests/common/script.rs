//! A scripted guest, made of frames by smoltcp's `wire`, over a host that does what the test says.
#![allow(unreachable_pub, reason = "a module of test programs")]
#![allow(dead_code, reason = "each test program uses its part")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use net::{Config, Datagrams, FRAME_MAX, Host, Key, Ready, Stack, Stream};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
    Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

#[derive(Default)]
pub struct Wires {
    pub key: Option<Key>,
    pub to: Option<SocketAddr>,
    pub connected: bool,
    pub refused: bool,
    pub from_guest: Vec<u8>,
    pub room: usize,
    pub to_guest: VecDeque<u8>,
    pub ended: bool,
    pub finished: bool,
    pub aborted: bool,
    pub resolvers: Vec<SocketAddr>,
}

#[derive(Clone, Default)]
pub struct Fake(pub Rc<RefCell<Wires>>);

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
        self.0.borrow().resolvers.clone()
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

pub struct Script {
    pub stack: Stack<Fake>,
    pub wires: Rc<RefCell<Wires>>,
    pub buffer: Vec<u8>,
    /// Where the guest's segments go.
    pub remote: Ipv4Addr,
}

/// A TCP segment to the guest, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub control: TcpControl,
    pub at: u32,
    pub ack: Option<u32>,
    pub window: u16,
    pub payload: Vec<u8>,
    /// What the segment says is here already.
    pub blocks: Vec<(u32, u32)>,
    pub selective: bool,
}

impl Script {
    pub fn new() -> Self {
        let fake = Fake::default();
        let wires = Rc::clone(&fake.0);
        wires.borrow_mut().room = usize::MAX;
        let config = Config { ipv6: None, ..Config::default() };
        Self {
            stack: Stack::new(config, fake).expect("sound"),
            wires,
            buffer: vec![0; FRAME_MAX],
            remote: WORLD,
        }
    }

    pub fn ethernet(protocol: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
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
    pub fn ip(&mut self, from: Ipv4Addr, to: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) {
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

    pub fn tcp(
        &mut self,
        control: TcpControl,
        at: u32,
        ack: Option<u32>,
        window: u16,
        payload: &[u8],
    ) {
        self.segment(&TcpRepr {
            max_seg_size: (control == TcpControl::Syn).then_some(100),
            ..Self::plain(control, at, ack, window, payload)
        });
    }

    /// A segment without options.
    pub fn plain(
        control: TcpControl,
        at: u32,
        ack: Option<u32>,
        window: u16,
        payload: &[u8],
    ) -> TcpRepr<'_> {
        TcpRepr {
            src_port: 40_000,
            dst_port: 80,
            control,
            seq_number: TcpSeqNumber(at as i32),
            ack_number: ack.map(|ack| TcpSeqNumber(ack as i32)),
            window_len: window,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        }
    }

    pub fn segment(&mut self, segment: &TcpRepr<'_>) {
        let mut bytes = vec![0; segment.buffer_len()];
        let (from, to) = (GUEST.into(), self.remote.into());
        segment.emit(
            &mut TcpPacket::new_unchecked(&mut bytes),
            &from,
            &to,
            &ChecksumCapabilities::default(),
        );
        self.ip(GUEST, self.remote, IpProtocol::Tcp, &bytes);
    }

    pub fn udp(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
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
    pub fn packet(&mut self) -> Option<(Ipv4Repr, Vec<u8>)> {
        let frame = self.stack.next_frame(&mut self.buffer)?;
        let packet = Ipv4Packet::new_checked(&self.buffer[14..frame.length]).expect("a packet");
        let header = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).expect("sound");
        Some((header, packet.payload().to_vec()))
    }

    pub fn seen(&mut self) -> Option<Seen> {
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
            blocks: segment.sack_ranges.into_iter().flatten().collect(),
            selective: segment.sack_permitted,
        })
    }

    pub fn event(&mut self) {
        let key = self.wires.borrow().key.expect("a socket");
        self.stack.host_event(key, Ready { read: true, write: true });
    }

    /// A connection that stands; answers with our first sequence number. The guest's is 1000.
    pub fn connection(&mut self) -> u32 {
        self.tcp(TcpControl::Syn, 999, None, 1000, &[]);
        self.wires.borrow_mut().connected = true;
        self.event();
        let syn = self.seen().expect("a SYN-ACK");
        assert_eq!((syn.control, syn.ack), (TcpControl::Syn, Some(1000)));
        self.tcp(TcpControl::None, 1000, Some(syn.at.wrapping_add(1)), 1000, &[]);
        syn.at.wrapping_add(1)
    }
}
