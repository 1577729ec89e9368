//! Loads, stores and atomics at linear addresses: TLB hit, or the slow path in pieces.

use ::memory::{GuestPhys, RamOffset};
use interp::bus::Access;
use interp::{LinearMemory, Platform, Width};
use x86::Exception;

use super::SoftBus;
use super::tlb::Kind;
use super::translate::Place;

/// Up to two places an access of at most a page lies in: before and after a page boundary.
#[derive(Clone, Copy)]
struct Pieces {
    first: Place,
    first_len: u64,
    second: Option<Place>,
}

impl Pieces {
    fn on_device(&self) -> bool {
        let device = |place: Place| matches!(place, Place::Device(_));
        device(self.first) || self.second.is_some_and(device)
    }
}

macro_rules! by_width {
    ($width:ty, |$scalar:ident| $body:expr) => {
        match <$width>::BITS {
            8 => {
                type $scalar = u8;
                $body
            }
            16 => {
                type $scalar = u16;
                $body
            }
            32 => {
                type $scalar = u32;
                $body
            }
            _ => {
                type $scalar = u64;
                $body
            }
        }
    };
}

impl SoftBus {
    #[expect(clippy::unnecessary_cast, reason = "one of the four widths is u64 itself")]
    #[inline(always)]
    fn ram_load<W: Width>(&self, at: RamOffset) -> W {
        by_width!(W, |S| W::from_u64(self.memory.load::<S>(at) as u64))
    }

    #[inline(always)]
    fn ram_store<W: Width>(&self, at: RamOffset, value: W) {
        by_width!(W, |S| self.memory.store::<S>(at, value.to_u64() as S));
    }

    fn pieces(&mut self, kind: Kind, at: u64, size: u64) -> Result<Pieces, Exception> {
        let first_len = (4096 - (at & 0xfff)).min(size);
        let first = self.translate(kind, at)?;
        let second = if first_len < size {
            let next = at.wrapping_add(first_len);
            if x86::GuestVirt(next).is_canonical() != x86::GuestVirt(at).is_canonical() {
                return Err(Exception::GP0);
            }
            Some(self.translate(kind, self.wrap(next))?)
        } else {
            None
        };
        Ok(Pieces { first, first_len, second })
    }

    /// Linear addresses wrap at 4 GiB outside 64-bit mode.
    fn wrap(&self, linear: u64) -> u64 {
        if self.context.efer & x86::Efer::LMA.bits() == 0 { linear & 0xffff_ffff } else { linear }
    }

    pub(crate) fn read_place(&mut self, place: Place, into: &mut [u8]) {
        match place {
            Place::Ram(offset) => self.memory.read_bytes(offset, into),
            Place::Device(at) => {
                let mut done = 0;
                while done < into.len() {
                    let step = device_step(into.len() - done);
                    self.device_read(at + done as u64, &mut into[done..done + step]);
                    done += step;
                }
            }
        }
    }

    fn write_place(&mut self, place: Place, from: &[u8]) {
        match place {
            Place::Ram(offset) => {
                self.before_ram_write(offset);
                self.memory.write_bytes(offset, from);
            }
            Place::Device(at) => {
                let mut done = 0;
                while done < from.len() {
                    let step = device_step(from.len() - done);
                    self.device_write(at + done as u64, &from[done..done + step]);
                    done += step;
                }
            }
        }
    }

    /// Every slow RAM write passes here: decoded code under it goes stale.
    fn before_ram_write(&mut self, offset: RamOffset) {
        let page = offset.0 >> 12;
        if let Some(recording) = &mut self.recording {
            recording.note(&self.memory, offset);
            recording.refused |= self.memory.code().is_set(page);
            return;
        }
        self.memory.dirty().set(page);
        loop {
            self.note_written(page);
            if !self.memory.code().is_set(page) {
                break;
            }
            self.code_written(offset);
        }
    }

    fn device_read(&mut self, at: GuestPhys, into: &mut [u8]) {
        if self.is_lapic_page(at) {
            let value = self.lapic_mmio_read((at.0 & 0xfff) as u32, into.len());
            into.copy_from_slice(&value.to_le_bytes()[..into.len()]);
            return;
        }
        if self.with_io(|io| io.mmio_read(at, into)).is_none() {
            into.fill(0xff);
        }
    }

    fn device_write(&mut self, at: GuestPhys, from: &[u8]) {
        if self.is_lapic_page(at) {
            let mut value = [0; 8];
            value[..from.len()].copy_from_slice(from);
            self.lapic_mmio_write((at.0 & 0xfff) as u32, u64::from_le_bytes(value) as u32);
        } else {
            self.with_io(|io| io.mmio_write(at, from));
        }
        // What the write raised comes behind this instruction, not behind the block.
        self.cut |= self.attention();
    }

