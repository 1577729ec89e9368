//! Descriptor-table registers and instructions that look at descriptors: LGDT to LTR, LAR, LSL,
//! VERR, VERW, ARPL (SDM vol. 2A, 2B).

use x86::{Flags, GuestVirt, Segment, TableRegister, segment::attr};

use super::segments::{Blame, Entry, is_null, null_segment};
use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec, Stop};
use crate::op::{Op, OpFlags};

/// Stores a table register: limit, then base (4 bytes, 8 in 64-bit mode).
fn store_table<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, table: TableRegister) -> Exec {
    cpu.require_umip()?;
    let length = if op.flags.contains(OpFlags::LONG_MODE) { 10 } else { 6 };
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    let at = cpu.linear(op, length, Access::Write)?;
    let stored = cpu.bus.store_bytes(at, &bytes[..length as usize]);
    stored.map_err(|exception| cpu.memory_fault(exception, op.segment))
}

/// Loads a table register; a 16-bit operand size (`extra` 2) takes 24 bits of base.
fn load_table<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec<TableRegister> {
    cpu.require_cpl0()?;
    let length = if op.flags.contains(OpFlags::LONG_MODE) { 10 } else { 6 };
    let mut bytes = [0; 16];
    let at = cpu.linear(op, length, Access::Read)?;
    if let Err(exception) = cpu.bus.load_bytes(at, &mut bytes[..length as usize]) {
        return Err(cpu.memory_fault(exception, op.segment));
    }
    let raw = u128::from_le_bytes(bytes);
    let mut base = (raw >> 16) as u64;
    if op.extra == 2 {
        base &= 0xff_ffff;
    }
    if length == 10 && !GuestVirt(base).is_canonical() {
        return Err(cpu.gp0());
    }
    Ok(TableRegister { base, limit: raw as u16 })
}

/// SGDT.
pub fn sgdt<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    store_table(cpu, op, cpu.state.gdtr)
}

/// SIDT.
pub fn sidt<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    store_table(cpu, op, cpu.state.idtr)
}

/// LGDT.
pub fn lgdt<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.state.gdtr = load_table(cpu, op)?;
    Ok(())
}

/// LIDT.
pub fn lidt<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.state.idtr = load_table(cpu, op)?;
    Ok(())
}

/// #UD in real and vm86 mode.
fn require_protected<B: Bus>(cpu: &mut Cpu<B>) -> Exec {
    if cpu.has_real_segments() { Err(cpu.ud()) } else { Ok(()) }
}

/// The r/m16 operand of the selector instructions: register `slot`, or memory (`src2` = 1).
fn selector_operand<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, slot: u8) -> Exec<u16> {
    if op.src2 == FROM_MEMORY { cpu.load(op) } else { Ok(cpu.reg(slot)) }
}

/// `Op::src2` of the instructions here when their r/m operand is memory.
pub const FROM_MEMORY: u8 = 1;

fn store_selector<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, selector: u16) -> Exec {
    require_protected(cpu)?;
    cpu.require_umip()?;
    if op.src2 == FROM_MEMORY {
        return cpu.store(op, selector);
    }
    match op.extra {
        2 => cpu.set_reg(op.dst, selector),
        _ => cpu.set_reg(op.dst, u64::from(selector)),
    }
    Ok(())
}

/// SLDT.
pub fn sldt<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    store_selector(cpu, op, cpu.state.ldtr.selector)
}

/// STR.
pub fn str<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    store_selector(cpu, op, cpu.state.tr.selector)
}

impl<B: Bus> Cpu<B> {
    /// A system descriptor with its whole base: 16 bytes in IA-32e mode.
    fn system_segment(&mut self, entry: Entry) -> Exec<Segment> {
        let mut segment = entry.segment();
        if self.is_ia32e() {
            segment.base |= self.upper_half(entry, Blame::INSTRUCTION)? << 32;
            if !GuestVirt(segment.base).is_canonical() {
                return Err(self.gp0());
            }
        }
        Ok(segment)
    }
}

/// LLDT.
pub fn lldt<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    cpu.require_cpl0()?;
    let selector = selector_operand(cpu, op, op.dst)?;
    if is_null(selector) {
        cpu.state.ldtr = null_segment(selector);
        return Ok(());
    }
    let blame = Blame::INSTRUCTION;
    if selector & 4 != 0 {
        return Err(cpu.selector_fault(blame, selector));
    }
    let entry = cpu.descriptor(selector, blame)?;
    if entry.kind() != 2 {
        return Err(cpu.selector_fault(blame, selector));
    }
    if !entry.is_present() {
        return Err(cpu.not_present(blame, selector));
    }
    cpu.state.ldtr = cpu.system_segment(entry)?;
    Ok(())
}

