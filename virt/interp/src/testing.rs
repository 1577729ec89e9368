//! Test support: a flat memory implementing every bus trait, and processors set up to run a few
//! instructions on it.
//!
//! Linear address = index into a 1 MiB array; beyond it, and in pages marked absent, accesses raise
//! #PF; non-canonical ones #GP(0). Invariant: everything observable is recorded in public fields.

extern crate std;

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use iced_x86::Instruction;
use iced_x86::code_asm::CodeAssembler;
use x86::cpuid::{CpuidEntry, CpuidResult};
use x86::exception::pf;
use x86::segment::attr;
use x86::{CpuState, Cr0, Cr4, Efer, Exception, Reg, Segment, Vector, XsaveArea};

use crate::bus::{
    Access, Bus, Context, Flush, LinearMemory, Platform, PortIo, StringAssist, Translation,
};
use crate::cpu::{Cpu, Stop};
use crate::lower::{CodeSize, decode};
use crate::op::slot;
use crate::vector::{Exchange, VectorHandle, VectorUnit};
use crate::width::Width;

/// Bytes of memory.
pub(crate) const MEMORY: usize = 1 << 20;
/// Where test code is placed (offset in CS and linear address alike).
pub(crate) const CODE: u64 = 0x1000;
/// Initial stack pointer.
pub(crate) const STACK: u64 = 0x8000;
/// A page for test data.
pub(crate) const DATA: u64 = 0x1_0000;

/// The flat bus.
pub(crate) struct FlatBus {
    pub(crate) memory: Vec<u8>,
    /// Page numbers that raise #PF.
    pub(crate) absent: BTreeSet<u64>,
    /// Page numbers whose writes raise #PF.
    pub(crate) read_only: BTreeSet<u64>,
    /// Values IN returns by port; all ones where unset.
    pub(crate) ports: BTreeMap<u16, u32>,
    /// OUTs: port, width, value.
    pub(crate) outs: Vec<(u16, u8, u32)>,
    /// INs: port, width.
    pub(crate) ins: Vec<(u16, u8)>,
    pub(crate) context: Context,
    pub(crate) flushes: Vec<Flush>,
    /// What `pdptes_valid` answers.
    pub(crate) pdptes_valid: bool,
    pub(crate) watchpoints: ([u64; 4], u64),
    pub(crate) watch_hits: u64,
    pub(crate) cpuid: Vec<CpuidEntry>,
    /// MSRs outside `CpuState`.
    pub(crate) msrs: BTreeMap<u32, u64>,
    pub(crate) tsc: u64,
    pub(crate) random: u64,
    pub(crate) task_priority: u8,
    /// `attention` becomes true after it was asked this many times.
    pub(crate) attention_after: Option<u64>,
    /// Most bytes `copy_forward` and `fill_forward` do per call; 0 forbids them.
    pub(crate) run_limit: u64,
    /// Compare-exchanges done (atomic accesses).
    pub(crate) atomics: u64,
    /// What the vector unit does for any instruction; `None`: it can execute none.
    pub(crate) unit: Option<fn(&mut XsaveArea, &mut Exchange)>,
}

impl Default for FlatBus {
    fn default() -> Self {
        Self {
            memory: std::vec![0; MEMORY],
            absent: BTreeSet::new(),
            read_only: BTreeSet::new(),
            ports: BTreeMap::new(),
            outs: Vec::new(),
            ins: Vec::new(),
            context: Context::default(),
            flushes: Vec::new(),
            pdptes_valid: true,
            watchpoints: ([0; 4], 0),
            watch_hits: 0,
            cpuid: everything_announced(),
            msrs: BTreeMap::new(),
            tsc: 0,
            random: 0x0123_4567_89ab_cdef,
            task_priority: 0,
            attention_after: None,
            run_limit: 4096,
            atomics: 0,
            unit: None,
        }
    }
}

/// A CPUID table that announces every feature bit there is.
fn everything_announced() -> Vec<CpuidEntry> {
    let all = CpuidResult { eax: !0, ebx: !0, ecx: !0, edx: !0 };
    let entry = |leaf, subleaf, result| CpuidEntry { leaf, subleaf, result };
    std::vec![
        entry(
            0,
            None,
            CpuidResult { eax: 0xd, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69 }
        ),
        entry(1, None, all),
        entry(7, None, all),
        entry(0xd, Some(1), all),
        entry(0x14, None, all),
        entry(0x19, None, all),
        entry(0x8000_0000, None, CpuidResult { eax: 0x8000_0008, ..CpuidResult::default() }),
        entry(0x8000_0001, None, all),
        entry(0x8000_0007, None, all),
        entry(0x8000_0008, None, CpuidResult { eax: 0x3030, ebx: !0, ecx: 0, edx: 0 }),
    ]
}

