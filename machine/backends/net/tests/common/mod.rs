//! A guest for tests: smoltcp's TCP/IP stack, an independent peer, on a link that can lose, repeat and
//! reorder frames both ways, before a network on real sockets.
#![allow(unreachable_pub, reason = "a module of test programs")]
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use net::host::Sockets;
use net::{Config, FRAME_MAX, Incoming, Network, Offload};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

/// Frames in a thousand that suffer each of loss, repetition and delay, each way.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub lost: u64,
    pub twice: u64,
    pub late: u64,
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// One direction with its faults.
struct Lane {
    faults: Faults,
    random: Random,
    late: Option<Vec<u8>>,
}

impl Lane {
    fn pass(&mut self, frame: Vec<u8>, mut out: impl FnMut(Vec<u8>)) {
        let hits = |random: &mut Random, chance: u64| random.next() % 1000 < chance;
        if hits(&mut self.random, self.faults.lost) {
            return;
        }
        if self.late.is_none() && hits(&mut self.random, self.faults.late) {
            self.late = Some(frame);
            return;
        }
        if hits(&mut self.random, self.faults.twice) {
            out(frame.clone());
        }
        out(frame);
        if let Some(late) = self.late.take() {
            out(late);
        }
    }
}

pub struct Wire {
    pub network: Network,
    up: Lane,
    down: Lane,
    arrived: VecDeque<Vec<u8>>,
    buffer: Vec<u8>,
    mtu: usize,
    /// The largest frame that came.
    pub largest: usize,
    offload: bool,
    /// Copies of what came, if asked for.
    pub record: Option<Vec<Vec<u8>>>,
}

impl Wire {
    fn send(&mut self, frame: Vec<u8>) {
        let stack = self.network.stack();
        self.up.pass(frame, |frame| stack.guest_sends_with(&frame, Incoming::default()));
    }

    fn fetch(&mut self) {
        while self.arrived.len() < 64 {
            let Some(frame) = self.network.stack().next_frame(&mut self.buffer) else { return };
            self.largest = self.largest.max(frame.length);
            assert!(self.offload || frame.checksum.is_none(), "nobody asked for it");
            let is_one = frame.segments.is_none();
            assert!(!is_one || frame.length <= self.mtu + 14, "{} bytes", frame.length);
            let bytes = self.buffer[..frame.length].to_vec();
            if let Some(record) = &mut self.record {
                record.push(bytes.clone());
            }
            let arrived = &mut self.arrived;
            self.down.pass(bytes, |frame| arrived.push_back(frame));
        }
    }
}

pub struct Take(Vec<u8>);
pub struct Give<'a>(&'a mut Wire);

