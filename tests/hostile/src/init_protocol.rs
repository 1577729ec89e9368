//! The session's byte stream and the job file (guest/protocol).

use protocol::{Decoder, FromGuest, Job, MAX_PAYLOAD, ToGuest};

use crate::cursor::Cursor;

/// Bytes as a stream in pieces of any size, as job file, and as payloads of every kind of message.
///
/// # Panics
/// A message or job that does not survive being encoded again, or a decoder that loses count.
pub fn init_protocol(data: &[u8]) {
    stream(data);
    stream(&framed(data));
    if let Ok(job) = Job::decode(data) {
        assert_eq!(job.encode(), data, "one job has one encoding");
    }
    // Behind a good head, so that chance need not find it.
    let head = &Job::default().encode()[..15];
    let job = [head, data].concat();
    if let Ok(decoded) = Job::decode(&job) {
        assert_eq!(Job::decode(&decoded.encode()), Ok(decoded));
    }
}

/// The same bytes as the payloads of valid frames, with some of the frames damaged.
fn framed(data: &[u8]) -> Vec<u8> {
    let mut cursor = Cursor::new(data);
    let mut wire = Vec::new();
    while !cursor.is_empty() {
        let (kind, length, damage) = (cursor.u8(), cursor.u16(), cursor.u8());
        let start = wire.len();
        let payload = cursor.take(usize::from(length) % (MAX_PAYLOAD + 1));
        protocol::encode_frame(kind & 0x4f, payload, &mut wire);
        if damage >= 0xf0 {
            let at = start + usize::from(length) % (wire.len() - start);
            wire[at] ^= damage;
        }
    }
    wire
}

fn stream(bytes: &[u8]) {
    let mut decoder = Decoder::default();
    let (mut rest, mut taken) = (bytes, 0);
    while !rest.is_empty() {
        let size = usize::from(rest[0]) * 5 + 1;
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        decoder.push(piece);
        while let Some((kind, payload)) = decoder.next_frame() {
            taken += 8 + payload.len() as u64;
            message(kind, &payload);
        }
    }
    assert!(decoder.skipped() + taken <= bytes.len() as u64, "each byte counts once");
}

fn message(kind: u8, payload: &[u8]) {
    assert!(payload.len() <= MAX_PAYLOAD);
    if let Some(message) = FromGuest::decode(kind, payload) {
        let mut wire = Vec::new();
        message.encode(&mut wire);
        let again = one_frame(&wire).and_then(|(kind, bytes)| FromGuest::decode(kind, &bytes));
        // Text that was not UTF-8 has become longer, and may be cut; no data, no frame.
        let exact = !payload.is_empty() && !matches!(message, FromGuest::Notice(_));
        assert!(!exact || again == Some(message), "{kind} {payload:?}");
    }
    if let Some(message) = ToGuest::decode(kind, payload) {
        let mut wire = Vec::new();
        message.encode(&mut wire);
        let again = one_frame(&wire).and_then(|(kind, bytes)| ToGuest::decode(kind, &bytes));
        assert!(payload.is_empty() || again == Some(message), "{kind} {payload:?}");
    }
}

fn one_frame(wire: &[u8]) -> Option<(u8, Vec<u8>)> {
    let mut decoder = Decoder::default();
    decoder.push(wire);
    decoder.next_frame()
}
