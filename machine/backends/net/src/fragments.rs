//! IP fragments of the guest, put together (RFC 791, section 3.2; RFC 8200, section 4.5).
//!
//! Invariant: at most [`DATAGRAMS`] datagrams of at most 65,535 bytes wait, no longer than [`PATIENCE`];
//! the oldest makes way. Fragments that overlap end theirs: no honest sender makes such (RFC 5722).

use std::net::IpAddr;
use std::time::Duration;

use smoltcp::wire::IpProtocol;

/// Datagrams under way at most.
pub const DATAGRAMS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(30);
/// What an offset and a length can say.
const BYTES: usize = 65_535;
/// Pieces of one datagram; on the smallest MTU the longest has 53.
const PIECES: usize = 64;

/// What belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) ends: (IpAddr, IpAddr),
    pub(crate) protocol: IpProtocol,
    pub(crate) identification: u32,
}

/// Where a fragment lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// In bytes from the start of the datagram, a multiple of 8.
    pub(crate) offset: usize,
    /// Another one follows.
    pub(crate) more: bool,
}

struct Datagram {
    name: Name,
    bytes: Vec<u8>,
    /// Start and end of each piece.
    pieces: Vec<(usize, usize)>,
    length: Option<usize>,
    expires: Duration,
}

#[derive(Default)]
pub(crate) struct Fragments {
    /// Oldest first.
    waiting: Vec<Datagram>,
}

impl Fragments {
    /// Takes a fragment; gives the datagram that it completes. `Err`: no sound fragment, or one that
    /// does not fit the others, which are forgotten.
    pub(crate) fn add(
        &mut self,
        name: Name,
        place: Place,
        payload: &[u8],
        now: Duration,
    ) -> Result<Option<Vec<u8>>, ()> {
        self.waiting.retain(|one| one.expires > now);
        let end = place.offset + payload.len();
        let aligned = !place.more || payload.len().is_multiple_of(8);
        if payload.is_empty() || !aligned || end > BYTES {
            return Err(());
        }
        let index = self.waiting.iter().position(|one| one.name == name);
        let index = index.unwrap_or_else(|| self.begin(name, now));
        let datagram = &mut self.waiting[index];
        if !datagram.take(place, payload) {
            self.waiting.remove(index);
            return Err(());
        }
        let whole = datagram.is_whole();
        Ok(whole.then(|| self.waiting.remove(index).bytes))
    }

    fn begin(&mut self, name: Name, now: Duration) -> usize {
        if self.waiting.len() == DATAGRAMS {
            self.waiting.remove(0);
        }
        let (bytes, pieces) = (Vec::new(), Vec::new());
        self.waiting.push(Datagram { name, bytes, pieces, length: None, expires: now + PATIENCE });
        self.waiting.len() - 1
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}

impl Datagram {
    /// Whether the fragment fits what is there; it is kept then.
    fn take(&mut self, place: Place, payload: &[u8]) -> bool {
        let (start, end) = (place.offset, place.offset + payload.len());
        if self.pieces.contains(&(start, end)) {
            return true; // the same once more
        }
        let overlaps = self.pieces.iter().any(|&(from, to)| start < to && from < end);
        let ends_twice = !place.more && self.length.is_some_and(|length| length != end);
        let behind_the_end = match place.more {
            true => self.length.is_some_and(|length| end > length),
            false => self.bytes.len() > end,
        };
        if overlaps || ends_twice || behind_the_end || self.pieces.len() == PIECES {
            return false;
        }
        if !place.more {
            self.length = Some(end);
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(payload);
        self.pieces.push((start, end));
        true
    }

    fn is_whole(&self) -> bool {
        let there: usize = self.pieces.iter().map(|(from, to)| to - from).sum();
        self.length == Some(there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(identification: u32) -> Name {
        let address = IpAddr::from([10, 0, 2, 15]);
        Name { ends: (address, address), protocol: IpProtocol::Udp, identification }
    }

    fn at(offset: usize, more: bool) -> Place {
        Place { offset, more }
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn pieces_in_any_order_make_the_datagram() {
        let mut fragments = Fragments::default();
        let bytes: Vec<u8> = (0..100).collect();
        let mut add = |offset: usize, end: usize| {
            fragments.add(name(1), at(offset, end < 100), &bytes[offset..end], NOW)
        };
        assert_eq!(add(64, 100), Ok(None));
        assert_eq!(add(0, 32), Ok(None));
        assert_eq!(add(0, 32), Ok(None), "the same again changes nothing");
        assert_eq!(add(32, 64), Ok(Some(bytes.clone())));
        assert_eq!(add(0, 32), Ok(None), "a new one begins");
    }

    #[test]
    fn what_does_not_fit_ends_all() {
        let mut fragments = Fragments::default();
        let mut add =
            |offset, more, length| fragments.add(name(1), at(offset, more), &vec![0; length], NOW);
        assert_eq!(add(0, true, 16), Ok(None));
        assert_eq!(add(8, true, 16), Err(()), "it overlaps");
        assert_eq!(add(16, false, 8), Ok(None), "the first is forgotten");
        assert_eq!(add(32, true, 8), Err(()), "behind the end");
        assert_eq!(add(0, true, 12), Err(()), "no multiple of 8");
        assert_eq!(add(0, true, 0), Err(()));
        assert_eq!(add(65_528, false, 8), Err(()), "longer than a datagram can be");
    }

    #[test]
    fn there_are_not_many_and_none_waits_for_ever() {
        let mut fragments = Fragments::default();
        for number in 0..1000 {
            assert_eq!(fragments.add(name(number), at(0, true), &[0; 8], NOW), Ok(None));
        }
        assert_eq!(fragments.waiting.len(), DATAGRAMS);
        assert_eq!(fragments.add(name(999), at(8, false), &[0; 8], PATIENCE), Ok(None));
        assert_eq!(fragments.waiting.len(), 1, "those before have expired");
        for piece in 1..PIECES {
            assert_eq!(fragments.add(name(5), at(piece * 16, true), &[0; 8], PATIENCE), Ok(None));
        }
        assert_eq!(fragments.add(name(5), at(0, true), &[0; 8], PATIENCE), Ok(None));
        assert_eq!(fragments.add(name(5), at(4096, true), &[0; 8], PATIENCE), Err(()));
    }
}
