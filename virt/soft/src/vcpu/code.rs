//! From RIP to a decoded block: translate, look up, decode.

use interp::cpu::Mode;
use interp::{CodeSize, Op, decode};
use memory::RamOffset;
use x86::{Exception, Vector};

use super::SoftVcpu;
use crate::block::BLOCK_OPS;
use crate::bus::tlb::Kind;
use crate::bus::{Place, SoftBus};
use interp::OpFlags;

/// What RIP points at.
pub(super) enum Code {
    /// A cached block.
    Block(u32),
    /// One instruction from something that is not RAM; never cached.
    Single(Op<SoftBus>),
}

impl SoftVcpu {
    /// Code size of the present mode.
    #[inline(always)]
    pub(super) fn code_size(&self) -> CodeSize {
        match self.cpu.mode {
            Mode::Long => CodeSize::Bits64,
            Mode::Protected32 => CodeSize::Bits32,
            _ if self.cpu.state.segments[1].is_big() => CodeSize::Bits32,
            _ => CodeSize::Bits16,
        }
    }

    /// Linear address of RIP.
    #[inline(always)]
    pub(super) fn linear_rip(&self) -> u64 {
        if self.cpu.mode == Mode::Long {
            return self.cpu.rip();
        }
        self.cpu.state.segments[1].base.wrapping_add(self.cpu.rip()) & 0xffff_ffff
    }

    /// Finds or decodes the code at RIP. `Err`: the fault of the fetch.
    #[inline]
    pub(super) fn code(&mut self) -> Result<Code, Exception> {
        let linear = self.linear_rip();
        let size = self.code_size();
        let generation = self.cpu.bus.tlb.generation();
        if let Some(block) = self.cache.jump(linear, generation, size) {
            return Ok(Code::Block(block));
        }
        self.code_slow(linear, size)
    }

    #[cold]
    fn code_slow(&mut self, linear: u64, size: CodeSize) -> Result<Code, Exception> {
        if self.cpu.bus.vectors.is_nearly_full() {
            // Decoded blocks hold handles of the unit: they go together.
            self.cache.clear();
            if let Some(native) = &mut self.native {
                native.forget_ops();
            }
            self.cpu.bus.vectors.clear();
        }
        let code = self.find_or_decode(linear, size)?;
        if let Code::Block(block) = code {
            let generation = self.cpu.bus.tlb.generation();
            self.cache.remember(linear, generation, size, block);
        }
        Ok(code)
    }

    fn fetch_place(&mut self, linear: u64) -> Result<Place, Exception> {
        match self.cpu.bus.tlb.lookup(Kind::Fetch, linear, 1) {
            Some(offset) => Ok(Place::Ram(offset)),
            None => self.cpu.bus.translate(Kind::Fetch, linear),
        }
    }

    fn find_or_decode(&mut self, linear: u64, size: CodeSize) -> Result<Code, Exception> {
        let ram = match self.fetch_place(linear)? {
            Place::Ram(offset) => offset,
            Place::Device(_) => return self.decode_from_device(linear, size),
        };
        if let Some(block) = self.cache.find(ram.0, size) {
            let Some(second) = self.cache.get(block).second_page else {
                return Ok(Code::Block(block));
            };
            if self.second_page(linear)? == Some(second) {
                return Ok(Code::Block(block));
            }
        }
        self.decode_block(linear, ram, size)
    }

    /// The page of RAM after the one `linear` lies in.
    fn second_page(&mut self, linear: u64) -> Result<Option<u64>, Exception> {
        let next = self.wrap((linear & !0xfff).wrapping_add(0x1000));
        Ok(match self.fetch_place(next)? {
            Place::Ram(offset) => Some(offset.0 >> 12),
            Place::Device(_) => None,
        })
    }

    fn wrap(&self, linear: u64) -> u64 {
        if self.cpu.mode == Mode::Long { linear } else { linear & 0xffff_ffff }
    }

    fn decode_block(
        &mut self,
        linear: u64,
        ram: RamOffset,
        size: CodeSize,
    ) -> Result<Code, Exception> {
        self.cpu.bus.watch_code_page(ram.0 >> 12);
        let mut bytes = [0; BLOCK_OPS * 15];
        let left = (4096 - (ram.0 & 0xfff) as usize).min(bytes.len());
        self.cpu.bus.memory.read_bytes(ram, &mut bytes[..left]);
        let mut ops = std::mem::take(&mut self.decoded);
        ops.clear();
        let mut at = 0;
        while at < left && ops.len() < BLOCK_OPS {
            let Ok(op) = decode(&bytes[at..left], size, &mut self.cpu.bus) else { break };
            at += usize::from(op.len);
            ops.push(op);
            if op.flags.contains(OpFlags::ENDS_BLOCK) {
                break;
            }
        }
        let block = (!ops.is_empty()).then(|| self.cache.insert(ram.0, size, &ops, None));
        self.decoded = ops;
        match block {
            Some(block) => Ok(Code::Block(block)),
            None => self.decode_crossing(linear, ram, size),
        }
    }

    /// An instruction that begins in one page and ends in the next.
    fn decode_crossing(
        &mut self,
        linear: u64,
        ram: RamOffset,
        size: CodeSize,
    ) -> Result<Code, Exception> {
        let Some(second) = self.second_page(linear)? else {
            return self.decode_from_device(linear, size);
        };
        self.cpu.bus.watch_code_page(second);
        let mut bytes = [0; 15];
        let left = (4096 - (ram.0 & 0xfff) as usize).min(15);
        self.cpu.bus.memory.read_bytes(ram, &mut bytes[..left]);
        self.cpu.bus.memory.read_bytes(RamOffset(second << 12), &mut bytes[left..]);
        let op = decode(&bytes, size, &mut self.cpu.bus).expect("15 bytes hold any instruction");
        Ok(Code::Block(self.cache.insert(ram.0, size, &[op], Some(second))))
    }

    /// Code outside RAM, read byte by byte.
    fn decode_from_device(&mut self, linear: u64, size: CodeSize) -> Result<Code, Exception> {
        let mut bytes = [0; 15];
        for length in 1..=bytes.len() {
            let at = self.wrap(linear.wrapping_add(length as u64 - 1));
            let place = self.fetch_place(at)?;
            self.cpu.bus.read_place(place, &mut bytes[length - 1..length]);
            if let Ok(op) = decode(&bytes[..length], size, &mut self.cpu.bus) {
                return Ok(Code::Single(op));
            }
        }
        unreachable!("15 bytes hold any instruction");
    }

    /// Checks a fetch of `bytes` at RIP against CS's limit (64-bit mode has none).
    #[inline(always)]
    pub(super) fn inside_code_segment(&self, bytes: u32) -> bool {
        self.cpu.mode == Mode::Long
            || self.cpu.rip() + u64::from(bytes) <= u64::from(self.cpu.state.segments[1].limit) + 1
    }

    /// The fault of a fetch beyond CS's limit.
    pub(super) const BEYOND_LIMIT: Exception = Exception::with_code(Vector::GeneralProtection, 0);
}
