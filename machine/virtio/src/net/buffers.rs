//! A pair's buffers for frames, taken from its receive queue ahead of them.
//!
//! Invariant: at most as many chains wait here as hold what was wanted, and the last of them.

use std::collections::VecDeque;

use super::FRAME_MAX;
use super::header::{HEADER_BYTES, Header};
use crate::queue::{Broken, Chain, Queue};

/// How frames lie in buffers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// A frame may go on in the next chain.
    pub(super) merges: bool,
    /// The largest frame that is one packet on the link.
    pub(super) packet: usize,
    /// The driver takes larger ones.
    pub(super) large: bool,
}

impl Shape {
    /// Bytes of buffers that are taken ahead.
    pub(super) fn ahead(self) -> usize {
        match (self.merges, self.large) {
            (false, _) => 1, // any chain: a frame does not go on in the next
            (true, false) => HEADER_BYTES + self.packet,
            (true, true) => HEADER_BYTES + FRAME_MAX,
        }
    }
}

/// Chains that wait for frames.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    chains: VecDeque<Chain>,
    /// Bytes that all of them hold.
    bytes: usize,
    /// The driver ever gave one.
    given: bool,
}

impl Buffers {
    /// Takes buffers until the largest frame that may come fits.
    pub(super) fn fill(&mut self, queue: &mut Queue, shape: Shape) -> Result<(), Broken> {
        while self.lacks(shape) {
            let Some(chain) = queue.pop()? else { break };
            // Without merging, one that holds no byte of a frame would never be used up.
            let least = HEADER_BYTES + usize::from(!shape.merges);
            if (chain.writable() as usize) < least {
                return Err(Broken::Protocol("a network buffer too small for a header"));
            }
            self.given = true;
            self.bytes += chain.writable() as usize;
            self.chains.push_back(chain);
        }
        Ok(())
    }

    /// Whether more are wanted than are there.
    pub(super) fn lacks(&self, shape: Shape) -> bool {
        self.bytes < shape.ahead()
    }

    /// Whether the driver ever gave one: until then it does not expect frames here.
    pub(super) fn is_used(&self) -> bool {
        self.given
    }

    /// Bytes that a frame may have now; `None` if not even an ordinary one fits.
    pub(super) fn room(&self, shape: Shape) -> Option<usize> {
        let room = match shape.merges {
            true => self.bytes,
            false => self.chains.front().map_or(0, |chain| chain.writable() as usize),
        };
        // A driver whose buffers are smaller than the link's packets gets what fits.
        let enough = room >= HEADER_BYTES + shape.packet || (!shape.merges && room > HEADER_BYTES);
        enough.then(|| (room - HEADER_BYTES).min(FRAME_MAX))
    }

    /// Gives the driver a frame that fits, in as many chains as it takes.
    pub(super) fn give(&mut self, queue: &mut Queue, header: &Header, frame: &[u8]) {
        let (mut covered, mut count) = (0, 0);
        while covered < HEADER_BYTES + frame.len() {
            covered += self.chains[count].writable() as usize;
            count += 1;
        }
        self.bytes -= covered;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..10].copy_from_slice(&header.encode());
        bytes[10..].copy_from_slice(&(count as u16).to_le_bytes());
        self.chains[0].write(&bytes);
        let mut done = 0;
        for chain in self.chains.iter_mut().take(count) {
            done += chain.write(&frame[done..]);
        }
        queue.push_all(self.chains.drain(..count));
    }

    /// Puts all back into their queue.
    pub(super) fn put_back(&mut self, queue: &mut Queue) {
        (self.bytes, self.given) = (0, false);
        self.chains.drain(..).for_each(|chain| queue.put_back(chain));
    }
}
