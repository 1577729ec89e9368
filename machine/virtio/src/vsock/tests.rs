//! A driver's packets against a host in memory, and against real Unix sockets.

mod saved;

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use super::connection::BUFFER;
use super::packet::{HOST_CID, NO_MORE_READS, NO_MORE_WRITES, STREAM, operation};
use super::*;
use crate::testing::{Guest, Recorder};

const CID: u32 = 42;
const SLOT: u64 = 0x4000;
const SENT: u64 = 0x2_0000;
const ROOM: u64 = 0x8_0000;
const BUFFERS: u16 = 16;

/// What the host's programs have and get, by key; streams of port 7 exist.
#[derive(Default)]
struct World {
    to_guest: BTreeMap<u64, VecDeque<u8>>,
    from_guest: BTreeMap<u64, Vec<u8>>,
    /// Bytes that a stream still takes; more than that blocks.
    room: usize,
    ended: bool,
    guest_ended: bool,
    incoming: Vec<u32>,
    opened: Vec<u32>,
    stirred: Vec<Stirred>,
    live: usize,
    /// Streams of a device that was saved are still there.
    reopens: bool,
}

#[derive(Clone)]
struct InMemory(Arc<Mutex<World>>);

struct Pipe(InMemory, u64);

impl InMemory {
    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.0.lock().expect("not poisoned")
    }

    fn stream(&self) -> Box<dyn Stream> {
        self.world().live += 1;
        Box::new(Pipe(self.clone(), 0))
    }
}

impl Host for InMemory {
    fn attach(&mut self, _waker: Option<Waker>) {}

    fn connect(&mut self, port: u32) -> io::Result<Box<dyn Stream>> {
        match port {
            7 => Ok(self.stream()),
            _ => Err(ErrorKind::ConnectionRefused.into()),
        }
    }

    fn accept(&mut self) -> Option<(u32, Box<dyn Stream>)> {
        let port = self.world().incoming.pop()?;
        Some((port, self.stream()))
    }

    fn reopen(&mut self, _guest_port: u32, _host_port: u32) -> Option<Box<dyn Stream>> {
        let reopens = self.world().reopens;
        reopens.then(|| self.stream())
    }

    fn stirred(&mut self) -> Vec<Stirred> {
        std::mem::take(&mut self.world().stirred)
    }
}

impl Stream for Pipe {
    fn watch(&mut self, key: u64) -> io::Result<()> {
        self.1 = key;
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut world = self.0.world();
        let ended = world.ended;
        let bytes = world.to_guest.entry(self.1).or_default();
        match bytes.read(into) {
            Ok(0) if !ended => Err(ErrorKind::WouldBlock.into()),
            read => read,
        }
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let mut world = self.0.world();
        let count = from.len().min(world.room);
        world.room -= count;
        world.from_guest.entry(self.1).or_default().extend(&from[..count]);
        if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn no_more_writes(&mut self) {
        self.0.world().guest_ended = true;
    }

    fn opened(&mut self, host_port: u32) {
        self.0.world().opened.push(host_port);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.0.world().live -= 1;
    }
}

/// A driver with its receive and transmit queues.
struct Bench {
    receive: Guest,
    transmit: Guest,
    queues: Queues,
    handler: Box<dyn Handler>,
    host: InMemory,
    /// Receive buffers offered and looked at.
    offered: u16,
    seen: u16,
}

type Packet = (u16, Header, Vec<u8>);

impl Bench {
    fn with(host: Box<dyn Host>, memory: InMemory) -> Self {
        let receive = Guest::new(BUFFERS);
        let transmit = receive.beside(SLOT * 2);
        let queues = [&receive, &transmit].map(|guest| Some(guest.queue(0).expect("sound")));
        let signals = crate::signals::Signals::new(Arc::new(Recorder::default()), 3);
        let worker = Arc::new(crate::Worker::new(Kind::Socket, true, signals, None));
        let handler = Vsock::new(CID, host).activate(0, worker.waker());
        let queues = Queues::new(queues.into_iter().chain([None]).collect());
        Self { receive, transmit, queues, handler, host: memory, offered: 0, seen: 0 }
    }

    fn new() -> Self {
        let host = InMemory(Arc::new(Mutex::new(World { room: usize::MAX, ..World::default() })));
        let mut bench = Self::with(Box::new(host.clone()), host);
        bench.offer_room(BUFFERS);
        bench
    }

