//! Runs a program on a bare processor, and tells what differs between two runs.

use std::fmt::Write;
use std::sync::Arc;

use engine::{Budget, Engine, Exit, GuestIo, VmConfig};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use memory::GuestMemory;
use soft::{Execution, SoftEngine, SoftOptions};
use x86::segment::attr;
use x86::{Activity, CpuState, Cr0, Cr4, Efer, Flags, GuestPhys, Segment, TableRegister};

use crate::code::Placed;
use crate::handler;
use crate::layout::{self, *};
use crate::machine;
use crate::opcodes::Opcodes;
use crate::operand::stack_offset;
use crate::program::{Program, program};
use crate::random::Random;

/// A program that may run longer ends by budget.
pub(crate) const MOST_INSTRUCTIONS: u64 = 400_000;
/// Bytes of the XSAVE image that matter.
const IMAGE_SIZE: usize = x86::xsave::AVX_END;
/// Status flags, which an instruction may leave undefined just before the budget is spent.
const STATUS: u64 = 0x8d5;

/// A program, its place, and everything around it.
pub(crate) struct Case {
    seed: u64,
    /// What kind of program it is.
    kind: String,
    /// It runs at CPL 3.
    user: bool,
    /// Its code size.
    bits: u32,
    placed: Placed,
    ram: Vec<u8>,
    state: CpuState,
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) state: CpuState,
    pub(crate) ram: Vec<u8>,
    pub(crate) retired: u64,
}

/// Runs user code at an address, with a stack, to its end: how it ended, the registers then, and the
/// instructions it took.
pub(crate) fn run_user(
    options: SoftOptions,
    memory: &Arc<GuestMemory>,
    rip: u64,
    rsp: u64,
) -> (Exit, [u64; 16], u64) {
    let config = VmConfig { memory: memory.clone(), cpus: 1 };
    let engine = SoftEngine::with_options(config, options).expect("one processor is allowed");
    let mut vcpu = engine.create_vcpu(0).expect("the first is there");
    let mut state = vcpu.state().expect("a stopped processor has a state");
    let mut wanted = bare();
    enter_user(&mut wanted);
    wanted.rip = rip;
    wanted.gpr[4] = rsp;
    wanted.rflags = Flags::FIXED.bits();
    take(&mut state, &wanted);
    vcpu.set_state(&state).expect("it is a sound state");
    let exit = vcpu.run(&mut Nothing, Budget::Instructions(10_000_000)).expect("the host is sound");
    let state = vcpu.state().expect("a stopped processor has a state");
    (exit, state.gpr, vcpu.retired().expect("the engine counts"))
}

impl Case {
    /// The case of a seed; `None` where its code does not fit.
    pub(crate) fn new(seed: u64, opcodes: &Opcodes) -> Option<Self> {
        let mut random = Random::new(seed);
        let mut program = program(&mut random, opcodes);
        let placed = std::mem::take(&mut program.listing).place()?;
        let memory = new_memory();
        let places = Places::new(&mut random);
        layout::page_tables(&memory, &places, &mut random, program.modifies);
        handler::install(&memory, &places);
        let before = machine::random(&mut random, 64);
        fill(&memory, &places, &mut random);
        write_code(&memory, &places, &program, &placed);
        let state = start(&program, &placed, &before, &mut random);
        let Program { user, modifies, image, .. } = program;
        let kind = format!("image {image:#x}, user {user}, modifies {modifies}");
        let ram = contents(&memory);
        Some(Self { seed, kind, user, bits: 64, placed, ram, state })
    }

    /// The case of a seed for flat 32-bit code.
    pub(crate) fn flat(seed: u64, opcodes: &Opcodes) -> Option<Self> {
        let mut random = Random::new(seed);
        let world = crate::flat::World::new(&mut random);
        let mut program = crate::flat::program(&mut random, opcodes, world);
        let placed = std::mem::take(&mut program.listing).place()?;
        let memory = new_memory();
        let places = world.surroundings(&memory, &mut random, program.modifies);
        let before = machine::random(&mut random, 64);
        fill(&memory, &places, &mut random);
        write_code(&memory, &places, &program, &placed);
        let start = (program.image + placed.offset(program.start)) & 0xffff_ffff;
        let state = world.start(&program, start, &before, &mut random);
        let Program { user, modifies, image, .. } = program;
        let kind = format!("{world:?}, image {image:#x}, user {user}, modifies {modifies}");
        let ram = contents(&memory);
        Some(Self { seed, kind, user, bits: 32, placed, ram, state })
    }

