//! The user-mode network: frames of a guest and the doings of a host, neither to be trusted.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use net::{
    Config, Datagrams, FRAME_MAX, Host, Incoming, Key, Offload, Ready, Stack, Stream, limits,
};

use crate::cursor::Cursor;

/// A host that does what the bytes say, and counts its sockets.
struct Fake {
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    moods: Vec<u8>,
    at: usize,
    keys: Vec<Key>,
    open: usize,
}

struct Socket(Rc<RefCell<Shared>>);

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.borrow_mut().open -= 1;
    }
}

impl Shared {
    fn mood(&mut self) -> u8 {
        self.at += 1;
        // Every few answers it would block, whatever the bytes: data of real hosts ends, too.
        if self.at.is_multiple_of(7) {
            0
        } else {
            self.moods.get(self.at % self.moods.len().max(1)).copied().unwrap_or(0)
        }
    }
}

impl Fake {
    fn make(&self, key: Key) -> io::Result<Socket> {
        let mut shared = self.shared.borrow_mut();
        if shared.mood() & 7 == 7 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        shared.open += 1;
        shared.keys.push(key);
        Ok(Socket(Rc::clone(&self.shared)))
    }
}

impl Host for Fake {
    type Stream = Socket;
    type Listener = Socket;
    type Datagrams = Socket;

    fn connect(&mut self, key: Key, to: SocketAddr) -> io::Result<Socket> {
        assert!(!to.ip().is_loopback() && !to.ip().is_unspecified(), "{to}");
        self.make(key)
    }

    fn listen(&mut self, key: Key, _: SocketAddr) -> io::Result<Socket> {
        self.make(key)
    }

    fn accept(&mut self, _: &mut Socket, key: Key) -> io::Result<Socket> {
        if self.shared.borrow_mut().mood() & 3 == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.make(key)
    }

    fn datagrams_to(&mut self, key: Key, to: SocketAddr) -> io::Result<Socket> {
        assert!(!to.ip().is_loopback() && !to.ip().is_unspecified(), "{to}");
        self.make(key)
    }

    fn datagrams_at(&mut self, key: Key, _: SocketAddr) -> io::Result<Socket> {
        self.make(key)
    }

    fn ping(&mut self, key: Key, _: IpAddr) -> io::Result<Socket> {
        self.make(key)
    }

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        vec![([192, 0, 2, 53], 53).into(), ([192, 0, 2, 54], 53).into()]
    }
}

impl Socket {
    fn do_something(&self, most: usize) -> io::Result<usize> {
        match self.0.borrow_mut().mood() {
            0..=63 => Err(io::ErrorKind::WouldBlock.into()),
            mood @ 64..=239 => Ok((usize::from(mood) * 17).min(most)),
            240..=245 => Err(io::ErrorKind::ConnectionRefused.into()),
            246..=250 => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Ok(0),
        }
    }
}