    /// Gives the device so many more buffers of 4140 bytes.
    fn offer_room(&mut self, count: u16) {
        for _ in 0..count {
            let slot = self.offered % BUFFERS;
            self.receive.offer_chain(slot, &[(ROOM + u64::from(slot) * 0x2000, 4140, true)]);
            self.offered = self.offered.wrapping_add(1);
        }
    }

    fn go(&mut self) {
        for _ in 0..100 {
            self.handler.process(&mut self.queues).expect("sound rings");
            if !self.queues.take_results().1 {
                return;
            }
        }
        panic!("the device always wants to be called again");
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let bytes = [&header.encode()[..], data].concat();
        self.transmit.write(SENT, &bytes);
        self.transmit.offer_chain(0, &[(SENT, bytes.len() as u32, false)]);
        self.go();
    }

    /// What came since the last call; its buffers are offered again.
    fn got(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while self.seen != self.receive.used_index() {
            let (slot, length) = self.receive.used(self.seen);
            let bytes = self.receive.read(ROOM + u64::from(slot) * 0x2000, length as usize);
            let header = Header::decode(bytes[..HEADER].try_into().expect("a header"));
            assert_eq!((header.source_cid, header.destination_cid), (HOST_CID, CID.into()));
            packets.push((header.operation, header, bytes[HEADER..].to_vec()));
            self.seen = self.seen.wrapping_add(1);
        }
        self.offer_room(packets.len() as u16);
        packets
    }

    fn operations(&mut self) -> Vec<u16> {
        self.got().iter().map(|packet| packet.0).collect()
    }