    #[cold]
    #[inline(never)]
    fn load_slow<W: Width>(&mut self, kind: Kind, at: u64) -> Result<W, Exception> {
        self.slow_checks(at, W::BYTES, kind == Kind::Write)?;
        let pieces = self.pieces(kind, at, W::BYTES)?;
        if let (Place::Ram(offset), None) = (pieces.first, pieces.second) {
            return Ok(self.ram_load(offset));
        }
        let mut bytes = [0; 8];
        let size = W::BYTES as usize;
        let split = pieces.first_len as usize;
        self.read_place(pieces.first, &mut bytes[..split]);
        if let Some(second) = pieces.second {
            self.read_place(second, &mut bytes[split..size]);
        }
        Ok(W::from_u64(u64::from_le_bytes(bytes)))
    }

    #[cold]
    #[inline(never)]
    fn store_slow<W: Width>(&mut self, at: u64, value: W) -> Result<(), Exception> {
        self.to_be_modified = None;
        self.slow_checks(at, W::BYTES, true)?;
        let pieces = self.pieces(Kind::Write, at, W::BYTES)?;
        if let (Place::Ram(offset), None) = (pieces.first, pieces.second) {
            self.before_ram_write(offset);
            self.ram_store(offset, value);
            return Ok(());
        }
        let bytes = value.to_u64().to_le_bytes();
        let size = W::BYTES as usize;
        let split = pieces.first_len as usize;
        self.write_place(pieces.first, &bytes[..split]);
        if let Some(second) = pieces.second {
            self.write_place(second, &bytes[split..size]);
        }
        Ok(())
    }
}

/// The largest power of two up to 8 that fits.
fn device_step(left: usize) -> usize {
    1 << left.min(8).ilog2()
}

impl LinearMemory for SoftBus {
    #[inline(always)]
    fn load<W: Width>(&mut self, at: u64) -> Result<W, Exception> {
        match self.tlb.lookup(Kind::Read, at, W::BYTES) {
            Some(offset) => Ok(self.ram_load(offset)),
            None => self.load_slow(Kind::Read, at),
        }
    }

    #[inline(always)]
    fn store<W: Width>(&mut self, at: u64, value: W) -> Result<(), Exception> {
        match self.tlb.lookup(Kind::Write, at, W::BYTES) {
            Some(offset) => {
                self.ram_store(offset, value);
                Ok(())
            }
            None => self.store_slow(at, value),
        }
    }

    #[inline(always)]
    fn load_for_write<W: Width>(&mut self, at: u64) -> Result<W, Exception> {
        match self.tlb.lookup(Kind::Write, at, W::BYTES) {
            Some(offset) => Ok(self.ram_load(offset)),
            None => {
                let value: W = self.load_slow(Kind::Write, at)?;
                self.to_be_modified = Some((at, value.to_u64()));
                Ok(value)
            }
        }
    }

    fn load_bytes(&mut self, at: u64, into: &mut [u8]) -> Result<(), Exception> {
        let size = into.len() as u64;
        if let Some(offset) = self.tlb.lookup(Kind::Read, at, size) {
            self.memory.read_bytes(offset, into);
            return Ok(());
        }
        self.slow_checks(at, size, false)?;
        let pieces = self.pieces(Kind::Read, at, size)?;
        let (head, tail) = into.split_at_mut(pieces.first_len as usize);
        self.read_place(pieces.first, head);
        if let Some(second) = pieces.second {
            self.read_place(second, tail);
        }
        Ok(())
    }

    fn store_bytes(&mut self, at: u64, from: &[u8]) -> Result<(), Exception> {
        let size = from.len() as u64;
        if let Some(offset) = self.tlb.lookup(Kind::Write, at, size) {
            self.memory.write_bytes(offset, from);
            return Ok(());
        }
        self.slow_checks(at, size, true)?;
        let pieces = self.pieces(Kind::Write, at, size)?;
        let (head, tail) = from.split_at(pieces.first_len as usize);
        self.write_place(pieces.first, head);
        if let Some(second) = pieces.second {
            self.write_place(second, tail);
        }
        Ok(())
    }

    fn probe(&mut self, at: u64, length: u64, access: Access) -> Result<(), Exception> {
        let kind = if access == Access::Write { Kind::Write } else { Kind::Read };
        if self.tlb.lookup(kind, at, length).is_none() {
            self.pieces(kind, at, length)?;
        }
        Ok(())
    }