impl FlatBus {
    /// Checks an access and gives the index of its first byte.
    fn check(&self, at: u64, length: u64, write: bool, user: bool) -> Result<usize, Exception> {
        let last = at.wrapping_add(length.max(1) - 1);
        for address in [at, last] {
            if address as i64 >> 47 != 0 && address as i64 >> 47 != -1 {
                return Err(Exception::GP0);
            }
        }
        let aligned = length.is_power_of_two() && length <= 8;
        if user && self.context.align_check && aligned && at & (length - 1) != 0 {
            return Err(Exception::with_code(Vector::AlignmentCheck, 0));
        }
        let mut page = at >> 12;
        while page <= last >> 12 {
            let absent = page >= (MEMORY >> 12) as u64 || self.absent.contains(&page);
            if absent || write && self.read_only.contains(&page) {
                let mut code = if absent { 0 } else { pf::PRESENT };
                code |= if write { pf::WRITE } else { 0 };
                code |= if user { pf::USER } else { 0 };
                return Err(Exception::page_fault((page << 12).max(at), code));
            }
            page += 1;
        }
        Ok(at as usize)
    }

    fn get<W: Width>(&self, index: usize) -> W {
        let mut bytes = [0; 8];
        let length = W::BYTES as usize;
        bytes[..length].copy_from_slice(&self.memory[index..index + length]);
        W::from_u64(u64::from_le_bytes(bytes))
    }

    fn put<W: Width>(&mut self, index: usize, value: W) {
        let length = W::BYTES as usize;
        self.memory[index..index + length].copy_from_slice(&value.to_u64().to_le_bytes()[..length]);
    }

    /// Reads memory, unchecked.
    pub(crate) fn peek<W: Width>(&self, at: u64) -> W {
        self.get(at as usize)
    }

    /// Writes memory, unchecked.
    pub(crate) fn poke<W: Width>(&mut self, at: u64, value: W) {
        self.put(at as usize, value);
    }

    /// Writes bytes, unchecked.
    pub(crate) fn poke_bytes(&mut self, at: u64, bytes: &[u8]) {
        self.memory[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }
}

impl LinearMemory for FlatBus {
    fn load<W: Width>(&mut self, at: u64) -> Result<W, Exception> {
        self.check(at, W::BYTES, false, self.context.user).map(|index| self.get(index))
    }

    fn store<W: Width>(&mut self, at: u64, value: W) -> Result<(), Exception> {
        let index = self.check(at, W::BYTES, true, self.context.user)?;
        self.put(index, value);
        Ok(())
    }

    fn load_for_write<W: Width>(&mut self, at: u64) -> Result<W, Exception> {
        self.check(at, W::BYTES, true, self.context.user).map(|index| self.get(index))
    }

    fn load_bytes(&mut self, at: u64, into: &mut [u8]) -> Result<(), Exception> {
        let index = self.check(at, into.len() as u64, false, self.context.user)?;
        into.copy_from_slice(&self.memory[index..index + into.len()]);
        Ok(())
    }

