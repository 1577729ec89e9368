//! The guest's bytes on their way to the host: order, window, what the host has not taken yet.
//!
//! Invariant: `pending` and `early` together hold at most `capacity` bytes: nothing beyond the window is
//! kept, and the window is the capacity less what is pending, so it is closed by a host socket
//! that takes no more and its right edge never moves back.

use std::collections::VecDeque;
use std::io;

use super::early::Early;
use super::sequence::{self, Sequence};
use crate::host::Stream;

/// Our window's scale (RFC 7323): capacities up to 8 MiB.
pub(super) const SCALE: u8 = 7;

pub(super) struct Receive {
    /// The next byte that is missing.
    pub(super) next: Sequence,
    capacity: usize,
    pending: VecDeque<u8>,
    early: Early,
    fin_at: Option<Sequence>,
    /// The guest's FIN has been reached.
    pub(super) finished: bool,
    /// The host has been told.
    told: bool,
    /// The host's socket may take more.
    pub(super) writable: bool,
    /// The window's right edge that the guest last heard of.
    announced: Sequence,
}

impl Receive {
    pub(super) fn new(next: Sequence, capacity: usize) -> Self {
        Self {
            next,
            capacity,
            pending: VecDeque::new(),
            early: Early::default(),
            fin_at: None,
            finished: false,
            told: false,
            writable: true,
            announced: next,
        }
    }

    /// Bytes that may come from `next` on: what was announced, or what a header can say of the room.
    pub(super) fn window(&self) -> usize {
        let granted = sequence::after(self.announced, self.next).max(0) as usize;
        granted.max((self.capacity - self.pending.len()) >> SCALE << SCALE)
    }

    /// Without scaling a header can't say more than this.
    pub(super) fn limit_to_unscaled(&mut self) {
        self.capacity = self.capacity.min(0xffff);
    }

    /// Notes that `window` was announced; a scaled one may be a little less than was before.
    pub(super) fn announce(&mut self, window: usize) {
        let edge = sequence::plus(self.next, window);
        if sequence::after(edge, self.announced) > 0 {
            self.announced = edge;
        }
    }

    /// The guest's first byte is known only now.
    pub(super) fn begin(&mut self, next: Sequence) {
        (self.next, self.announced) = (next, next);
    }

    /// Whether the window has grown so much that the guest should hear of it (RFC 9293, 3.8.6.2.2).
    pub(super) fn has_opened(&self) -> bool {
        let edge = sequence::plus(self.next, self.window());
        let known = sequence::after(self.announced, self.next).max(0) as usize;
        let gain = sequence::after(edge, self.announced).max(0) as usize;
        !self.finished && (gain >= self.capacity / 2 || (known == 0 && gain >= self.capacity / 4))
    }

    /// All is with the host, and it knows that this is all.
    pub(super) fn is_done(&self) -> bool {
        self.told
    }

    /// Whether something of a segment lies in the window (RFC 9293, section 3.10.7.4).
    pub(super) fn accepts(&self, at: Sequence, length: usize) -> bool {
        let window = self.window() as i64;
        let start = i64::from(sequence::after(at, self.next));
        let end = start + length as i64;
        if length == 0 { (0..=window).contains(&start) } else { start < window && end > 0 }
    }

    /// Takes a segment's payload and FIN. Says whether the guest is to be told at once that
    /// something is missing or came again.
    pub(super) fn segment<S: Stream>(
        &mut self,
        at: Sequence,
        payload: &[u8],
        fin: bool,
        stream: &mut S,
    ) -> io::Result<bool> {
        let offset = sequence::after(at, self.next);
        let old = (-offset).max(0) as usize;
        let room = self.window();
        if fin && !self.finished && offset as i64 + payload.len() as i64 <= room as i64 {
            self.fin_at.get_or_insert(sequence::plus(at, payload.len()));
        }
        let again = old > 0;
        if offset > 0 {
            let ahead = offset as usize;
            let fits = room.saturating_sub(ahead).min(payload.len());
            self.early.keep(self.next, at, &payload[..fits]);
            return Ok(true);
        }
        let fresh = payload.get(old..).unwrap_or_default();
        let fresh = &fresh[..fresh.len().min(room)];
        self.take(fresh, stream)?;
        // Empty in all but a few cases: the gap was in front of it.
        let early = self.early.advance(self.next, fresh.len());
        self.take(&early, stream)?;
        let gap = !self.early.is_empty();
        if self.fin_at == Some(self.next) {
            self.fin_at = None;
            self.finished = true;
            self.early.clear();
            self.next = sequence::plus(self.next, 1);
        }
        self.flush(stream)?;
        Ok(again || gap)
    }

    /// What the guest is told to be here although something before it is missing.
    pub(super) fn early_blocks(&self) -> [Option<(Sequence, Sequence)>; 3] {
        // An end of data behind a range takes a position, and came with it.
        let with_fin = |end| if self.fin_at == Some(end) { sequence::plus(end, 1) } else { end };
        self.early.told().map(|block| block.map(|(start, end)| (start, with_fin(end))))
    }

    /// Gives the host what it did not take before.
    pub(super) fn flush<S: Stream>(&mut self, stream: &mut S) -> io::Result<()> {
        while self.writable && !self.pending.is_empty() {
            match stream.send(self.pending.as_slices().0) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        if self.pending.is_empty() && self.pending.capacity() > 65_536 {
            self.pending = VecDeque::new();
        }
        if self.finished && self.pending.is_empty() && !self.told {
            self.told = true;
            stream.finish()?;
        }
        Ok(())
    }

    /// Takes bytes that are next: to the host directly as far as it takes them.
    fn take<S: Stream>(&mut self, mut bytes: &[u8], stream: &mut S) -> io::Result<()> {
        self.next = sequence::plus(self.next, bytes.len());
        self.flush(stream)?;
        while self.writable && self.pending.is_empty() && !bytes.is_empty() {
            match stream.send(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        self.pending.extend(bytes);
        Ok(())
    }
}
