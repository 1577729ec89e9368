//! Small guests with descriptor tables in flat memory.

mod events;
mod long;
mod protected;
mod real;
mod registers;
mod tasks;
mod vm86;

use x86::segment::attr;
use x86::{Descriptor, Exception, Segment, TableRegister, Vector};

use crate::cpu::{Cpu, Stop};
use crate::lower::CodeSize;
use crate::testing::{FlatBus, machine};

/// Where the tables lie.
const GDT: u64 = 0x2000;
const IDT: u64 = 0x3000;
const TSS: u64 = 0x4000;
const TSS_2: u64 = 0x4800;
const LDT: u64 = 0x5000;
/// ESP0 or RSP0.
const STACK_0: u64 = 0x7000;
/// ESP1.
const STACK_1: u64 = 0x6800;
/// Where every handler is: `HANDLER` + 16 * vector.
const HANDLER: u64 = 0xa000;

/// Selectors of the 32-bit tables.
mod sel {
    pub(super) const CODE_0: u16 = 0x08;
    pub(super) const DATA_0: u16 = 0x10;
    pub(super) const CODE_3: u16 = 0x18;
    pub(super) const DATA_3: u16 = 0x20;
    pub(super) const TSS: u16 = 0x28;
    pub(super) const TSS_2: u16 = 0x30;
    pub(super) const CALL_GATE: u16 = 0x38;
    pub(super) const CONFORMING: u16 = 0x40;
    pub(super) const CODE_16: u16 = 0x48;
    pub(super) const TASK_GATE: u16 = 0x50;
    pub(super) const LDT: u16 = 0x58;
    pub(super) const CODE_1: u16 = 0x60;
    pub(super) const DATA_1: u16 = 0x68;
    pub(super) const TSS_16: u16 = 0x70;
    pub(super) const ABSENT: u16 = 0x78;
    pub(super) const READ_ONLY: u16 = 0x80;
    pub(super) const STACK_16: u16 = 0x88;
    pub(super) const LAST: u16 = 0x8f;
}

/// Access bytes without the accessed bit.
const CODE: u16 = attr::PRESENT | attr::S | attr::CODE | attr::WRITE_READ;
const DATA: u16 = attr::PRESENT | attr::S | attr::WRITE_READ;

fn dpl(level: u16) -> u16 {
    level << 5
}

fn flat(attributes: u16) -> u64 {
    Descriptor::new(0, 0xf_ffff, attributes | attr::GRANULAR).0
}

fn system(base: u64, limit: u32, kind: u16) -> u64 {
    Descriptor::new(base as u32, limit, attr::PRESENT | kind).0
}

/// A call, interrupt, trap or task gate: `access` is the byte with P, DPL and type.
fn gate(selector: u16, offset: u64, access: u8, count: u8) -> u64 {
    offset & 0xffff
        | u64::from(selector) << 16
        | u64::from(count) << 32
        | u64::from(access) << 40
        | (offset & 0xffff_0000) << 32
}

fn handler(vector: u8) -> u64 {
    HANDLER + 16 * u64::from(vector)
}

fn put_gdt(cpu: &mut Cpu<FlatBus>, selector: u16, descriptor: u64) {
    cpu.bus.poke(GDT + u64::from(selector & !7), descriptor);
}

/// The code and data segments of a ring, 32-bit.
fn ring(level: u16) -> (Segment, Segment) {
    let accessed = attr::ACCESSED | attr::DB;
    let (code, data) = match level {
        0 => (sel::CODE_0, sel::DATA_0),
        1 => (sel::CODE_1, sel::DATA_1),
        _ => (sel::CODE_3, sel::DATA_3),
    };
    (
        Descriptor(flat(CODE | accessed | dpl(level))).to_segment(code | level),
        Descriptor(flat(DATA | accessed | dpl(level))).to_segment(data | level),
    )
}

/// 32-bit protected mode at CPL `level` with all tables, every IDT entry a 32-bit interrupt gate
/// of DPL 0 to [`handler`].
fn protected(level: u16, code: &[u8]) -> Cpu<FlatBus> {
    let mut cpu = machine(CodeSize::Bits32, code);
    let (cs, data) = ring(level);
    cpu.state.segments = [data; 6];
    cpu.state.segments[1] = cs;
    let db = attr::DB;
    let conforming = CODE | attr::DOWN_CONFORMING | db;
    for (selector, descriptor) in [
        (sel::CODE_0, flat(CODE | db)),
        (sel::DATA_0, flat(DATA | db)),
        (sel::CODE_3, flat(CODE | db | dpl(3))),
        (sel::DATA_3, flat(DATA | db | dpl(3))),
        (sel::TSS, system(TSS, 0x20ff, 11)),
        (sel::TSS_2, system(TSS_2, 0x67, 9)),
        (sel::CALL_GATE, gate(sel::CODE_0, 0xb000, 0xec, 0)),
        (sel::CONFORMING, flat(conforming)),
        (sel::CODE_16, flat(CODE)),
        (sel::TASK_GATE, gate(sel::TSS_2, 0, 0xe5, 0)),
        (sel::LDT, system(LDT, 0x3f, 2)),
        (sel::CODE_1, flat(CODE | db | dpl(1))),
        (sel::DATA_1, flat(DATA | db | dpl(1))),
        (sel::TSS_16, system(TSS_2, 0x2b, 1)),
        (sel::ABSENT, flat((DATA | db | dpl(3)) & !attr::PRESENT)),
        (sel::READ_ONLY, flat((DATA | db | dpl(3)) & !attr::WRITE_READ)),
        (sel::STACK_16, flat(DATA)),
    ] {
        put_gdt(&mut cpu, selector, descriptor);
    }
    for vector in 0..=255u8 {
        let entry = gate(sel::CODE_0, handler(vector), 0x8e, 0);
        cpu.bus.poke(IDT + 8 * u64::from(vector), entry);
    }
    cpu.bus.poke(TSS + 4, STACK_0 as u32);
    cpu.bus.poke(TSS + 8, sel::DATA_0);
    cpu.bus.poke(TSS + 12, STACK_1 as u32);
    cpu.bus.poke(TSS + 16, sel::DATA_1 | 1);
    cpu.bus.poke(TSS + 0x66, 0x88u16);
    cpu.state.gdtr = TableRegister { base: GDT, limit: sel::LAST };
    cpu.state.idtr = TableRegister { base: IDT, limit: 0x7ff };
    cpu.state.tr = Descriptor(system(TSS, 0x20ff, 11)).to_segment(sel::TSS);
    cpu.state.ldtr = Segment::default();
    cpu.refresh();
    cpu
}