impl Stream for Socket {
    fn connected(&mut self) -> io::Result<bool> {
        match self.0.borrow_mut().mood() {
            0..=63 => Ok(false),
            64..=239 => Ok(true),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.do_something(bytes.len())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.do_something(buffer.len())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.do_something(0).map(|_| ())
    }

    fn abort(&mut self) {}
}

impl Datagrams for Socket {
    fn send(&mut self, bytes: &[u8], _: Option<SocketAddr>) -> io::Result<()> {
        self.do_something(bytes.len()).map(|_| ())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Ok((self.do_something(buffer.len())?, ([192, 0, 2, 1], 9).into()))
    }
}

/// Bytes as frames (heads of real packets with anything behind, or anything at all), socket events,
/// time, and what the host's sockets answer.
///
/// # Panics
/// A table beyond its bound, a frame that is none, a socket that is left over.
pub fn network(data: &[u8]) {
    let moods = data.iter().rev().copied().take(64).collect();
    let shared = Rc::new(RefCell::new(Shared { moods, at: 0, keys: Vec::new(), open: 0 }));
    let host = Fake { shared: Rc::clone(&shared) };
    let config = Config::default();
    let (guest, gateway) = (config.guest_mac, config.gateway_mac);
    let mut stack = Stack::new(config, host).expect("the default is sound");
    for forward in ["8080:80", "[::1]:53:53/udp"] {
        // The host may refuse.
        let _ = stack.add_forward(forward.parse().expect("a forward"));
    }
    let mut cursor = Cursor::new(data);
    let mut buffer = vec![0; FRAME_MAX];
    let mut now = Duration::ZERO;
    let mut last = Vec::new();
    while !cursor.is_empty() {
        match cursor.u8() & 7 {
            which @ 0..=3 => {
                let answer = if which == 3 { answer(&mut cursor, &last) } else { None };
                let frame = answer.unwrap_or_else(|| frame(&mut cursor, guest, gateway));
                let partial_checksum = cursor.u8() & 7 != 0;
                stack.guest_sends_with(&frame, Incoming { partial_checksum });
            }
            4 => {
                let key = {
                    let shared = shared.borrow();
                    let index = usize::from(cursor.u16()) % shared.keys.len().max(1);
                    shared.keys.get(index).copied().unwrap_or(Key(u64::from(cursor.u16()) << 48))
                };
                stack.host_event(key, Ready { read: true, write: cursor.u8() & 1 == 0 });
            }
            5 => {
                now += Duration::from_millis(1 << (cursor.u8() % 24));
                stack.advance(now);
            }
            6 => {
                let room = usize::from(cursor.u16());
                if let Some(frame) = stack.next_frame(&mut buffer[..room]) {
                    check(&buffer[..frame.length], guest);
                    last.clear();
                    last.extend(&buffer[..frame.length]);
                }
            }
            _ => {
                let bits = cursor.u8();
                stack.set_offload(Offload {
                    checksum: bits & 1 != 0,
                    tcp4: bits & 2 != 0,
                    tcp6: bits & 4 != 0,
                });
                if bits > 250 {
                    stack.reset();
                }
            }
        }
        let (tcp, udp) = stack.flows();
        assert!(tcp <= limits::CONNECTIONS && udp <= limits::FLOWS);
        let most = tcp + udp + limits::QUERIES + limits::PINGS + 2;
        assert!(shared.borrow().open <= most, "more sockets than flows");
    }
    let mut frames = 0;
    while let Some(frame) = stack.next_frame(&mut buffer) {
        check(&buffer[..frame.length], guest);
        frames += 1;
        assert!(frames < 100_000, "an end to it");
    }
    stack.reset();
    assert!(!stack.has_frame() && stack.flows() == (0, 0));
    drop(stack);
    assert_eq!(shared.borrow().open, 0, "every socket is closed");
}

fn check(frame: &[u8], guest: [u8; 6]) {
    assert!(frame.len() >= 14 + 20 && frame[..6] == guest, "a frame to the guest");
    let length = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    match frame[12..14] {
        [0x08, 0x00] => assert_eq!(14 + length(16), frame.len()),
        [0x86, 0xdd] => assert_eq!(14 + 40 + length(18), frame.len()),
        [0x08, 0x06] => assert_eq!(frame.len(), 42),
        _ => panic!("a protocol that nobody speaks: {:02x?}", &frame[12..14]),
    }
}

/// A frame with as many sound headers as the bytes ask for, so that chance need not find them.
fn frame(cursor: &mut Cursor<'_>, guest: [u8; 6], gateway: [u8; 6]) -> Vec<u8> {
    let (kind, damage) = (cursor.u8(), cursor.u16());
    let length = usize::from(cursor.u8());
    let payload = cursor.take(length).to_vec();
    if kind & 0x80 != 0 {
        return payload;
    }
    let targets = [[10, 0, 2, 2], [10, 0, 2, 3], [192, 0, 2, 1], [127, 0, 0, 1]];
    let target = targets[usize::from(kind >> 3) & 3];
    let protocol = [6, 17, 1, 6][usize::from(kind >> 1) & 3];
    let mut frame = [gateway, guest].concat();
    if kind & 1 == 0 {
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 2, 15]);
        frame.extend(target);
        let sum: u32 = frame[14..34]
            .chunks(2)
            .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])))
            .sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([if protocol == 1 { 58 } else { protocol }, 255]);
        frame.extend([0xfd, 0x6f, 0x6e, 0x65, 0x72, 0x6f, 0x6f, 0x66, 0, 0, 0, 0, 0, 0, 0, 0x15]);
        frame.extend([
            0xfd,
            0x6f,
            0x6e,
            0x65,
            0x72,
            0x6f,
            0x6f,
            0x66,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            target[3] + 1,
        ]);
    }
    let head = frame.len();
    frame.extend(&payload);
    if protocol == 6 && payload.len() >= 20 {
        // Few ports, a length of header that fits, so that segments meet connections.
        frame[head] = 0x80;
        frame[head + 1] &= 3;
        (frame[head + 2], frame[head + 3]) = (0, 80);
        frame[head + 12] = 0x50;
        if payload.len() >= 24 && payload[20] & 1 == 0 {
            // A guest that knows of selective acknowledgements.
            frame[head + 12] = 0x60;
            frame[head + 20..head + 24].copy_from_slice(&[4, 2, 1, 1]);
        }
    }
    if protocol == 17 && payload.len() >= 8 {
        let length = (payload.len() as u16).to_be_bytes();
        frame[head + 4..head + 6].copy_from_slice(&length);
        let port = [53_u16, 67, 9, 68][usize::from(kind >> 5) & 3];
        frame[head + 2..head + 4].copy_from_slice(&port.to_be_bytes());
    }
    if damage > 0xe000 {
        let at = usize::from(damage) % frame.len();
        frame[at] ^= 1 << (damage & 7);
    }
    frame
}