    #[expect(clippy::unnecessary_cast, reason = "one of the four widths is u64 itself")]
    fn compare_exchange<W: Width>(&mut self, at: u64, expected: W, new: W) -> Result<W, Exception> {
        if self.tlb.lookup(Kind::Write, at, W::BYTES).is_none() {
            self.slow_checks(at, W::BYTES, true)?;
        }
        let pieces = self.pieces_cached(Kind::Write, at, W::BYTES)?;
        if let (Place::Ram(offset), None) = (pieces.first, pieces.second) {
            self.before_ram_write(offset);
            return Ok(by_width!(W, |S| {
                let (old, new) = (expected.to_u64() as S, new.to_u64() as S);
                W::from_u64(self.memory.compare_exchange::<S>(offset, old, new) as u64)
            }));
        }
        // Across pages or on a device: no host instruction does it, so one vCPU at a time.
        let shared = self.shared.clone();
        let _alone = self.lock_outside(&shared.split_lock);
        // A device is read once for a read-modify-write: one that answers anew each time would
        // never let LOCK end.
        let read = self.to_be_modified.take();
        let found = match read {
            Some((place, value)) if place == at && pieces.on_device() => W::from_u64(value),
            _ => self.load_slow(Kind::Write, at)?,
        };
        if found == expected {
            self.store_slow(at, new)?;
        }
        Ok(found)
    }

    fn compare_exchange_16(
        &mut self,
        at: u64,
        expected: u128,
        new: u128,
    ) -> Result<u128, Exception> {
        if self.tlb.lookup(Kind::Write, at, 16).is_none() {
            self.slow_checks(at, 16, true)?;
        }
        match self.pieces_cached(Kind::Write, at, 16)?.first {
            Place::Ram(offset) => {
                self.before_ram_write(offset);
                Ok(self.memory.compare_exchange_16(offset, expected, new))
            }
            place @ Place::Device(_) => {
                let mut bytes = [0; 16];
                self.read_place(place, &mut bytes);
                let found = u128::from_le_bytes(bytes);
                let value = if found == expected { new } else { found };
                self.write_place(place, &value.to_le_bytes());
                Ok(found)
            }
        }
    }

    fn load_system<W: Width>(&mut self, at: u64) -> Result<W, Exception> {
        if let Some(offset) = self.tlb.lookup_system(Kind::Read, at, W::BYTES) {
            return Ok(self.ram_load(offset));
        }
        let mut bytes = [0; 8];
        for (index, byte) in bytes.iter_mut().enumerate().take(W::BYTES as usize) {
            let linear = self.wrap(at.wrapping_add(index as u64));
            // The first byte of each page decides; within a page the rest follows.
            let place = self.translate_system(linear, false)?;
            if index == 0
                && (linear & 0xfff) + W::BYTES <= 4096
                && let Place::Ram(offset) = place
            {
                return Ok(self.ram_load(offset));
            }
            self.read_place(place, std::slice::from_mut(byte));
        }
        Ok(W::from_u64(u64::from_le_bytes(bytes)))
    }

    fn store_system<W: Width>(&mut self, at: u64, value: W) -> Result<(), Exception> {
        if let Some(offset) = self.tlb.lookup_system(Kind::Write, at, W::BYTES) {
            self.ram_store(offset, value);
            return Ok(());
        }
        let last = self.wrap(at.wrapping_add(W::BYTES - 1));
        let first = self.translate_system(at, true)?;
        if (at & 0xfff) + W::BYTES <= 4096
            && let Place::Ram(offset) = first
        {
            self.before_ram_write(offset);
            self.ram_store(offset, value);
            return Ok(());
        }
        self.translate_system(last, true)?;
        let bytes = value.to_u64().to_le_bytes();
        for (index, byte) in bytes.iter().enumerate().take(W::BYTES as usize) {
            let place = self.translate_system(self.wrap(at.wrapping_add(index as u64)), true)?;
            self.write_place(place, std::slice::from_ref(byte));
        }
        Ok(())
    }
}

impl SoftBus {
    /// Pieces of an access, from the TLB where it hits.
    fn pieces_cached(&mut self, kind: Kind, at: u64, size: u64) -> Result<Pieces, Exception> {
        match self.tlb.lookup(kind, at, size) {
            Some(offset) => Ok(Pieces { first: Place::Ram(offset), first_len: size, second: None }),
            None => self.pieces(kind, at, size),
        }
    }
}