fn set_gate(cpu: &mut Cpu<FlatBus>, vector: u8, selector: u16, access: u8) {
    let entry = gate(selector, handler(vector), access, 0);
    cpu.bus.poke(IDT + 8 * u64::from(vector), entry);
}

fn fault(vector: Vector, code: u32) -> Stop {
    Stop::Fault(Exception::with_code(vector, code))
}

fn gp(code: u32) -> Stop {
    fault(Vector::GeneralProtection, code)
}

/// The dwords on the stack, top first.
fn stack32<const N: usize>(cpu: &Cpu<FlatBus>) -> [u32; N] {
    core::array::from_fn(|index| cpu.bus.peek(cpu.regs[4] + 4 * index as u64))
}

/// The qwords on the stack, top first.
fn stack64<const N: usize>(cpu: &Cpu<FlatBus>) -> [u64; N] {
    core::array::from_fn(|index| cpu.bus.peek(cpu.regs[4] + 8 * index as u64))
}

/// Selectors of the 64-bit tables.
mod sel64 {
    pub(super) const CODE_0: u16 = 0x08;
    pub(super) const DATA_0: u16 = 0x10;
    pub(super) const COMPAT_3: u16 = 0x18;
    pub(super) const DATA_3: u16 = 0x20;
    pub(super) const CODE_3: u16 = 0x28;
    pub(super) const TSS: u16 = 0x30;
    pub(super) const CALL_GATE: u16 = 0x40;
    pub(super) const LDT: u16 = 0x50;
    pub(super) const LAST: u16 = 0x5f;
}

/// RSP of IST1.
const IST_1: u64 = 0x6ff8;

/// 64-bit mode at CPL 0 or 3 with all tables, every IDT entry a 64-bit interrupt gate of DPL 0.
fn long(level: u16, code: &[u8]) -> Cpu<FlatBus> {
    let mut cpu = machine(CodeSize::Bits64, code);
    let user = attr::DB | dpl(3);
    for (selector, descriptor) in [
        (sel64::CODE_0, flat(CODE | attr::LONG)),
        (sel64::DATA_0, flat(DATA | attr::DB)),
        (sel64::COMPAT_3, flat(CODE | user)),
        (sel64::DATA_3, flat(DATA | user)),
        (sel64::CODE_3, flat(CODE | attr::LONG | dpl(3))),
        (sel64::TSS, system(TSS, 0x67, 9)),
        (sel64::TSS + 8, 0),
        (sel64::CALL_GATE, gate(sel64::CODE_0, 0xb000, 0xec, 0)),
        (sel64::CALL_GATE + 8, 0),
        (sel64::LDT, system(LDT, 0x3f, 2)),
        (sel64::LDT + 8, 0),
    ] {
        put_gdt(&mut cpu, selector, descriptor);
    }
    for vector in 0..=255u8 {
        let at = IDT + 16 * u64::from(vector);
        cpu.bus.poke(at, gate(sel64::CODE_0, handler(vector), 0x8e, 0));
        cpu.bus.poke(at + 8, 0u64);
    }
    cpu.bus.poke(TSS + 4, STACK_0);
    cpu.bus.poke(TSS + 0x24, IST_1);
    cpu.state.gdtr = TableRegister { base: GDT, limit: sel64::LAST };
    cpu.state.idtr = TableRegister { base: IDT, limit: 0xfff };
    cpu.state.tr = Descriptor(system(TSS, 0x67, 11)).to_segment(sel64::TSS);
    cpu.state.ldtr = Segment::default();
    if level == 3 {
        let accessed = attr::ACCESSED;
        let code = Descriptor(flat(CODE | attr::LONG | dpl(3) | accessed));
        let data = Descriptor(flat(DATA | user | accessed));
        cpu.state.segments = [data.to_segment(sel64::DATA_3 | 3); 6];
        cpu.state.segments[1] = code.to_segment(sel64::CODE_3 | 3);
    }
    cpu.refresh();
    cpu
}

#[test]
fn the_test_machines_are_what_they_say() {
    use crate::cpu::Mode;
    assert_eq!((protected(0, &[]).mode, protected(0, &[]).cpl), (Mode::Protected32, 0));
    assert_eq!((protected(3, &[]).mode, protected(3, &[]).cpl), (Mode::Protected32, 3));
    assert_eq!((long(3, &[]).mode, long(3, &[]).cpl), (Mode::Long, 3));
}