    /// Whether it runs at CPL 3.
    pub(crate) fn is_user(&self) -> bool {
        self.user
    }

    /// Runs it for so many instructions, at most `slice` at a time; returns how many slices.
    pub(crate) fn run(&self, execution: Execution, budget: u64, slice: u64) -> (Ended, u64) {
        let options = SoftOptions { execution, ..SoftOptions::default() };
        self.run_with(options, budget, &mut || slice)
    }

    /// Likewise, on such an engine, each piece as long as it is told; returns how many there were.
    /// The counter is exact at the end of each.
    pub(crate) fn run_with(
        &self,
        options: SoftOptions,
        budget: u64,
        piece: &mut dyn FnMut() -> u64,
    ) -> (Ended, u64) {
        let memory = new_memory();
        layout::write(&memory, 0, &self.ram);
        let config = VmConfig { memory: memory.clone(), cpus: 1 };
        let engine = SoftEngine::with_options(config, options).expect("one processor is allowed");
        let mut vcpu = engine.create_vcpu(0).expect("the first is there");
        let mut state = vcpu.state().expect("a stopped processor has a state");
        take(&mut state, &self.state);
        vcpu.set_state(&state).expect("it is a sound state");
        let (mut left, mut slices) = (budget, 0);
        let exit = loop {
            let now = piece().min(left);
            let exit =
                vcpu.run(&mut Nothing, Budget::Instructions(now)).expect("the host is sound");
            left -= now;
            slices += 1;
            if exit == Exit::BudgetSpent {
                assert_eq!(vcpu.retired(), Some(budget - left), "the counter after a budget");
            }
            if exit != Exit::BudgetSpent || left == 0 {
                break exit;
            }
        };
        let state = vcpu.state().expect("a stopped processor has a state");
        let retired = vcpu.retired().expect("the engine counts");
        (Ended { exit, state, ram: contents(&memory), retired }, slices)
    }

    /// What differs between two runs, if anything does.
    pub(crate) fn differences(&self, one: &Ended, other: &Ended) -> Option<String> {
        let mut text = String::new();
        if one.exit != other.exit {
            let _ = writeln!(text, "exit {:?}, {:?}", one.exit, other.exit);
        }
        note(&mut text, "retired", one.retired, other.retired);
        let (a, b) = (&one.state, &other.state);
        for number in 0..16 {
            note(&mut text, &format!("r{number}"), a.gpr[number], b.gpr[number]);
        }
        let undefined = if one.exit == Exit::BudgetSpent { STATUS } else { 0 };
        note(&mut text, "rip", a.rip, b.rip);
        note(&mut text, "rflags", a.rflags & !undefined, b.rflags & !undefined);
        note(&mut text, "cr0", a.cr0, b.cr0);
        note(&mut text, "cr2", a.cr2, b.cr2);
        for (number, (a, b)) in a.segments.iter().zip(&b.segments).enumerate() {
            if a != b {
                let _ = writeln!(text, "segment {number}: {a:?}, {b:?}");
            }
        }
        let (a, b) = (image(a), image(b));
        for at in (0..IMAGE_SIZE).filter(|&at| a[at] != b[at]) {
            let _ = writeln!(text, "xsave[{at}]: {:02x}, {:02x}", a[at], b[at]);
        }
        self.compare_ram(&mut text, one, other);
        if !text.is_empty() {
            let _ = writeln!(text, "both end with {:?}", one.exit);
        }
        (!text.is_empty()).then_some(text)
    }

