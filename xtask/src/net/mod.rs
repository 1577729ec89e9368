//! The host's end of network tests: a server for guest/workloads' client.
//!
//! ```text
//! request  kind u64, bytes u64        1: send so many   2: take so many, answer their sum
//!                                     3: echo   4: hang up with data unread   5: as 2, but slowly
//! ```

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

const CHUNK: usize = 256 << 10;

/// A server on a port that is free for both protocols; it lives as long as the process.
pub(crate) struct Server {
    pub(crate) port: u16,
}

impl Server {
    /// Listens on an address of this host.
    pub(crate) fn start(address: IpAddr) -> Result<Self> {
        Self::start_at(SocketAddr::new(address, 0))
    }

    /// The same at this port; 0: any.
    fn start_at(at: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at).with_context(|| format!("{at}"))?;
        let at = listener.local_addr()?;
        let port = at.port();
        let udp = UdpSocket::bind(at).context("the same port for UDP")?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that ends early is its own affair.
                thread::spawn(move || drop(serve(stream)));
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok((count, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&buffer[..count], from);
            }
        });
        Ok(Self { port })
    }

    /// Its address as a guest names it that reaches the host as `gateway`.
    pub(crate) fn seen_at(&self, gateway: &str) -> String {
        let gateway: IpAddr = gateway.parse().expect("callers write addresses");
        SocketAddr::new(gateway, self.port).to_string()
    }
}

/// A server at this address until the process is ended.
pub(crate) fn serve_at(at: SocketAddr) -> Result<()> {
    let _server = Server::start_at(at)?;
    loop {
        thread::park();
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; 16];
    stream.read_exact(&mut request)?;
    let word = u128::from_le_bytes(request);
    let (kind, bytes) = (word as u64, (word >> 64) as u64);
    stream.set_nodelay(true)?;
    match kind {
        1 => send(&mut stream, bytes),
        2 => take(&mut stream, None),
        3 => echo(&mut stream),
        5 => take(&mut stream, Some(Duration::from_millis(2))),
        _ => {
            // Wait for data, and leave it: closing is a reset then.
            stream.peek(&mut [0])?;
            Ok(())
        }
    }
}

fn send(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let (mut buffer, mut at) = (vec![0; CHUNK], 0);
    while at < bytes {
        let count = CHUNK.min((bytes - at) as usize);
        fill(at, &mut buffer[..count]);
        stream.write_all(&buffer[..count])?;
        at += count as u64;
    }
    Ok(())
}

fn take(stream: &mut TcpStream, pause: Option<Duration>) -> io::Result<()> {
    let size = if pause.is_some() { 16 << 10 } else { CHUNK };
    let (mut buffer, mut held, mut sum) = (vec![0; size], 0, 0_u64);
    loop {
        let count = stream.read(&mut buffer[held..])?;
        held += count;
        let whole = if count == 0 { held.next_multiple_of(8) } else { held & !7 };
        buffer[held..whole.max(held)].fill(0);
        sum = sum_of(sum, &buffer[..whole]);
        if count == 0 {
            return stream.write_all(&sum.to_le_bytes());
        }
        buffer.copy_within(whole..held, 0);
        held -= whole;
        pause.into_iter().for_each(thread::sleep);
    }
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// Bytes `from..` of the pattern: 64-bit words made of their number.
pub(crate) fn fill(from: u64, buffer: &mut [u8]) {
    for (number, piece) in (from / 8..).zip(buffer.chunks_mut(8)) {
        let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        piece.copy_from_slice(&word[..piece.len()]);
    }
}

fn sum_of(sum: u64, words: &[u8]) -> u64 {
    let add = |sum: u64, word: &[u8; 8]| sum.rotate_left(1).wrapping_add(u64::from_le_bytes(*word));
    words.as_chunks::<8>().0.iter().fold(sum, add)
}

/// The sum of the pattern's first bytes, a multiple of 8.
pub(crate) fn pattern_sum(bytes: u64) -> u64 {
    let (mut buffer, mut at, mut sum) = (vec![0; CHUNK], 0, 0);
    while at < bytes {
        let count = CHUNK.min((bytes - at) as usize);
        fill(at, &mut buffer[..count]);
        sum = sum_of(sum, &buffer[..count]);
        at += count as u64;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_taken() {
        let server = Server::start(IpAddr::from([127, 0, 0, 1])).unwrap();
        let bytes = (1_u64 << 20) + 8;
        let ask = |kind: u64| {
            let mut stream = TcpStream::connect(server.seen_at("127.0.0.1")).unwrap();
            stream.write_all(&[kind.to_le_bytes(), bytes.to_le_bytes()].concat()).unwrap();
            stream
        };
        let mut all = Vec::new();
        ask(1).read_to_end(&mut all).unwrap();
        assert_eq!((all.len() as u64, sum_of(0, &all)), (bytes, pattern_sum(bytes)));
        let mut stream = ask(2);
        stream.write_all(&all).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut sum = [0; 8];
        stream.read_exact(&mut sum).unwrap();
        assert_eq!(u64::from_le_bytes(sum), pattern_sum(bytes));
    }
}
