//! The guest's end of network tests and measurements; the host's end is xtask's.
//!
//! ```text
//! request  kind u64, bytes u64        1: the host sends so many   2: it takes so many, answers their sum
//!                                     3: echo   4: it hangs up with data unread   5: as 2, but slowly
//! ```
//!
//! Numbers are little-endian; what is sent is [`fill`]'s pattern and is held against [`Sum`].

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const CHUNK: usize = 256 << 10;
const SEND: u64 = 1;
const TAKE: u64 = 2;
const ECHO: u64 = 3;
const HANG_UP: u64 = 4;
const TAKE_SLOWLY: u64 = 5;
/// Bytes of one echo.
const MESSAGE: usize = 100;

/// Runs one of the client's sides: `receive`, `send`, `slow`, `echo`, `turns`, `reset`, `udp`;
/// or, at an address of the guest, `answer`.
pub(crate) fn run(what: &str, to: &str, amount: u64) -> Result<String, String> {
    let to: SocketAddr = to.parse().map_err(|_| format!("{to} is no address"))?;
    let done = match what {
        "receive" => receive(to, amount),
        "send" => send(to, TAKE, amount),
        "slow" => send(to, TAKE_SLOWLY, amount),
        "echo" => echo(to, amount),
        "turns" => turns(to, amount),
        "reset" => reset(to),
        "udp" => udp(to, amount),
        "answer" => answer(to, amount),
        _ => {
            return Err(format!(
                "{what} is none of receive, send, slow, echo, turns, reset, udp, answer"
            ));
        }
    };
    done.map_err(|error| format!("{what}: {error}"))
}

fn request(to: SocketAddr, kind: u64, bytes: u64) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[kind.to_le_bytes(), bytes.to_le_bytes()].concat())?;
    Ok(stream)
}

/// What was moved and how fast.
fn moved(bytes: u64, sum: u64, since: Instant) -> String {
    let seconds = since.elapsed().as_secs_f64();
    format!("{bytes} {sum:016x} {:.1} Mbit/s", bytes as f64 * 8e-6 / seconds)
}

fn receive(to: SocketAddr, bytes: u64) -> io::Result<String> {
    let begun = Instant::now();
    let mut stream = request(to, SEND, bytes)?;
    let (mut buffer, mut sum, mut total) = (vec![0; CHUNK], Sum::default(), 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(moved(total, sum.value(), begun)),
            count => {
                sum.add(&buffer[..count]);
                total += count as u64;
            }
        }
    }
}

fn send(to: SocketAddr, kind: u64, bytes: u64) -> io::Result<String> {
    let begun = Instant::now();
    let mut stream = request(to, kind, bytes)?;
    let (mut buffer, mut at) = (vec![0; CHUNK], 0);
    while at < bytes {
        let count = CHUNK.min((bytes - at) as usize);
        fill(at, &mut buffer[..count]);
        stream.write_all(&buffer[..count])?;
        at += count as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut sum = [0; 8];
    stream.read_exact(&mut sum)?;
    Ok(moved(bytes, u64::from_le_bytes(sum), begun))
}

/// So many connections that are all open at once, each with a message of its own.
fn echo(to: SocketAddr, connections: u64) -> io::Result<String> {
    let open = |_| request(to, ECHO, 0);
    let mut streams = (0..connections).map(open).collect::<io::Result<Vec<_>>>()?;
    let message = |number: u64| {
        let mut bytes = [0; MESSAGE];
        fill(number * MESSAGE as u64, &mut bytes);
        bytes
    };
    for (number, stream) in (0..).zip(&mut streams) {
        stream.write_all(&message(number))?;
    }
    let mut right = 0;
    for (number, stream) in (0..).zip(&mut streams) {
        let mut bytes = [0; MESSAGE];
        stream.read_exact(&mut bytes)?;
        right += u64::from(bytes == message(number));
    }
    Ok(format!("{right} echoes"))
}

/// One byte there and back, so many times.
fn turns(to: SocketAddr, count: u64) -> io::Result<String> {
    let mut stream = request(to, ECHO, 0)?;
    let begun = Instant::now();
    for _ in 0..count {
        let mut byte = [7];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
    }
    let micros = begun.elapsed().as_secs_f64() * 1e6 / count as f64;
    Ok(format!("{count} turns {micros:.1} us"))
}

fn reset(to: SocketAddr) -> io::Result<String> {
    let mut stream = request(to, HANG_UP, 0)?;
    let mut byte = [0];
    let ended = stream.write_all(&[1; 4096]).and_then(|()| stream.read_exact(&mut byte));
    Ok(format!("{:?}", ended.expect_err("the host hangs up").kind()))
}

/// So many datagrams, each asked for again if it is lost: nine of ten fit the link, one in ten is of up
/// to 30,000 bytes and goes in fragments.
fn udp(to: SocketAddr, count: u64) -> io::Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut right, mut buffer) = (0, vec![0; 65_536]);
    for number in 0..count {
        let most = if number % 10 == 9 { 30_000 } else { 1400 };
        let mut bytes = vec![0; 8 + (number as usize * 337) % most];
        fill(number * 2048, &mut bytes);
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        for _ in 0..5 {
            socket.send(&bytes)?;
            if socket.recv(&mut buffer).is_ok_and(|length| buffer[..length] == bytes) {
                right += 1;
                break;
            }
        }
    }
    Ok(format!("{right} datagrams"))
}

/// Gives so many datagrams back to whom they come from.
fn answer(at: SocketAddr, count: u64) -> io::Result<String> {
    let (socket, mut buffer) = (UdpSocket::bind(at)?, [0; 2048]);
    for _ in 0..count {
        let (length, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], from)?;
    }
    Ok(format!("{count} answers"))
}

/// Bytes `from..` of the pattern: 64-bit words made of their number. `from` is a multiple of 4.
fn fill(from: u64, buffer: &mut [u8]) {
    for (number, piece) in (from / 8..).zip(buffer.chunks_mut(8)) {
        let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        piece.copy_from_slice(&word[..piece.len()]);
    }
}

/// A sum over bytes in order, however they come in pieces.
#[derive(Default)]
struct Sum {
    sum: u64,
    odd: [u8; 8],
    held: usize,
}

impl Sum {
    fn add(&mut self, mut bytes: &[u8]) {
        if self.held > 0 {
            let count = (8 - self.held).min(bytes.len());
            self.odd[self.held..self.held + count].copy_from_slice(&bytes[..count]);
            self.held += count;
            bytes = &bytes[count..];
            if self.held < 8 {
                return;
            }
            self.word(self.odd);
            self.held = 0;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(*word));
        self.odd[..rest.len()].copy_from_slice(rest);
        self.held = rest.len();
    }

    fn word(&mut self, word: [u8; 8]) {
        self.sum = self.sum.rotate_left(1).wrapping_add(u64::from_le_bytes(word));
    }

    fn value(mut self) -> u64 {
        if self.held > 0 {
            self.odd[self.held..].fill(0);
            self.word(self.odd);
        }
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_no_difference_and_order_does() {
        let mut bytes = [0; 1000];
        fill(0, &mut bytes);
        let of = |sizes: usize| {
            let mut sum = Sum::default();
            bytes.chunks(sizes).for_each(|piece| sum.add(piece));
            sum.value()
        };
        assert_eq!([of(1), of(7), of(64), of(999)], [of(1000); 4]);
        let before = of(1000);
        let mut swapped = bytes;
        swapped.swap(8, 17);
        let mut other = Sum::default();
        other.add(&swapped);
        assert_ne!(other.value(), before);
    }
}