    fn compare_ram(&self, text: &mut String, one: &Ended, other: &Ended) {
        let mut shown = 0;
        let forgiven = forgiven(one, other);
        for at in (0..RAM as usize).step_by(8) {
            let word =
                |ram: &[u8]| u64::from_le_bytes(ram[at..at + 8].try_into().expect("eight bytes"));
            let (mut a, mut b) = (word(&one.ram), word(&other.ram));
            if (at as u64) < HANDLER {
                // Accessed bits may be set ahead of an access that is then not made; dirty ones not.
                let used = ACCESSED | ACCESSED << 32;
                a &= !used;
                b &= !used;
            }
            for (place, bits) in forgiven {
                if place & !7 == at {
                    a &= !(bits << (place % 8 * 8));
                    b &= !(bits << (place % 8 * 8));
                }
            }
            if a != b && shown < 24 {
                shown += 1;
                note(text, &format!("ram[{at:#x}]"), a, b);
            }
        }
    }

    /// The program from just before an instruction count on, as the interpreter runs it.
    pub(crate) fn trace(&self, from: u64, count: u64) -> String {
        let mut text = String::new();
        for budget in from.max(1)..from + count {
            let (ended, _) = self.run(Execution::Interpret, budget, u64::MAX);
            let state = &ended.state;
            let offset = (state.rip & 0xffff) as usize;
            let line = match self.placed.lengths.get(offset) {
                Some(&length) if length > 0 => {
                    let bytes = &self.placed.bytes[offset..offset + usize::from(length)];
                    disassemble(self.bits, bytes, state.rip)
                }
                _ => "(the handler, or code that changed)".into(),
            };
            let _ = writeln!(
                text,
                "{budget:7} {:#018x} {line:60} flags {:#x} {:x?}",
                state.rip, state.rflags, state.gpr
            );
        }
        text
    }

    /// What kind of program it is.
    pub(crate) fn describe(&self) -> String {
        format!("seed {}, {}", self.seed, self.kind)
    }
}

/// Status flags of the frame on the handler's stack, if the budget has ended where it may not have
/// cleared those that are undefined yet: two bytes of RAM, and their bits.
fn forgiven(one: &Ended, other: &Ended) -> [(usize, u64); 2] {
    // Wherever the direct map lies, and images do not.
    let place = one.state.rip & 0x3f_ffff;
    // Behind the tables, whose accessed and dirty bits may differ.
    let differs = |&at: &usize| one.ram[at] != other.ram[at];
    let first = (HANDLER as usize..RAM as usize).find(differs);
    let Some(first) = first.filter(|_| one.exit == Exit::BudgetSpent) else { return [(0, 0); 2] };
    if !(HANDLER..IDT).contains(&place) {
        return [(0, 0); 2];
    }
    // OF has the second byte for itself.
    let only_second = (one.ram[first] ^ other.ram[first]) & !8 == 0;
    let start = first - usize::from(only_second);
    [(start, STATUS & 0xff), (start + 1, STATUS >> 8)]
}

/// Numbers of all kinds in the data pages.
fn fill(memory: &GuestMemory, places: &Places, random: &mut Random) {
    let mut at = DATA;
    while at < TABLES {
        // The pages of one window after another, each with numbers of other kinds.
        let window = machine::random(random, 64).window;
        if at != READ_ONLY + PAGE {
            let length = if at + PAGE == READ_ONLY + PAGE { PAGE } else { 2 * PAGE };
            let length = length.min(TABLES - at);
            places.write(memory, at, &window[..length as usize]);
            at += length;
        } else {
            at += PAGE;
        }
    }
}

/// The program's code, its tables, and what the handler must know of it.
fn write_code(memory: &GuestMemory, places: &Places, program: &Program, placed: &Placed) {
    places.write(memory, 0, &placed.bytes);
    for &(slot, image, label) in &program.tables {
        let address = image + placed.offset(label);
        places.write(memory, TABLES + slot * 8, &address.to_le_bytes());
    }
    layout::write(memory, LENGTHS, &placed.lengths);
    layout::write(memory, UNDEFINED, &placed.undefined);
}

fn disassemble(bits: u32, bytes: &[u8], rip: u64) -> String {
    let ins = Decoder::with_ip(bits, bytes, rip, DecoderOptions::NONE).decode();
    let mut text = String::new();
    IntelFormatter::new().format(&ins, &mut text);
    text
}

fn note(text: &mut String, name: &str, a: u64, b: u64) {
    if a != b {
        let _ = writeln!(text, "{name}: {a:#x}, {b:#x}");
    }
}

