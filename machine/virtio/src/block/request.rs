//! Block requests (virtio 1.2, 5.2.6).
//!
//! ```text
//! readable  type u32, reserved u32, sector u64 | data to write, or ranges { sector u64, count u32, flags u32 }
//! writable  data that was read                 | status u8, the last byte
//! ```
//!
//! A request is done at once, or handed to a [`Lane`] and finished later. Invariant: what is done at
//! once goes through one buffer of [`CHUNK`] bytes, whatever a request's length.

use std::sync::Arc;

use super::disk::{Disk, DiskError, Lane};
use super::{MOST_RANGE_SECTORS, MOST_RANGES, SECTOR};
use crate::faults::Counter;
use crate::queue::{Broken, Chain};

const CHUNK: usize = 256 << 10;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const UNMAP: u32 = 1;
const RANGE_BYTES: u32 = 16;

/// Why a request was not done; each is a status.
enum Refusal {
    Failed,
    Unsupported,
}

impl From<DiskError> for Refusal {
    fn from(_: DiskError) -> Self {
        Self::Failed
    }
}

/// What a request begins with, and its room for data.
#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    sector: u64,
    /// Bytes that may be written, the status apart.
    room: u32,
}

impl Header {
    fn take(chain: &mut Chain) -> Result<Self, Broken> {
        let mut header = [0; 16];
        if chain.read(&mut header) < header.len() {
            return Err(Broken::Protocol("a block request without a header"));
        }
        let Some(room) = chain.writable().checked_sub(1) else {
            return Err(Broken::Protocol("a block request without room for its status"));
        };
        let word = u128::from_le_bytes(header);
        Ok(Self { kind: word as u32, sector: (word >> 64) as u64, room })
    }
}

/// Writes the status.
fn finish(chain: &mut Chain, done: Result<(), Refusal>) {
    let status = match done {
        Ok(()) => 0,
        Err(Refusal::Failed) => 1,
        Err(Refusal::Unsupported) => 2,
    };
    chain.skip_to_last();
    chain.write(&[status]);
}

/// Writes the status of what a lane did, which filled all that the chain gave it.
pub(super) fn finish_landed(chain: &mut Chain, done: Result<(), DiskError>) {
    if done.is_ok() {
        chain.count_taken();
    }
    finish(chain, done.map_err(Refusal::from));
}

/// Serves requests on a disk.
pub(super) struct Requests {
    disk: Arc<dyn Disk>,
    id: [u8; 20],
    write_through: bool,
    /// Those that fail because somebody wants it.
    failing: Counter,
    buffer: Vec<u8>,
}

