//! Descriptors and segment loads: one family of checks for MOV, POP, far transfers, gates, IRET
//! and task switches (SDM vol. 3, 3.4, 5.2-5.8).
//!
//! Invariant: `data_segment`, `stack_segment` and `code_segment` change no register; they return
//! what to load, the accessed bit already set in the table. The caller commits.

use x86::{Descriptor, Exception, GuestVirt, Segment, Vector, segment::attr};

use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec, Mode};
use crate::op::{Op, OpFlags};
use crate::operand::SS;
use crate::width::Width;

/// ES, CS, SS, DS, FS, GS in encoding order.
pub const ES: u8 = 0;
/// CS.
pub const CS: u8 = 1;
/// DS.
pub const DS: u8 = 3;
/// FS.
pub const FS: u8 = 4;
/// GS.
pub const GS: u8 = 5;

/// Attributes of every segment in virtual-8086 mode: present, DPL 3, accessed writable data.
pub const VM86_ATTRIBUTES: u16 =
    attr::PRESENT | 3 << 5 | attr::S | attr::WRITE_READ | attr::ACCESSED;

/// How failed descriptor checks are reported: which vector, and the EXT bit of the error code.
#[derive(Clone, Copy, Debug)]
pub struct Blame {
    /// #GP for instructions, #TS for stacks from a TSS and for task switches.
    pub vector: Vector,
    /// 1 while delivering an event from outside the program, else 0.
    pub external: u32,
}

impl Blame {
    /// An instruction's own check.
    pub const INSTRUCTION: Self = Self { vector: Vector::GeneralProtection, external: 0 };
}

/// A descriptor and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Linear address of its first byte.
    pub at: u64,
    /// The first eight bytes.
    pub raw: Descriptor,
    /// The selector it was found by.
    pub selector: u16,
}

impl Entry {
    /// As segment register contents.
    pub fn segment(self) -> Segment {
        self.raw.to_segment(self.selector)
    }

    /// Type and S: 0-15 system, 16-31 code and data.
    pub fn kind(self) -> u8 {
        (self.raw.attributes() & 0x1f) as u8
    }

    /// DPL.
    pub fn dpl(self) -> u8 {
        self.segment().dpl()
    }

    /// P.
    pub fn is_present(self) -> bool {
        self.segment().is_present()
    }
}

/// Whether a selector is null (0-3).
pub fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// What a null selector loads.
pub fn null_segment(selector: u16) -> Segment {
    Segment { selector, ..Segment::default() }
}

