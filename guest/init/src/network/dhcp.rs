//! A DHCP client (RFC 2131): asks until it has a lease, and again when half of that is over.
//!
//! Invariant: whatever comes back, nothing panics: an answer that is none of ours is passed over.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use crate::sys::net;

const FIXED: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

// Options (RFC 2132).
const MASK: u8 = 1;
const ROUTER: u8 = 3;
const NAME_SERVERS: u8 = 6;
const DOMAIN: u8 = 15;
const WANTED_ADDRESS: u8 = 50;
const LEASE_TIME: u8 = 51;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const PARAMETERS: u8 = 55;

/// An answer takes no longer than this, at first.
const PATIENCE: Duration = Duration::from_millis(500);
const PATIENCE_MOST: Duration = Duration::from_secs(16);
/// Leases shorter than this are taken for this.
const LEASE_LEAST: u64 = 30;

/// What a server lends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) address: [u8; 4],
    pub(super) prefix: u8,
    pub(super) gateway: Option<[u8; 4]>,
    pub(super) name_servers: Vec<[u8; 4]>,
    pub(super) search: String,
    server: [u8; 4],
    seconds: u64,
}

/// Has leases applied for ever.
pub(super) fn run(card: &str, apply: impl Fn(&Lease)) {
    let Some(mac) = mac(card) else { return };
    let mut patience = PATIENCE;
    let mut held: Option<Lease> = None;
    loop {
        let lease = socket(card).ok().and_then(|socket| match &held {
            Some(lease) => ask(&socket, mac, REQUEST, Some(lease), ACK, patience),
            None => ask(&socket, mac, DISCOVER, None, OFFER, patience)
                .and_then(|offer| ask(&socket, mac, REQUEST, Some(&offer), ACK, patience)),
        });
        match lease {
            Some(lease) => {
                apply(&lease);
                patience = PATIENCE;
                std::thread::sleep(Duration::from_secs(lease.seconds.max(LEASE_LEAST) / 2));
                held = Some(lease);
            }
            None => {
                held = None;
                patience = (patience * 2).min(PATIENCE_MOST);
            }
        }
    }
}

fn mac(card: &str) -> Option<[u8; 6]> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{card}/address")).ok()?;
    let bytes: Vec<u8> =
        text.trim().split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().ok()
}

fn socket(card: &str) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
    socket.set_broadcast(true)?;
    net::bind_to(&socket, card)?;
    Ok(socket)
}

/// Sends a message and waits for its answer.
fn ask(
    socket: &UdpSocket,
    mac: [u8; 6],
    kind: u8,
    known: Option<&Lease>,
    answer: u8,
    patience: Duration,
) -> Option<Lease> {
    // Seconds since boot tell one exchange from another well enough on a link of one's own.
    let id = std::fs::read_to_string("/proc/uptime")
        .ok()?
        .bytes()
        .fold(0x1507_u32, |id, byte| id.wrapping_mul(31).wrapping_add(u32::from(byte)));
    socket.send_to(&message(mac, id, kind, known), (Ipv4Addr::BROADCAST, 67)).ok()?;
    let end = Instant::now() + patience;
    let mut bytes = [0; 1500];
    loop {
        let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        socket.set_read_timeout(Some(left)).ok()?;
        let count = socket.recv(&mut bytes).ok()?;
        match parse(&bytes[..count], id) {
            Some((kind, lease)) if kind == answer => return Some(lease),
            Some((NAK, _)) => return None,
            _ => {}
        }
    }
}