    fn store_bytes(&mut self, at: u64, from: &[u8]) -> Result<(), Exception> {
        let index = self.check(at, from.len() as u64, true, self.context.user)?;
        self.memory[index..index + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn probe(&mut self, at: u64, length: u64, access: Access) -> Result<(), Exception> {
        self.check(at, length, access == Access::Write, self.context.user).map(|_| ())
    }

    fn compare_exchange<W: Width>(&mut self, at: u64, expected: W, new: W) -> Result<W, Exception> {
        let index = self.check(at, W::BYTES, true, self.context.user)?;
        let found = self.get(index);
        if found == expected {
            self.put(index, new);
        }
        self.atomics += 1;
        Ok(found)
    }

    fn compare_exchange_16(
        &mut self,
        at: u64,
        expected: u128,
        new: u128,
    ) -> Result<u128, Exception> {
        let index = self.check(at, 16, true, self.context.user)?;
        let low: u64 = self.get(index);
        let high: u64 = self.get(index + 8);
        let found = u128::from(low) | u128::from(high) << 64;
        if found == expected {
            self.put(index, new as u64);
            self.put(index + 8, (new >> 64) as u64);
        }
        self.atomics += 1;
        Ok(found)
    }

    fn load_system<W: Width>(&mut self, at: u64) -> Result<W, Exception> {
        self.check(at, W::BYTES, false, false).map(|index| self.get(index))
    }

    fn store_system<W: Width>(&mut self, at: u64, value: W) -> Result<(), Exception> {
        let index = self.check(at, W::BYTES, true, false)?;
        self.put(index, value);
        Ok(())
    }
}

impl StringAssist for FlatBus {
    fn copy_forward(
        &mut self,
        from: u64,
        to: u64,
        bytes: u64,
        element: u64,
    ) -> Result<u64, Exception> {
        let room = (4096 - from % 4096).min(4096 - to % 4096).min(bytes).min(self.run_limit);
        let room = room - room % element;
        if room == 0 {
            return Ok(0);
        }
        let user = self.context.user;
        let (source, target) =
            (self.check(from, room, false, user)?, self.check(to, room, true, user)?);
        for step in 0..room as usize {
            self.memory[target + step] = self.memory[source + step];
        }
        Ok(room)
    }

    fn fill_forward<W: Width>(&mut self, to: u64, bytes: u64, value: W) -> Result<u64, Exception> {
        let room = (4096 - to % 4096).min(bytes).min(self.run_limit);
        let room = room - room % W::BYTES;
        if room == 0 {
            return Ok(0);
        }
        let target = self.check(to, room, true, self.context.user)?;
        for step in (0..room as usize).step_by(W::BYTES as usize) {
            self.put(target + step, value);
        }
        Ok(room)
    }
}

impl PortIo for FlatBus {
    fn port_in(&mut self, port: u16, width: u8) -> u32 {
        self.ins.push((port, width));
        self.ports.get(&port).copied().unwrap_or(!0) & (!0 >> (32 - 8 * u32::from(width)))
    }

    fn port_out(&mut self, port: u16, width: u8, value: u32) {
        self.outs.push((port, width, value));
    }
}

impl Translation for FlatBus {
    fn set_context(&mut self, context: Context) {
        self.context = context;
    }

    fn flush(&mut self, what: Flush) {
        self.flushes.push(what);
    }

    fn pdptes_valid(&mut self, _: u64) -> bool {
        self.pdptes_valid
    }

    fn set_watchpoints(&mut self, dr: [u64; 4], dr7: u64) {
        self.watchpoints = (dr, dr7);
    }

    fn take_watch_hits(&mut self) -> u64 {
        core::mem::take(&mut self.watch_hits)
    }
}

impl Platform for FlatBus {
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        x86::cpuid::lookup(&self.cpuid, leaf, subleaf)
    }

    fn read_msr(&mut self, _: &CpuState, index: u32) -> Option<u64> {
        self.msrs.get(&index).copied()
    }

    fn write_msr(&mut self, _: &mut CpuState, index: u32, value: u64) -> Option<()> {
        self.msrs.get_mut(&index).map(|place| *place = value)
    }

    fn host_tsc(&mut self) -> u64 {
        self.tsc
    }

    fn random(&mut self) -> u64 {
        self.random
    }

    fn hypercall(&mut self, _: u64, _: [u64; 4], _: bool) -> i64 {
        crate::bus::KVM_ENOSYS
    }

    fn task_priority(&mut self, write: Option<u8>) -> u8 {
        self.task_priority = write.unwrap_or(self.task_priority);
        self.task_priority
    }

    fn attention(&mut self) -> bool {
        let Some(left) = self.attention_after.as_mut() else { return false };
        if *left == 0 {
            return true;
        }
        *left -= 1;
        false
    }
}

/// Everything is announced, nothing can be computed: moves and state work, arithmetic is #UD.
impl VectorUnit for FlatBus {
    fn supports(&self, _: &Instruction) -> bool {
        true
    }
    fn prepare(&mut self, _: &Instruction) -> Option<VectorHandle> {
        self.unit.map(|_| VectorHandle(0))
    }
    fn execute(&mut self, _: VectorHandle, area: &mut XsaveArea, exchange: &mut Exchange) {
        self.unit.expect("prepared")(area, exchange);
    }
}

impl Bus for FlatBus {}

/// A processor with flat segments, CPL 0, RSP = [`STACK`], about to run `code` at [`CODE`].
pub(crate) fn machine(size: CodeSize, code: &[u8]) -> Cpu<FlatBus> {
    let mut state = CpuState::reset(0);
    let data = attr::PRESENT | attr::S | attr::WRITE_READ | attr::ACCESSED;
    let default = match size {
        CodeSize::Bits64 => attr::LONG,
        CodeSize::Bits32 => attr::DB,
        CodeSize::Bits16 => 0,
    };
    let stack = if size == CodeSize::Bits16 { 0 } else { attr::DB };
    let flat = |selector, attributes| Segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        attributes: attributes | attr::GRANULAR,
    };
    state.segments = [flat(16, data | stack); 6];
    state.segments[1] = flat(8, data | attr::CODE | default);
    state.cr0 = (Cr0::PE | Cr0::ET | Cr0::NE).bits();
    if size == CodeSize::Bits64 {
        state.msrs.efer = (Efer::LME | Efer::LMA | Efer::SCE).bits();
        state.cr4 = (Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE).bits();
        state.xcr0 = 7;
    }
    state.gpr = [0; 16];
    start(state, code)
}

/// A processor in real mode, all segment bases 0, about to run `code` at [`CODE`].
pub(crate) fn real(code: &[u8]) -> Cpu<FlatBus> {
    let mut state = CpuState::reset(0);
    state.segments[1].base = 0;
    state.segments[1].selector = 0;
    state.gpr = [0; 16];
    start(state, code)
}

fn start(mut state: CpuState, code: &[u8]) -> Cpu<FlatBus> {
    state.gpr[Reg::Rsp as usize] = STACK;
    state.rip = CODE;
    let mut bus = FlatBus::default();
    bus.poke_bytes(CODE, code);
    Cpu::new(state, bus)
}

/// Assembles for [`CODE`].
pub(crate) fn assemble(size: CodeSize, write: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(size as u32).expect("16, 32 and 64 are bitnesses");
    write(&mut assembler);
    assembler.assemble(CODE).expect("a test assembles what can be encoded")
}

/// A 64-bit processor about to run what is assembled.
pub(crate) fn long(write: impl FnOnce(&mut CodeAssembler)) -> Cpu<FlatBus> {
    machine(CodeSize::Bits64, &assemble(CodeSize::Bits64, write))
}

/// Decodes one instruction to run many times.
pub(crate) fn decoded(size: CodeSize, bytes: &[u8]) -> crate::op::Op<FlatBus> {
    decode(bytes, size, &mut FlatBus::default()).expect("a test gives whole instructions")
}

/// Runs one instruction as an engine would: RIP moves back on faults and repeats.
pub(crate) fn step(cpu: &mut Cpu<FlatBus>) -> Stop {
    let size = match cpu.mode {
        crate::cpu::Mode::Long => CodeSize::Bits64,
        crate::cpu::Mode::Protected32 => CodeSize::Bits32,
        _ => CodeSize::Bits16,
    };
    let base = if size == CodeSize::Bits64 { 0 } else { cpu.segment(1).base };
    let at = (base + cpu.rip()) as usize;
    let mut bytes = [0; 15];
    bytes.copy_from_slice(&cpu.bus.memory[at..at + 15]);
    let op = decode(&bytes, size, &mut cpu.bus).expect("15 bytes always suffice");
    let before = cpu.rip();
    cpu.stop = Stop::None;
    cpu.regs[slot::RIP as usize] = before.wrapping_add(u64::from(op.len));
    if (op.run)(cpu, &op).is_err() {
        assert_ne!(cpu.stop, Stop::None, "Err names its reason");
        if matches!(cpu.stop, Stop::Fault(_) | Stop::Repeat) {
            cpu.set_rip(before);
        }
    }
    assert_eq!(cpu.regs[slot::ZERO as usize], 0, "ZERO stays zero");
    core::mem::take(&mut cpu.stop)
}

/// Runs up to `count` instructions, stopping early at the first that does not simply finish.
pub(crate) fn run(cpu: &mut Cpu<FlatBus>, count: usize) -> Stop {
    for _ in 0..count {
        let stop = step(cpu);
        if stop != Stop::None {
            return stop;
        }
    }
    Stop::None
}

/// Runs all of what is assembled (without taken branches) in 64-bit mode.
pub(crate) fn run_long(write: impl FnOnce(&mut CodeAssembler)) -> Cpu<FlatBus> {
    let code = assemble(CodeSize::Bits64, write);
    let mut cpu = machine(CodeSize::Bits64, &code);
    let end = CODE + code.len() as u64;
    while cpu.rip() != end {
        assert_eq!(step(&mut cpu), Stop::None, "at {:#x}", cpu.rip());
    }
    cpu
}