/// Whether the bytes lie inside a segment's limit (expand-down segments included).
pub fn contains(segment: &Segment, offset: u64, length: u64) -> bool {
    let last = offset.wrapping_add(length - 1);
    let limit = u64::from(segment.limit);
    if !segment.is_code() && segment.attributes & attr::DOWN_CONFORMING != 0 {
        let top = if segment.is_big() { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top && last >= offset
    } else {
        last <= limit && last >= offset
    }
}

impl<B: Bus> Cpu<B> {
    /// A fault whose error code is a selector.
    #[cold]
    pub fn selector_fault(&mut self, blame: Blame, selector: u16) -> crate::Trap {
        self.fault_code(blame.vector, u32::from(selector & !3) | blame.external)
    }

    /// #NP with a selector.
    #[cold]
    pub fn not_present(&mut self, blame: Blame, selector: u16) -> crate::Trap {
        self.selector_fault(Blame { vector: Vector::SegmentNotPresent, ..blame }, selector)
    }

    /// Cuts a linear address to 32 bits outside IA-32e mode.
    pub fn wrap_linear(&self, address: u64) -> u64 {
        if self.is_ia32e() { address } else { address & 0xffff_ffff }
    }

    /// Loads from a system table (GDT, LDT, IDT, TSS).
    pub fn table_load<W: Width>(&mut self, at: u64) -> Exec<W> {
        let at = self.wrap_linear(at);
        self.bus.load_system(at).map_err(|exception| self.fault(exception))
    }

    /// Stores to a system table.
    pub fn table_store<W: Width>(&mut self, at: u64, value: W) -> Exec {
        let at = self.wrap_linear(at);
        self.bus.store_system(at, value).map_err(|exception| self.fault(exception))
    }

    /// Finds a descriptor in the GDT or LDT; outside the limit is the blamed fault. A null
    /// selector is the caller's business.
    pub fn descriptor(&mut self, selector: u16, blame: Blame) -> Exec<Entry> {
        let (base, limit) = if selector & 4 == 0 {
            (self.state.gdtr.base, u64::from(self.state.gdtr.limit))
        } else if is_null(self.state.ldtr.selector) || !self.state.ldtr.is_present() {
            return Err(self.selector_fault(blame, selector));
        } else {
            (self.state.ldtr.base, u64::from(self.state.ldtr.limit))
        };
        let offset = u64::from(selector & !7);
        if offset + 7 > limit {
            return Err(self.selector_fault(blame, selector));
        }
        let at = self.wrap_linear(base.wrapping_add(offset));
        let raw = Descriptor(self.table_load(at)?);
        Ok(Entry { at, raw, selector })
    }

    /// The upper eight bytes of a 16-byte system descriptor, checked against the table's limit;
    /// type bits that must be zero are.
    pub fn upper_half(&mut self, entry: Entry, blame: Blame) -> Exec<u64> {
        let table = if entry.selector & 4 == 0 {
            u64::from(self.state.gdtr.limit)
        } else {
            u64::from(self.state.ldtr.limit)
        };
        if u64::from(entry.selector & !7) + 15 > table {
            return Err(self.selector_fault(blame, entry.selector));
        }
        let upper: u64 = self.table_load(entry.at.wrapping_add(8))?;
        if upper >> 40 & 0x1f != 0 {
            return Err(self.selector_fault(blame, entry.selector));
        }
        Ok(upper)
    }

    /// Sets the accessed bit in the table, if it is not set.
    pub fn mark_accessed(&mut self, entry: Entry) -> Exec<Segment> {
        let mut segment = entry.segment();
        if segment.attributes & attr::ACCESSED == 0 {
            segment.attributes |= attr::ACCESSED;
            self.table_store(entry.at.wrapping_add(5), (entry.raw.0 >> 40) as u8 | 1)?;
        }
        Ok(segment)
    }

    /// What loading DS, ES, FS or GS in protected mode gives.
    pub fn data_segment(&mut self, selector: u16, cpl: u8, blame: Blame) -> Exec<Segment> {
        if is_null(selector) {
            return Ok(null_segment(selector));
        }
        let entry = self.descriptor(selector, blame)?;
        let segment = entry.segment();
        let readable = segment.attributes & attr::S != 0
            && (!segment.is_code() || segment.attributes & attr::WRITE_READ != 0);
        let conforming = segment.is_code() && segment.attributes & attr::DOWN_CONFORMING != 0;
        let privileged = conforming || (segment.rpl() <= segment.dpl() && cpl <= segment.dpl());
        if !readable || !privileged {
            return Err(self.selector_fault(blame, selector));
        }
        if !segment.is_present() {
            return Err(self.not_present(blame, selector));
        }
        self.mark_accessed(entry)
    }

    /// What loading SS with a non-null selector gives, at a privilege level.
    pub fn stack_segment(&mut self, selector: u16, cpl: u8, blame: Blame) -> Exec<Segment> {
        if is_null(selector) {
            return Err(self.fault_code(blame.vector, blame.external));
        }
        let entry = self.descriptor(selector, blame)?;
        let segment = entry.segment();
        let writable_data = segment.attributes & (attr::S | attr::CODE | attr::WRITE_READ)
            == attr::S | attr::WRITE_READ;
        if segment.rpl() != cpl || segment.dpl() != cpl || !writable_data {
            return Err(self.selector_fault(blame, selector));
        }
        if !segment.is_present() {
            let blame = Blame { vector: Vector::StackFault, ..blame };
            return Err(self.selector_fault(blame, selector));
        }
        self.mark_accessed(entry)
    }

    /// What SS holds with a null selector at a privilege level of 64-bit mode: unusable, but its
    /// DPL is the CPL.
    pub fn null_stack(cpl: u8) -> Segment {
        Segment { selector: u16::from(cpl), attributes: u16::from(cpl) << 5, ..Segment::default() }
    }

    /// Checks of a code descriptor common to all transfers: presence, and not both L and D in
    /// IA-32e mode. Privilege is the caller's business. The result carries `cpl` as RPL.
    pub fn code_segment(&mut self, entry: Entry, cpl: u8, blame: Blame) -> Exec<Segment> {
        let segment = entry.segment();
        if !segment.is_code() || (self.is_ia32e() && segment.is_long() && segment.is_big()) {
            return Err(self.selector_fault(blame, entry.selector));
        }
        if !segment.is_present() {
            return Err(self.not_present(blame, entry.selector));
        }
        let segment = self.mark_accessed(entry)?;
        Ok(Segment { selector: entry.selector & !3 | u16::from(cpl), ..segment })
    }

    /// A target of a transfer: canonical in 64-bit code, else within the limit; #GP(EXT).
    pub fn check_target(&mut self, cs: &Segment, target: u64, external: u32) -> Exec {
        let fine = if self.is_ia32e() && cs.is_long() {
            GuestVirt(target).is_canonical()
        } else {
            target <= u64::from(cs.limit)
        };
        if fine { Ok(()) } else { Err(self.fault(Exception::gp(external))) }
    }

    /// Replaces a segment register.
    pub fn set_segment(&mut self, index: u8, segment: Segment) {
        self.state.segments[usize::from(index)] = segment;
    }

    /// What loading any segment register but CS gives in the current mode.
    pub fn segment_for_load(&mut self, index: u8, selector: u16) -> Exec<Segment> {
        match self.mode {
            // Limit and rights stay as they are: "unreal mode" lives of that.
            Mode::Real => {
                let old = *self.segment(index);
                Ok(Segment { selector, base: u64::from(selector) << 4, ..old })
            }
            Mode::Vm86 => Ok(Segment::real_mode(selector, VM86_ATTRIBUTES)),
            _ if index != SS => self.data_segment(selector, self.cpl, Blame::INSTRUCTION),
            Mode::Long if is_null(selector) => {
                if self.cpl == 3 || selector as u8 != self.cpl {
                    return Err(self.gp0());
                }
                Ok(Self::null_stack(self.cpl))
            }
            _ => self.stack_segment(selector, self.cpl, Blame::INSTRUCTION),
        }
    }

    /// Sets CS and RIP and derives the mode.
    pub fn enter_code(&mut self, cs: Segment, rip: u64) {
        self.set_segment(CS, cs);
        self.set_rip(rip);
        self.refresh();
    }

    /// A code segment of real or vm86 mode.
    pub fn real_code(&self, selector: u16) -> Segment {
        if self.mode == Mode::Vm86 {
            return Segment::real_mode(selector, VM86_ATTRIBUTES);
        }
        Segment { selector, base: u64::from(selector) << 4, ..*self.segment(CS) }
    }
}

/// MOV r/m, Sreg: register form. `extra` is the operand size in bytes.
pub fn mov_register_segment<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let selector = cpu.segment(op.src).selector;
    match op.extra {
        2 => cpu.set_reg(op.dst, selector),
        _ => cpu.set_reg(op.dst, u64::from(selector)),
    }
    Ok(())
}