/// LTR: marks the TSS busy.
pub fn ltr<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    cpu.require_cpl0()?;
    let selector = selector_operand(cpu, op, op.dst)?;
    let blame = Blame::INSTRUCTION;
    if is_null(selector) {
        return Err(cpu.gp0());
    }
    if selector & 4 != 0 {
        return Err(cpu.selector_fault(blame, selector));
    }
    let entry = cpu.descriptor(selector, blame)?;
    let available = entry.kind() == 9 || entry.kind() == 1 && !cpu.is_ia32e();
    if !available {
        return Err(cpu.selector_fault(blame, selector));
    }
    if !entry.is_present() {
        return Err(cpu.not_present(blame, selector));
    }
    let mut tr = cpu.system_segment(entry)?;
    cpu.table_store(entry.at.wrapping_add(5), (entry.raw.0 >> 40) as u8 | 2)?;
    tr.attributes |= 2;
    cpu.state.tr = tr;
    Ok(())
}

impl<B: Bus> Cpu<B> {
    /// A descriptor if the selector names one; page faults are raised.
    fn inspect(&mut self, selector: u16) -> Exec<Option<Entry>> {
        if is_null(selector) {
            return Ok(None);
        }
        match self.descriptor(selector, Blame::INSTRUCTION) {
            Ok(entry) => Ok(Some(entry)),
            Err(trap) => {
                let outside = x86::Exception::gp(u32::from(selector & !3));
                if self.stop == Stop::Fault(outside) {
                    self.stop = Stop::None;
                    return Ok(None);
                }
                Err(trap)
            }
        }
    }

    fn set_zero_flag(&mut self, zero: bool) {
        let bits = if zero { Flags::ZF.bits() } else { 0 };
        self.flags = self.flags.merged(Flags::ZF.bits(), bits);
    }

    /// Visible at CPL and RPL: conforming code, or a DPL not below either.
    fn is_visible(&self, segment: &Segment) -> bool {
        let conforming = segment.is_code() && segment.attributes & attr::DOWN_CONFORMING != 0;
        conforming || segment.dpl() >= self.cpl && segment.dpl() >= segment.rpl()
    }
}

/// Types of system descriptors LAR accepts, as bits; LSL's lack the gates.
fn system_kinds<B: Bus>(cpu: &Cpu<B>, gates: bool) -> u32 {
    match (cpu.is_ia32e(), gates) {
        (true, true) => 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12,
        (true, false) => 1 << 2 | 1 << 9 | 1 << 11,
        (false, true) => 0b0001_1010_0011_1110,
        (false, false) => 0b0000_1010_0000_1110,
    }
}

/// LAR and LSL: the value for the destination, if the selector passes.
fn descriptor_info<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, rights: bool) -> Exec {
    require_protected(cpu)?;
    let selector = selector_operand(cpu, op, op.src)?;
    let entry = cpu.inspect(selector)?;
    let kinds = system_kinds(cpu, rights);
    let found = entry.filter(|entry| {
        let fits = entry.kind() & 16 != 0 || kinds >> entry.kind() & 1 != 0;
        fits && cpu.is_visible(&entry.segment())
    });
    if let Some(entry) = found {
        let value =
            if rights { entry.raw.0 >> 32 & 0x00ff_ff00 } else { u64::from(entry.segment().limit) };
        match op.extra {
            2 => cpu.set_reg(op.dst, value as u16),
            _ => cpu.set_reg(op.dst, value),
        }
    }
    cpu.set_zero_flag(found.is_some());
    Ok(())
}

/// LAR.
pub fn lar<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    descriptor_info(cpu, op, true)
}

/// LSL.
pub fn lsl<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    descriptor_info(cpu, op, false)
}

fn verify<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, write: bool) -> Exec {
    require_protected(cpu)?;
    let selector = selector_operand(cpu, op, op.dst)?;
    let fine = cpu.inspect(selector)?.is_some_and(|entry| {
        let segment = entry.segment();
        let usable = match (segment.is_code(), segment.attributes & attr::WRITE_READ != 0) {
            (true, readable) => readable && !write,
            (false, writable) => writable || !write,
        };
        segment.attributes & attr::S != 0 && usable && cpu.is_visible(&segment)
    });
    cpu.set_zero_flag(fine);
    Ok(())
}

/// VERR.
pub fn verr<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    verify(cpu, op, false)
}

/// VERW.
pub fn verw<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    verify(cpu, op, true)
}

/// What ARPL makes of a destination selector: raised RPL, or nothing.
fn adjust(destination: u16, source: u16) -> Option<u16> {
    (destination & 3 < source & 3).then_some(destination & !3 | source & 3)
}

/// ARPL r16, r16.
pub fn arpl_register<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    let adjusted = adjust(cpu.reg(op.dst), cpu.reg(op.src));
    if let Some(value) = adjusted {
        cpu.set_reg(op.dst, value);
    }
    cpu.set_zero_flag(adjusted.is_some());
    Ok(())
}

/// ARPL m16, r16: memory is written only if the selector changes.
pub fn arpl_memory<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    let adjusted = adjust(cpu.load(op)?, cpu.reg(op.dst));
    if let Some(value) = adjusted {
        cpu.store(op, value)?;
    }
    cpu.set_zero_flag(adjusted.is_some());
    Ok(())
}
