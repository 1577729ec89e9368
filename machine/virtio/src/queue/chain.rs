//! A descriptor chain (virtio 1.2, 2.7.5): what the driver wants read, then what it wants written.
//!
//! Invariants: a walk ends after as many steps as the queue has descriptors, or an indirect table
//! [`MOST_DESCRIPTORS`]; every buffer lies in one region of RAM; readable ones come first; the sum of
//! lengths fits 32 bits.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use memory::{GuestMemory, RamOffset};
use x86::GuestPhys;

use super::{Broken, MOST_DESCRIPTORS, Queue};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const DESCRIPTOR_BYTES: u32 = 16;

/// One buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    start: GuestPhys,
    length: u32,
}

/// Buffers of one direction, and how far they were used.
#[derive(Debug, Default)]
struct Segments {
    list: Vec<Segment>,
    /// The current segment, and bytes of it that were used.
    at: usize,
    done: u32,
    left: u32,
}

impl Segments {
    /// The next run of at most `most` bytes.
    fn next(&mut self, most: usize) -> Option<(GuestPhys, usize)> {
        let segment = *self.list.get(self.at)?;
        let run = (segment.length - self.done).min(u32::try_from(most).unwrap_or(u32::MAX));
        let start = segment.start + u64::from(self.done);
        self.done += run;
        self.left -= run;
        if self.done == segment.length {
            (self.at, self.done) = (self.at + 1, 0);
        }
        (run > 0).then_some((start, run as usize))
    }

    /// The next runs of at most `most` bytes and 1024 pieces, without using them up.
    fn runs(&self, memory: &GuestMemory, most: usize) -> Vec<(RamOffset, u64)> {
        let mut runs = Vec::new();
        let mut left = u32::try_from(most).unwrap_or(u32::MAX);
        let mut done = self.done;
        for segment in self.list[self.at..].iter().take(usize::from(MOST_DESCRIPTORS)) {
            let run = (segment.length - done).min(left);
            if run == 0 {
                break;
            }
            let (place, _) = memory
                .locate(segment.start + u64::from(done))
                .expect("the walk checked that the buffer is RAM");
            runs.push((place, u64::from(run)));
            (left, done) = (left - run, 0);
        }
        runs
    }

    /// Uses up bytes that were handled elsewhere.
    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some((_, run)) = self.next(bytes) else { break };
            bytes -= run;
        }
    }
}

/// A chain that was taken from a queue and must be given back to it.
#[derive(Debug)]
pub struct Chain {
    memory: Arc<GuestMemory>,
    head: u16,
    readable: Segments,
    writable: Segments,
    /// Bytes that were given out by `take_writable`, and are not counted as written.
    taken: u32,
    written: u32,
}

#[derive(Clone, Copy)]
struct Descriptor {
    address: GuestPhys,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn decode(bytes: [u8; 16]) -> Self {
        let word = u128::from_le_bytes(bytes);
        Self {
            address: GuestPhys(word as u64),
            length: (word >> 64) as u32,
            flags: (word >> 96) as u16,
            next: (word >> 112) as u16,
        }
    }
}

impl Chain {
    pub(super) fn walk(queue: &Queue, head: u16) -> Result<Self, Broken> {
        let mut chain = Self {
            memory: queue.memory.clone(),
            head,
            readable: Segments::default(),
            writable: Segments::default(),
            taken: 0,
            written: 0,
        };
        let mut index = head;
        for _ in 0..queue.size {
            if index >= queue.size {
                return Err(Broken::Descriptor(index));
            }
            let mut bytes = [0; 16];
            let place = super::at(queue.descriptors, 16 * u64::from(index));
            queue.memory.read_bytes(place, &mut bytes);
            let descriptor = Descriptor::decode(bytes);
            if descriptor.flags & INDIRECT != 0 {
                if !queue.indirect || descriptor.flags & NEXT != 0 {
                    return Err(Broken::Indirect(descriptor.address));
                }
                chain.walk_indirect(descriptor)?;
                return Ok(chain);
            }
            chain.add(descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(chain);
            }
            index = descriptor.next;
        }
        Err(Broken::Endless)
    }