/// A message of the client (RFC 2131, table 1 and 5).
fn message(mac: [u8; 6], id: u32, kind: u8, known: Option<&Lease>) -> Vec<u8> {
    let mut bytes = vec![0; FIXED];
    bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&id.to_be_bytes());
    bytes[10] = 0x80; // answers by broadcast: the card has no address yet
    bytes[28..34].copy_from_slice(&mac);
    bytes[236..].copy_from_slice(&MAGIC);
    bytes.extend([KIND, 1, kind]);
    if let Some(lease) = known {
        bytes.extend([WANTED_ADDRESS, 4]);
        bytes.extend(lease.address);
        bytes.extend([SERVER, 4]);
        bytes.extend(lease.server);
    }
    bytes.extend([PARAMETERS, 4, MASK, ROUTER, NAME_SERVERS, DOMAIN, 255]);
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

/// A server's answer to the message of this id: its kind and what it lends.
fn parse(bytes: &[u8], id: u32) -> Option<(u8, Lease)> {
    let fixed = bytes.get(..FIXED)?;
    if fixed[0] != 2 || fixed[4..8] != id.to_be_bytes() || fixed[236..] != MAGIC {
        return None;
    }
    let address = *fixed[16..20].first_chunk()?;
    let mut lease = Lease { address, prefix: 24, seconds: 3600, ..Lease::default() };
    let (mut rest, mut kind) = (&bytes[FIXED..], None);
    while let Some((&code, after)) = rest.split_first() {
        match code {
            0 => rest = after,
            255 => break,
            _ => {
                let (&length, after) = after.split_first()?;
                let (value, after) = after.split_at_checked(usize::from(length))?;
                rest = after;
                option(&mut lease, &mut kind, code, value);
            }
        }
    }
    Some((kind?, lease))
}

fn option(lease: &mut Lease, kind: &mut Option<u8>, code: u8, value: &[u8]) {
    let four = value.first_chunk::<4>().copied();
    match (code, four) {
        (KIND, _) => *kind = value.first().copied(),
        (MASK, Some(mask)) => lease.prefix = u32::from_be_bytes(mask).leading_ones() as u8,
        (ROUTER, Some(router)) => lease.gateway = Some(router),
        (SERVER, Some(server)) => lease.server = server,
        (LEASE_TIME, Some(time)) => lease.seconds = u64::from(u32::from_be_bytes(time)),
        (NAME_SERVERS, _) => lease.name_servers = value.as_chunks().0.to_vec(),
        (DOMAIN, _) => {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
            let name = value.iter().copied().take_while(plain).map(char::from);
            lease.search = name.collect();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Vec<u8> {
        let mut bytes = message([2; 6], 7, OFFER, None);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[192, 168, 1, 9]);
        bytes.truncate(FIXED);
        bytes.extend([KIND, 1, OFFER, 0, MASK, 4, 255, 255, 252, 0, SERVER, 4, 192, 168, 0, 1]);
        bytes.extend([ROUTER, 4, 192, 168, 0, 1, NAME_SERVERS, 8, 9, 9, 9, 9, 8, 8, 8, 8]);
        bytes.extend([DOMAIN, 4]);
        bytes.extend(b"lan\0");
        bytes.extend([LEASE_TIME, 4, 0, 0, 2, 0, 255]);
        bytes
    }

    #[test]
    fn an_offer_is_read() {
        let lease = Lease {
            address: [192, 168, 1, 9],
            prefix: 22,
            gateway: Some([192, 168, 0, 1]),
            name_servers: vec![[9, 9, 9, 9], [8, 8, 8, 8]],
            search: "lan".into(),
            server: [192, 168, 0, 1],
            seconds: 512,
        };
        assert_eq!(parse(&offer(), 7), Some((OFFER, lease)));
        assert_eq!(parse(&offer(), 8), None, "an answer to somebody else");
    }

    #[test]
    fn cut_and_foreign_answers_are_passed_over() {
        let bytes = offer();
        for length in 0..bytes.len() {
            let _ = parse(&bytes[..length], 7); // none panics
        }
        assert_eq!(parse(&bytes[..FIXED + 1], 7), None);
        assert_eq!(parse(&message([2; 6], 7, DISCOVER, None), 7), None, "a client's message");
    }
}