/// A segment on the connection that `last`, a frame to the guest, belongs to: about where its positions are, with claims of
/// what came early. `None` if that was no segment.
fn answer(cursor: &mut Cursor<'_>, last: &[u8]) -> Option<Vec<u8>> {
    let v6 = *last.get(12)? == 0x86;
    let (head, protocol, addresses) = if v6 { (54, 20, 22) } else { (34, 23, 26) };
    if last.len() < head + 20 || last[protocol] != 6 {
        return None;
    }
    let word = |at: usize| u32::from_be_bytes(*last[at..].first_chunk().expect("four bytes"));
    let near = |cursor: &mut Cursor<'_>| match cursor.u8() {
        0..=127 => 0,
        byte @ 128..=191 => i32::from(byte) - 160,
        _ => i32::from(cursor.u16().cast_signed()),
    };
    let shape = cursor.u8();
    let (at, ack) = (word(head + 8), word(head + 4));
    let sent = last.len() - head - usize::from(last[head + 12] >> 4) * 4;
    let ends = u32::from(last[head + 13] & 3 != 0) + sent as u32;
    let mut segment = last[head + 2..head + 4].to_vec();
    segment.extend(&last[head..head + 2]);
    segment.extend(at.wrapping_add_signed(near(cursor)).to_be_bytes());
    segment.extend(
        ack.wrapping_add(if shape & 0x80 == 0 { ends } else { 0 })
            .wrapping_add_signed(near(cursor))
            .to_be_bytes(),
    );
    let blocks = [0, 0, 1, 3][usize::from(shape >> 3) & 3];
    let options = if blocks > 0 { 4 + 8 * blocks } else { 0 };
    let flags = [0x10, 0x18, 0x10, 0x18, 0x11, 0x10, 0x04, 0x12][usize::from(shape) & 7];
    segment.extend([((20 + options) << 2) as u8, flags]);
    segment.extend(cursor.u16().to_be_bytes());
    segment.extend([0; 4]);
    if blocks > 0 {
        segment.extend([1, 1, 5, 2 + 8 * blocks as u8]);
        for _ in 0..blocks {
            let from = ack.wrapping_add(u32::from(cursor.u16())).wrapping_add_signed(near(cursor));
            segment.extend(from.to_be_bytes());
            segment.extend(from.wrapping_add(u32::from(cursor.u16())).to_be_bytes());
        }
    }
    let length = usize::from(cursor.u8()) * if shape & 0x40 == 0 { 1 } else { 32 };
    segment.extend(cursor.take(length));
    let mut frame = [&last[6..12], &last[..6], &last[12..addresses]].concat();
    let size = if v6 { addresses + (head - addresses) / 2 } else { addresses + 4 };
    frame.extend(&last[size..head]);
    frame.extend(&last[addresses..size]);
    if v6 {
        frame[18..20].copy_from_slice(&(segment.len() as u16).to_be_bytes());
    } else {
        frame[16..18].copy_from_slice(&(20 + segment.len() as u16).to_be_bytes());
        frame[24..26].fill(0);
        let words =
            frame[14..34].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
        let sum: u32 = words.sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame.extend(segment);
    Some(frame)
}