impl phy::RxToken for Take {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Give<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.send(frame);
        result
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = Take;
    type TxToken<'a> = Give<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Take, Give<'_>)> {
        self.fetch();
        let frame = self.arrived.pop_front()?;
        Some((Take(frame), Give(self)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Give<'_>> {
        Some(Give(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut can = DeviceCapabilities::default();
        can.medium = Medium::Ethernet;
        can.max_transmission_unit = self.mtu + 14;
        if self.offload {
            can.checksum.tcp = phy::Checksum::Tx;
        }
        can
    }
}

pub struct Guest {
    pub wire: Wire,
    pub iface: Interface,
    pub sockets: SocketSet<'static>,
    started: Instant,
    next_port: u16,
}

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd6f, 0x6e65, 0x726f, 0x6f66, 0, 0, 0, 0x15);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd6f, 0x6e65, 0x726f, 0x6f66, 0, 0, 0, 2);

/// A configuration whose gateway is the host's loopback, where the tests' services are.
pub fn open_config() -> Config {
    Config { host_loopback: true, seed: 42, ..Config::default() }
}

impl Guest {
    pub fn new(config: Config, faults: Faults) -> Self {
        Self::build(config, faults, Vec::new(), false)
    }

    /// A guest that takes large segments and unfinished checksums.
    pub fn with_offload(config: Config, faults: Faults) -> Self {
        Self::build(config, faults, Vec::new(), true)
    }

    pub fn with_resolvers(config: Config, resolvers: Vec<SocketAddr>) -> Self {
        Self::build(config, Faults::default(), resolvers, false)
    }

    fn build(config: Config, faults: Faults, resolvers: Vec<SocketAddr>, offload: bool) -> Self {
        let mut host = Sockets::new().expect("descriptors are left");
        host.set_resolvers(resolvers);
        let mtu = usize::from(config.mtu);
        let mac = EthernetAddress(config.guest_mac);
        let mut network = Network::new(config, host).expect("a network");
        network.stack().set_offload(Offload { checksum: offload, tcp4: offload, tcp6: offload });
        let lane = |seed| Lane { faults, random: Random(seed), late: None };
        let mut wire = Wire {
            network,
            up: lane(1),
            down: lane(2),
            arrived: VecDeque::new(),
            buffer: vec![0; FRAME_MAX],
            mtu,
            largest: 0,
            offload,
            record: None,
        };
        let mut setup = smoltcp::iface::Config::new(HardwareAddress::Ethernet(mac));
        setup.random_seed = 7;
        let mut iface = Interface::new(setup, &mut wire, smoltcp::time::Instant::ZERO);
        iface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(Ipv4Addr::new(10, 0, 2, 15).into(), 24)).expect("room");
            addresses.push(IpCidr::new(GUEST6.into(), 64)).expect("room");
        });
        iface.routes_mut().add_default_ipv4_route(GATEWAY).expect("room");
        iface.routes_mut().add_default_ipv6_route(GATEWAY6).expect("room");
        Self {
            wire,
            iface,
            sockets: SocketSet::new(Vec::new()),
            started: Instant::now(),
            next_port: 40_000,
        }
    }

    pub fn poll(&mut self) {
        self.wire.network.poll();
        let now = smoltcp::time::Instant::from_micros(self.started.elapsed().as_micros() as i64);
        self.iface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// Polls until `done` says so.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        loop {
            self.poll();
            if done(self) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(100), "{what}: not within 100 seconds");
            self.poll();
            if self.wire.arrived.is_empty() {
                let now =
                    smoltcp::time::Instant::from_micros(self.started.elapsed().as_micros() as i64);
                let delay = self
                    .iface
                    .poll_delay(now, &self.sockets)
                    .map_or(5000, |delay| delay.total_micros());
                let limit = Duration::from_micros(delay.min(5000));
                self.wire.network.watch().wait_for(Some(limit));
            }
        }
    }

    /// Polls for a while.
    pub fn idle(&mut self, time: Duration) {
        let start = Instant::now();
        self.until("idling", |_| start.elapsed() >= time);
    }

    pub fn tcp_socket(&mut self, bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    pub fn connect(&mut self, to: SocketAddr, bytes: usize) -> SocketHandle {
        let handle = self.tcp_socket(bytes);
        self.next_port += 1;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.iface.context(), to, self.next_port).expect("a closed socket connects");
        handle
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn udp_socket(&mut self, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 65_536]);
        let handle = self.sockets.add(udp::Socket::new(buffer(), buffer()));
        self.udp(handle).bind(port).expect("a free port");
        handle
    }

    pub fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

/// Bytes `from..` of a stream that repeats nowhere near.
pub fn pattern(from: usize, buffer: &mut [u8]) {
    for (index, byte) in buffer.iter_mut().enumerate() {
        let at = (from + index) as u64;
        *byte = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    }
}

/// A sum over a stream of bytes in order (FNV-1a).
pub struct Sum(pub u64);

impl Sum {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The sum of the first `total` bytes of [`pattern`].
pub fn pattern_sum(total: usize) -> u64 {
    let (mut sum, mut at, mut buffer) = (Sum::new(), 0, vec![0; 65_536]);
    while at < total {
        let count = buffer.len().min(total - at);
        pattern(at, &mut buffer[..count]);
        sum.add(&buffer[..count]);
        at += count;
    }
    sum.0
}