/// The XSAVE image without what is the processor's bookkeeping: x87 pointers, MXCSR_MASK, header.
fn image(state: &CpuState) -> Vec<u8> {
    let mut bytes = state.xsave.0[..IMAGE_SIZE].to_vec();
    for range in [6..24, 28..32, 512..576] {
        bytes[range].fill(0);
    }
    bytes
}

pub(crate) fn new_memory() -> Arc<GuestMemory> {
    Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("1 MiB can be had"))
}

pub(crate) fn contents(memory: &GuestMemory) -> Vec<u8> {
    let mut ram = vec![0; RAM as usize];
    memory.read_physical(GuestPhys(0), &mut ram).expect("it lies in RAM");
    ram
}

/// Everything of a state but what the engine itself began with.
pub(crate) fn take(state: &mut CpuState, wanted: &CpuState) {
    let (lapic, apic_base) = (state.lapic.clone(), state.msrs.apic_base);
    *state = wanted.clone();
    state.lapic = lapic;
    state.msrs.apic_base = apic_base;
}

/// Registers and system state at the start.
fn start(
    program: &Program,
    placed: &Placed,
    before: &machine::Start,
    random: &mut Random,
) -> CpuState {
    let mut state = bare();
    if program.user {
        enter_user(&mut state);
    }
    for segment in &mut state.segments[4..] {
        segment.base = program.image + DATA + random.below(2 * PAGE);
    }
    state.gpr = before.gpr;
    state.gpr[4] = program.image + stack_offset(random);
    state.rip = program.image + placed.offset(program.start);
    state.rflags = before.rflags & STATUS | Flags::FIXED.bits();
    state.xsave.0[..IMAGE_SIZE].copy_from_slice(&before.image);
    if random.once_in(4) {
        state.cr0 |= Cr0::TS.bits();
    }
    state
}

pub(crate) const RING3: u16 = 3 << 5;
pub(crate) const DATA_RIGHTS: u16 =
    attr::PRESENT | attr::S | attr::WRITE_READ | attr::ACCESSED | attr::DB | attr::GRANULAR;
pub(crate) const CODE_RIGHTS: u16 = attr::PRESENT
    | attr::S
    | attr::WRITE_READ
    | attr::ACCESSED
    | attr::CODE
    | attr::LONG
    | attr::GRANULAR;

pub(crate) fn flat(selector: u16, attributes: u16) -> Segment {
    Segment { base: 0, limit: u32::MAX, selector, attributes }
}

/// CPL 3.
pub(crate) fn enter_user(state: &mut CpuState) {
    state.segments = [flat(0x1b, DATA_RIGHTS | RING3); 6];
    state.segments[1] = flat(0x23, CODE_RIGHTS | RING3);
}

/// 64-bit mode at CPL 0, with the tables of this test.
pub(crate) fn bare() -> CpuState {
    let mut state = CpuState::reset(0);
    state.activity = Activity::Running;
    state.segments = [flat(0x10, DATA_RIGHTS); 6];
    state.segments[1] = flat(0x08, CODE_RIGHTS);
    state.gdtr = TableRegister { base: DIRECT + GDT, limit: 0x77 };
    state.idtr = TableRegister { base: DIRECT + IDT, limit: 0x1ff };
    let busy = attr::PRESENT | 0xb;
    state.tr = Segment { base: DIRECT + TSS, limit: 0x67, selector: 0x28, attributes: busy };
    state.cr0 = (Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::PG).bits();
    state.cr3 = CR3;
    let sse = Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    state.cr4 = (Cr4::PAE | Cr4::FSGSBASE | sse).bits();
    state.msrs.efer = (Efer::LME | Efer::LMA | Efer::NXE | Efer::SCE).bits();
    state.xcr0 = 7;
    state
}

/// No devices.
pub(crate) struct Nothing;

impl GuestIo for Nothing {
    fn port_in(&mut self, _port: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn port_out(&mut self, _port: u16, _data: &[u8]) {}

    fn mmio_read(&mut self, _address: GuestPhys, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _address: GuestPhys, _data: &[u8]) {}

    fn end_of_interrupt(&mut self, _vector: u8) {}

    fn acknowledge_pic(&mut self) -> Option<u8> {
        None
    }
}