    /// The chain in a table of its own (2.7.5.3), which holds no further tables.
    fn walk_indirect(&mut self, table: Descriptor) -> Result<(), Broken> {
        let broken = Broken::Indirect(table.address);
        let entries = table.length / DESCRIPTOR_BYTES;
        if entries == 0
            || entries > u32::from(MOST_DESCRIPTORS)
            || !table.length.is_multiple_of(DESCRIPTOR_BYTES)
        {
            return Err(broken);
        }
        let mut bytes = vec![0; table.length as usize];
        self.memory.read_physical(table.address, &mut bytes).map_err(|_| broken)?;
        let (descriptors, _) = bytes.as_chunks::<16>();
        let mut index = 0;
        for _ in 0..entries {
            let bytes = descriptors.get(usize::from(index)).ok_or(Broken::Descriptor(index))?;
            let descriptor = Descriptor::decode(*bytes);
            if descriptor.flags & INDIRECT != 0 {
                return Err(broken);
            }
            self.add(descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
        Err(Broken::Endless)
    }

    fn add(&mut self, descriptor: Descriptor) -> Result<(), Broken> {
        let Descriptor { address: start, length, flags, .. } = descriptor;
        if length == 0 {
            return Err(Broken::Empty(start));
        }
        match self.memory.locate(start) {
            Some((_, follows)) if follows >= u64::from(length) => {}
            _ => return Err(Broken::Buffer(start)),
        }
        let total = self.readable.left.checked_add(self.writable.left);
        if total.and_then(|total| total.checked_add(length)).is_none() {
            return Err(Broken::TooLarge);
        }
        let segments = match flags & WRITE != 0 {
            true => &mut self.writable,
            false if self.writable.list.is_empty() => &mut self.readable,
            false => return Err(Broken::Order),
        };
        segments.list.push(Segment { start, length });
        segments.left += length;
        Ok(())
    }

    /// Its first descriptor's number.
    pub(super) fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that are left to read.
    pub fn readable(&self) -> u32 {
        self.readable.left
    }

    /// Bytes that are left to write.
    pub fn writable(&self) -> u32 {
        self.writable.left
    }

    /// Bytes that were written.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// Copies the next bytes to read; gives how many there were.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some((start, run)) = self.readable.next(into.len() - done) {
            let copied = self.memory.read_physical(start, &mut into[done..done + run]);
            copied.expect("the walk checked that the buffer is RAM");
            done += run;
        }
        done
    }

    /// Skips all bytes to write but the last one; `written` counts none of them.
    pub fn skip_to_last(&mut self) {
        while self.writable.left > 1 {
            let most = self.writable.left as usize - 1;
            self.writable.next(most);
        }
    }

    /// Takes the next buffer to write as it is, for devices that are told of memory rather than
    /// given room for an answer; [`Chain::written`] does not count it.
    pub fn next_writable(&mut self) -> Option<(GuestPhys, u64)> {
        let (start, length) = self.writable.next(usize::MAX)?;
        Some((start, length as u64))
    }

    /// Takes all that is left to read, as pieces of RAM: for whoever copies it by other means.
    pub fn take_readable(&mut self) -> Vec<(RamOffset, u32)> {
        let most = self.readable.left;
        take(&self.memory, &mut self.readable, most)
    }

    /// Takes all that is left to write but the last `keep` bytes, as pieces of RAM. Whoever fills
    /// them marks their pages (`GuestMemory::note_written`) and says so by
    /// [`Chain::count_taken`].
    pub fn take_writable(&mut self, keep: u32) -> Vec<(RamOffset, u32)> {
        let most = self.writable.left.saturating_sub(keep);
        self.taken += most;
        take(&self.memory, &mut self.writable, most)
    }

    /// What [`Chain::take_writable`] gave was written.
    pub fn count_taken(&mut self) {
        self.written += std::mem::take(&mut self.taken);
    }

    /// Copies bytes to where the next ones are to be written; gives how many had room.
    pub fn write(&mut self, from: &[u8]) -> usize {
        let mut done = 0;
        while let Some((start, run)) = self.writable.next(from.len() - done) {
            let copied = self.memory.write_physical(start, &from[done..done + run]);
            copied.expect("the walk checked that the buffer is RAM");
            done += run;
        }
        self.written += done as u32;
        done
    }

    /// Leaves the next bytes to write out, for [`Chain::write_start`]; they count as written.
    pub fn skip(&mut self, count: usize) {
        let count = count.min(self.writable.left as usize);
        self.writable.advance(count);
        self.written += count as u32;
    }

    /// Writes over the first bytes to write, whatever came after.
    pub fn write_start(&mut self, from: &[u8]) {
        let mut done = 0;
        for segment in &self.writable.list {
            let run = (from.len() - done).min(segment.length as usize);
            let copied = self.memory.write_physical(segment.start, &from[done..done + run]);
            copied.expect("the walk checked that the buffer is RAM");
            done += run;
            if done == from.len() {
                return;
            }
        }
    }

    /// Reads a file from `at` on into where the next bytes are to be written, without a copy; gives
    /// how many there were.
    ///
    /// # Errors
    /// As preadv(2).
    pub fn read_file(&mut self, file: BorrowedFd<'_>, at: u64, count: usize) -> io::Result<usize> {
        let runs = self.writable.runs(&self.memory, count);
        let done = self.memory.read_file(&runs, file, at)?;
        self.writable.advance(done);
        self.written += done as u32;
        Ok(done)
    }

    /// Writes the next bytes to read to a file from `at` on, without a copy; gives how many it took.
    ///
    /// # Errors
    /// As pwritev(2).
    pub fn write_file(&mut self, file: BorrowedFd<'_>, at: u64, count: usize) -> io::Result<usize> {
        let runs = self.readable.runs(&self.memory, count);
        let done = self.memory.write_file(&runs, file, at)?;
        self.readable.advance(done);
        Ok(done)
    }
}

/// The next `most` bytes as pieces of RAM.
fn take(memory: &GuestMemory, segments: &mut Segments, most: u32) -> Vec<(RamOffset, u32)> {
    let (mut pieces, mut left) = (Vec::with_capacity(segments.list.len()), most as usize);
    while let Some((start, run)) = segments.next(left) {
        let (offset, _) = memory.locate(start).expect("the walk checked that the buffer is RAM");
        pieces.push((offset, run as u32));
        left -= run;
    }
    pieces
}