impl Requests {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        id: [u8; 20],
        write_through: bool,
        failing: Counter,
    ) -> Self {
        Self { disk, id, write_through, failing, buffer: vec![0; CHUNK] }
    }

    /// The disk.
    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Does what a chain asks and writes its status.
    pub(super) fn serve(&mut self, chain: &mut Chain) -> Result<(), Broken> {
        let header = Header::take(chain)?;
        let done = match self.fails(header) {
            true => Err(Refusal::Failed),
            false => self.do_now(header, chain),
        };
        finish(chain, done);
        Ok(())
    }

    /// Whether this one of those that concern the disk is to fail.
    fn fails(&mut self, header: Header) -> bool {
        header.kind != GET_ID && self.failing.hits()
    }

    /// Hands what a chain asks to the lane under this tag: true; or does it, with its status.
    pub(super) fn begin(
        &mut self,
        chain: &mut Chain,
        lane: &mut dyn Lane,
        tag: u32,
    ) -> Result<bool, Broken> {
        let header = Header::take(chain)?;
        if self.fails(header) {
            finish(chain, Err(Refusal::Failed));
            return Ok(false);
        }
        let begun = match header.kind {
            IN if header.room > 0 => self.place(header.sector, header.room.into()).map(|offset| {
                lane.read(tag, offset, chain.take_writable(1));
            }),
            OUT if chain.readable() > 0 && !self.disk.read_only() => {
                self.place(header.sector, chain.readable().into()).map(|offset| {
                    lane.write(tag, offset, chain.take_readable());
                })
            }
            FLUSH => {
                lane.flush(tag);
                Ok(())
            }
            _ => {
                let done = self.do_now(header, chain);
                finish(chain, done);
                return Ok(false);
            }
        };
        let refused = begun.is_err();
        if refused {
            finish(chain, begun);
        }
        Ok(!refused)
    }

    fn do_now(&mut self, header: Header, chain: &mut Chain) -> Result<(), Refusal> {
        let Header { kind, sector, room } = header;
        match kind {
            IN => self.read(sector, room.into(), chain),
            OUT => self.write(sector, chain),
            FLUSH => self.disk.flush().map_err(Refusal::from),
            GET_ID => {
                let length = self.id.len().min(room as usize);
                chain.write(&self.id[..length]);
                Ok(())
            }
            DISCARD | WRITE_ZEROES => self.ranges(kind, chain),
            _ => Err(Refusal::Unsupported),
        }
    }

    /// Bytes from the start of a range of sectors that lies on the disk.
    fn place(&self, sector: u64, length: u64) -> Result<u64, Refusal> {
        let offset = sector.checked_mul(SECTOR).ok_or(Refusal::Failed)?;
        let end = offset.checked_add(length).ok_or(Refusal::Failed)?;
        let sound = length.is_multiple_of(SECTOR) && end <= self.disk.capacity();
        sound.then_some(offset).ok_or(Refusal::Failed)
    }

    fn read(&mut self, sector: u64, length: u64, chain: &mut Chain) -> Result<(), Refusal> {
        let start = self.place(sector, length)?;
        let mut done = 0;
        while done < length {
            let piece = &mut self.buffer[..CHUNK.min((length - done) as usize)];
            self.disk.read_at(start + done, piece)?;
            chain.write(piece);
            done += piece.len() as u64;
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, chain: &mut Chain) -> Result<(), Refusal> {
        let mut at = self.place(sector, chain.readable().into())?;
        if self.disk.read_only() {
            return Err(Refusal::Failed);
        }
        while chain.readable() > 0 {
            let count = chain.read(&mut self.buffer);
            self.disk.write_at(at, &self.buffer[..count])?;
            at += count as u64;
        }
        self.settle()
    }

    /// Discard, write zeroes: all ranges are looked at before the first is changed.
    fn ranges(&mut self, kind: u32, chain: &mut Chain) -> Result<(), Refusal> {
        let length = chain.readable();
        if length == 0 || !length.is_multiple_of(RANGE_BYTES) || length / RANGE_BYTES > MOST_RANGES
        {
            return Err(Refusal::Unsupported);
        }
        let allowed = if kind == WRITE_ZEROES { UNMAP } else { 0 };
        let mut ranges = Vec::with_capacity((length / RANGE_BYTES) as usize);
        let mut bytes = [0; RANGE_BYTES as usize];
        while chain.read(&mut bytes) == bytes.len() {
            let word = u128::from_le_bytes(bytes);
            let (sector, count, flags) = (word as u64, (word >> 64) as u32, (word >> 96) as u32);
            if flags & !allowed != 0 || count > MOST_RANGE_SECTORS {
                return Err(Refusal::Unsupported);
            }
            let length = u64::from(count) * SECTOR;
            ranges.push((self.place(sector, length)?, length, flags & UNMAP != 0));
        }
        if self.disk.read_only() {
            return Err(Refusal::Failed);
        }
        for (offset, length, unmap) in ranges.into_iter().filter(|range| range.1 > 0) {
            match kind {
                DISCARD => self.disk.discard(offset, length)?,
                _ => self.disk.write_zeroes(offset, length, unmap)?,
            }
        }
        self.settle()
    }

    fn settle(&self) -> Result<(), Refusal> {
        match self.write_through {
            true => Ok(self.disk.flush()?),
            false => Ok(()),
        }
    }
}