    fn stir(&mut self, key: u64) {
        self.host.world().stirred.push(Stirred { key, hung_up: false });
        self.go();
    }
}

/// From the guest's port 1024 to the host's 7, with 64 KiB of room.
fn from_guest(operation: u16, length: usize) -> Header {
    Header {
        source_cid: CID.into(),
        destination_cid: HOST_CID,
        source_port: 1024,
        destination_port: 7,
        length: length as u32,
        kind: STREAM,
        operation,
        flags: 0,
        buffer: 64 << 10,
        forwarded: 0,
    }
}

const KEY: u64 = 1024 << 32 | 7;

fn connected() -> Bench {
    let mut bench = Bench::new();
    bench.send(from_guest(operation::REQUEST, 0), &[]);
    let packets = bench.got();
    assert_eq!(
        (packets.len(), packets[0].0, packets[0].1.buffer),
        (1, operation::RESPONSE, BUFFER)
    );
    bench
}

#[test]
fn a_guest_connects_and_bytes_go_both_ways() {
    let mut bench = connected();
    bench.send(from_guest(operation::DATA, 5), b"hello");
    assert_eq!(bench.host.world().from_guest[&KEY], b"hello");
    bench.host.world().to_guest.entry(KEY).or_default().extend([7; 10_000]);
    bench.stir(KEY);
    let packets = bench.got();
    let sizes: Vec<usize> = packets.iter().map(|packet| packet.2.len()).collect();
    assert_eq!(sizes, [4096, 4096, 1808]);
    let header = packets[2].1;
    assert_eq!((header.source_port, header.destination_port, header.forwarded), (7, 1024, 5));
    assert!(packets.iter().all(|packet| packet.0 == operation::DATA));
}

#[test]
fn nobody_at_a_port_is_a_reset_and_strangers_get_nothing() {
    let mut bench = Bench::new();
    let request = from_guest(operation::REQUEST, 0);
    bench.send(Header { destination_port: 8, ..request }, &[]);
    assert_eq!(bench.operations(), [operation::RESET]);
    bench.send(Header { kind: 2, ..request }, &[]);
    assert_eq!(bench.operations(), [operation::RESET], "no such type");
    bench.send(from_guest(operation::DATA, 1), b"x");
    assert_eq!(bench.operations(), [operation::RESET], "not connected");
    bench.send(from_guest(operation::RESET, 0), &[]);
    bench.send(Header { destination_cid: 5, ..request }, &[]);
    bench.send(Header { source_cid: 5, ..request }, &[]);
    assert_eq!(bench.operations(), []);
}

#[test]
fn a_guest_gets_no_more_than_it_has_room_for() {
    let mut bench = connected();
    bench.host.world().to_guest.entry(KEY).or_default().extend([7; 100 << 10]);
    let mut total = 0;
    for forwarded in [0, 0, 1000, 64 << 10] {
        bench.send(Header { forwarded, ..from_guest(operation::CREDIT_UPDATE, 0) }, &[]);
        bench.stir(KEY);
        loop {
            let got: usize = bench.got().iter().map(|packet| packet.2.len()).sum();
            if got == 0 {
                break;
            }
            total += got;
            bench.go();
        }
        assert_eq!(total, (forwarded as usize + (64 << 10)).min(100 << 10), "{forwarded}");
    }
}

#[test]
fn a_guest_that_takes_more_room_than_it_has_is_reset() {
    let mut bench = connected();
    bench.host.world().room = 0;
    let most = MOST_DATA / 2;
    for _ in 0..BUFFER as usize / most {
        bench.send(from_guest(operation::DATA, most), &vec![1; most]);
    }
    assert_eq!(bench.operations(), [], "as much as it was told");
    bench.send(from_guest(operation::DATA, 1), &[1]);
    assert_eq!(bench.operations(), [operation::RESET]);
    assert_eq!(bench.host.world().live, 0);
}

#[test]
fn credit_comes_back_as_the_host_takes_data() {
    let mut bench = connected();
    bench.host.world().room = 0;
    bench.send(from_guest(operation::DATA, 3), b"abc");
    bench.send(from_guest(operation::CREDIT_REQUEST, 0), &[]);
    let packets = bench.got();
    assert_eq!((packets[0].0, packets[0].1.forwarded), (operation::CREDIT_UPDATE, 0));
    bench.host.world().room = usize::MAX;
    bench.stir(KEY);
    assert_eq!(bench.operations(), [], "three bytes are not worth a packet");
    let half = BUFFER as usize / 4;
    for _ in 0..2 {
        bench.send(from_guest(operation::DATA, half), &vec![1; half]);
    }
    let packets = bench.got();
    assert_eq!((packets.len(), packets[0].1.forwarded), (1, 2 * half as u32 + 3));
}

#[test]
fn the_host_connects() {
    let mut bench = Bench::new();
    bench.host.world().incoming.push(99);
    bench.go();
    let (operation, request, _) = bench.got().remove(0);
    assert_eq!((operation, request.destination_port), (operation::REQUEST, 99));
    assert!(bench.host.world().opened.is_empty());
    let answer = Header {
        source_port: 99,
        destination_port: request.source_port,
        ..from_guest(operation::RESPONSE, 0)
    };
    bench.send(answer, &[]);
    assert_eq!(bench.host.world().opened, [request.source_port]);
    bench.send(answer, &[]);
    assert_eq!(bench.operations(), [operation::RESET], "answered twice");
}

#[test]
fn each_direction_ends_by_itself() {
    let mut bench = connected();
    bench.host.world().to_guest.entry(KEY).or_default().extend(b"last words");
    bench.host.world().ended = true;
    bench.stir(KEY);
    let packets = bench.got();
    assert_eq!(
        packets.iter().map(|packet| packet.0).collect::<Vec<_>>(),
        [operation::DATA, operation::SHUTDOWN]
    );
    assert_eq!(packets[1].1.flags, NO_MORE_WRITES);
    bench.send(from_guest(operation::DATA, 3), b"yes");
    assert_eq!(bench.host.world().from_guest[&KEY], b"yes");
    bench.send(Header { flags: NO_MORE_WRITES, ..from_guest(operation::SHUTDOWN, 0) }, &[]);
    assert!(bench.host.world().guest_ended);
    assert_eq!((bench.operations(), bench.host.world().live), (vec![operation::RESET], 0));
}

#[test]
fn a_guest_that_closes_gets_its_reset_once_its_bytes_are_gone() {
    let mut bench = connected();
    bench.host.world().room = 2;
    bench.send(from_guest(operation::DATA, 5), b"hello");
    let flags = NO_MORE_READS | NO_MORE_WRITES;
    bench.send(Header { flags, ..from_guest(operation::SHUTDOWN, 0) }, &[]);
    assert_eq!(bench.operations(), []);
    bench.host.world().room = 100;
    bench.stir(KEY);
    assert_eq!(bench.host.world().from_guest[&KEY], b"hello");
    assert_eq!((bench.operations(), bench.host.world().live), (vec![operation::RESET], 0));
}

#[test]
fn packets_wait_for_room_and_stay_bounded() {
    let mut bench = Bench::new();
    bench.send(from_guest(operation::REQUEST, 0), &[]);
    for port in 2000..2100 {
        bench.send(Header { source_port: port, ..from_guest(operation::DATA, 0) }, &[]);
    }
    assert_eq!(bench.receive.used_index(), BUFFERS, "every buffer is full");
    let mut answers = 0;
    while bench.seen != bench.receive.used_index() {
        answers += bench.got().len();
        bench.go();
    }
    assert_eq!(answers, 101);
    bench.go();
    assert_eq!(bench.operations(), []);
}

#[test]
fn the_host_s_side_comes_back_after_a_reset() {
    let host = InMemory(Arc::default());
    let mut device = Vsock::new(CID, Box::new(host.clone()));
    let signals = crate::signals::Signals::new(Arc::new(Recorder::default()), 3);
    let worker = Arc::new(crate::Worker::new(Kind::Socket, true, signals, None));
    drop(device.activate(0, worker.waker()));
    drop(device.activate(0, worker.waker()));
    let mut config = [0; 8];
    device.config_read(0, &mut config);
    assert_eq!(config, u64::from(CID).to_le_bytes());
}

fn until(bench: &mut Bench, what: &str, mut done: impl FnMut(&mut Bench) -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !done(bench) {
        assert!(Instant::now() < limit, "{what} never happened");
        std::thread::sleep(Duration::from_millis(1));
        bench.go();
    }
}

#[test]
fn unix_sockets_lead_in_and_out() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("vm.sock");
    let sockets = UnixSockets::listen(&path).expect("nobody is there");
    assert!(matches!(UnixSockets::listen(&path), Err(VsockError::InUse(_))));
    let mut bench = Bench::with(Box::new(sockets), InMemory(Arc::default()));
    bench.offer_room(BUFFERS);

