//! REP MOVS and REP STOS by runs within a page.

use ::memory::RamOffset;
use interp::{StringAssist, Width};
use x86::Exception;

use super::SoftBus;
use super::tlb::Kind;
use super::translate::Place;

impl SoftBus {
    /// RAM behind one linear address for a run, or `None` where elements must go one at a time:
    /// devices, watched contexts, pages with decoded code.
    fn run_start(&mut self, kind: Kind, linear: u64) -> Result<Option<RamOffset>, Exception> {
        if self.context.watch || self.context.align_check {
            return Ok(None);
        }
        if let Some(offset) = self.tlb.lookup(kind, linear, 1) {
            return Ok(Some(offset));
        }
        Ok(match self.translate(kind, linear)? {
            Place::Ram(offset)
                if kind == Kind::Read || !self.memory.code().is_set(offset.0 >> 12) =>
            {
                Some(offset)
            }
            _ => None,
        })
    }
}

/// Bytes from `linear` to the end of its page.
fn page_left(linear: u64) -> u64 {
    4096 - (linear & 0xfff)
}

impl StringAssist for SoftBus {
    fn copy_forward(
        &mut self,
        from: u64,
        to: u64,
        bytes: u64,
        element: u64,
    ) -> Result<u64, Exception> {
        let run = bytes.min(page_left(from)).min(page_left(to));
        let run = run - run % element;
        if run == 0 {
            return Ok(0);
        }
        let Some(source) = self.run_start(Kind::Read, from)? else { return Ok(0) };
        let Some(target) = self.run_start(Kind::Write, to)? else { return Ok(0) };
        // A target just ahead of its source repeats the pattern, element by element.
        let ahead = target.0.wrapping_sub(source.0);
        if ahead != 0 && ahead < run {
            return Ok(0);
        }
        self.memory.copy_within(source, target, run);
        Ok(run)
    }

    fn fill_forward<W: Width>(&mut self, to: u64, bytes: u64, value: W) -> Result<u64, Exception> {
        let run = bytes.min(page_left(to));
        let run = run - run % W::BYTES;
        if run == 0 {
            return Ok(0);
        }
        let Some(target) = self.run_start(Kind::Write, to)? else { return Ok(0) };
        let raw = value.to_u64();
        let byte = raw as u8;
        let uniform = u64::from_le_bytes([byte; 8]) & W::MASK == raw;
        if uniform {
            self.memory.fill(target, run, byte);
            return Ok(run);
        }
        let size = W::BYTES as usize;
        let mut pattern = [0; 4096];
        for chunk in pattern[..run as usize].chunks_exact_mut(size) {
            chunk.copy_from_slice(&raw.to_le_bytes()[..size]);
        }
        self.memory.write_bytes(target, &pattern[..run as usize]);
        Ok(run)
    }
}