/// MOV m16, Sreg.
pub fn mov_memory_segment<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let selector = cpu.segment(op.dst).selector;
    cpu.store(op, selector)
}

/// MOV Sreg, r16.
pub fn mov_segment_register<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let selector = cpu.reg::<u16>(op.src);
    load_segment(cpu, op.dst, selector)
}

/// MOV Sreg, m16.
pub fn mov_segment_memory<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let selector = cpu.load::<u16>(op)?;
    load_segment(cpu, op.dst, selector)
}

fn load_segment<B: Bus>(cpu: &mut Cpu<B>, index: u8, selector: u16) -> Exec {
    if index == CS {
        return Err(cpu.ud());
    }
    let segment = cpu.segment_for_load(index, selector)?;
    cpu.set_segment(index, segment);
    if index == SS {
        cpu.state.mov_ss_shadow = true;
    }
    Ok(())
}

/// LDS, LES, LFS, LGS, LSS: `src2` is the segment register, `extra` the operand size.
pub fn load_far_pointer<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let size = op.extra;
    let (offset, selector) = far_pointer(cpu, op, size)?;
    let segment = cpu.segment_for_load(op.src2, selector)?;
    cpu.set_segment(op.src2, segment);
    match size {
        2 => cpu.set_reg(op.dst, offset as u16),
        4 => cpu.set_reg(op.dst, offset as u32),
        _ => cpu.set_reg(op.dst, offset),
    }
    Ok(())
}

/// Loads an offset of `size` bytes and the selector after it from the memory operand.
pub fn far_pointer<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, size: u8) -> Exec<(u64, u16)> {
    let at = cpu.linear(op, u64::from(size) + 2, Access::Read)?;
    let at = if op.flags.contains(OpFlags::LONG_MODE) { at } else { cpu.wrap_linear(at) };
    let offset = match size {
        2 => cpu.bus.load::<u16>(at).map(u64::from),
        4 => cpu.bus.load::<u32>(at).map(u64::from),
        _ => cpu.bus.load::<u64>(at),
    };
    let both = offset.and_then(|offset| {
        let selector = cpu.bus.load::<u16>(at.wrapping_add(u64::from(size)))?;
        Ok((offset, selector))
    });
    both.map_err(|exception| cpu.memory_fault(exception, op.segment))
}

/// PUSH Sreg: `extra` is the operand size. A 32-bit push moves ESP by four and writes two bytes,
/// as current processors do (SDM vol. 2B, PUSH).
pub fn push_segment<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let selector = cpu.segment(op.dst).selector;
    match op.extra {
        2 => cpu.push(selector),
        4 => {
            let top = cpu.stack_pointer(-4);
            cpu.stack_store(top, selector)?;
            cpu.set_stack_pointer(top);
            Ok(())
        }
        _ => cpu.push(u64::from(selector)),
    }
}

/// POP Sreg: `extra` is the operand size; only two bytes are read.
pub fn pop_segment<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let selector: u16 = cpu.stack_load(cpu.stack_pointer(0))?;
    let segment = cpu.segment_for_load(op.dst, selector)?;
    // The stack pointer moves by the width of the old stack, then SS changes.
    let top = cpu.stack_pointer(i64::from(op.extra));
    cpu.set_stack_pointer(top);
    cpu.set_segment(op.dst, segment);
    if op.dst == SS {
        cpu.state.mov_ss_shadow = true;
    }
    Ok(())
}