    let service = UnixListener::bind(folder.path().join("vm.sock_7")).expect("a service");
    bench.send(from_guest(operation::REQUEST, 0), &[]);
    assert_eq!(bench.operations(), [operation::RESPONSE]);
    bench.send(from_guest(operation::DATA, 4), b"ping");
    let (mut served, _) = service.accept().expect("the guest");
    let mut bytes = [0; 4];
    served.read_exact(&mut bytes).expect("the guest's bytes");
    served.write_all(b"pong").expect("the guest listens");
    let mut got = Vec::new();
    until(&mut bench, "the answer", |bench| {
        got.extend(bench.got());
        !got.is_empty()
    });
    assert_eq!((&bytes, &got[0].2[..]), (b"ping", &b"pong"[..]));
    drop(served);
    until(&mut bench, "the end", |bench| {
        bench.got().iter().any(|packet| packet.0 == operation::SHUTDOWN && packet.1.flags == 3)
    });

    let mut client = UnixStream::connect(&path).expect("the VM");
    let mut stranger = UnixStream::connect(&path).expect("the VM");
    stranger.write_all(b"HELLO 9\n").expect("it reads");
    client.write_all(b"CONNECT 99\nearly").expect("it reads");
    let mut request = None;
    until(&mut bench, "the request", |bench| {
        request = bench.got().pop();
        request.is_some()
    });
    let (operation, header, _) = request.expect("it came");
    assert_eq!((operation, header.destination_port), (operation::REQUEST, 99));
    let answer = Header {
        source_port: 99,
        destination_port: header.source_port,
        ..from_guest(operation::RESPONSE, 0)
    };
    bench.send(answer, &[]);
    let mut line = vec![0; format!("OK {}\n", header.source_port).len()];
    client.read_exact(&mut line).expect("the answer");
    assert_eq!(line, format!("OK {}\n", header.source_port).as_bytes());
    until(&mut bench, "what was said early", |bench| {
        bench.got().iter().any(|packet| packet.2 == b"early")
    });
    assert_eq!(stranger.read(&mut [0]).expect("closed"), 0, "no port, no stream");
    drop(bench);
    assert!(!path.exists() || UnixStream::connect(&path).is_err());
}
