//! Any bytes as a guest's code, data and tables, in every mode (virt/soft over virt/interp).

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use engine::{Budget, Engine, Exit, GuestIo, VmConfig};
use memory::GuestMemory;
use soft::SoftEngine;
use x86::segment::attr;
use x86::{Activity, CpuState, Cr0, Cr4, Efer, Flags, GuestPhys, Segment, TableRegister};

use crate::cursor::Cursor;
use crate::watchdog::watch;

const RAM: u64 = 2 << 20;
/// Where the bytes are laid, once plain and once repeated to fill what the tables point at.
const CODE: u64 = 0x8000;
const TABLES: u64 = 0x1000;
const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;
const TSS: u64 = 0x7000;
const STACK: u64 = 0x1_8000;
/// DPL 3 (attribute bits 6:5).
const RING3: u16 = 3 << 5;
const INSTRUCTIONS: u64 = 4000;
/// After this a halted or looping guest is kicked.
const KICK: Duration = Duration::from_millis(20);
/// Long beyond the kick, for a loaded machine: nothing inside an instruction may take so long.
const STUCK: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Real,
    Protected16,
    Protected32,
    Virtual8086,
    Paged32,
    Compatibility,
    Long,
    LongUser,
}

const MODES: [Mode; 8] = [
    Mode::Real,
    Mode::Protected16,
    Mode::Protected32,
    Mode::Virtual8086,
    Mode::Paged32,
    Mode::Compatibility,
    Mode::Long,
    Mode::LongUser,
];

/// Bytes as a mode, registers, and code with everything around it.
///
/// # Panics
/// The engine panicked, failed, or did not come back when kicked.
pub fn instructions(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let mode = cursor.pick(&MODES);
    let options = cursor.u8();
    let registers: [u8; 16] = std::array::from_fn(|_| cursor.u8());
    let code = cursor.rest();
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("2 MiB can be had"));
    lay_out(&memory, code, options);
    let config = VmConfig { memory: memory.clone(), cpus: 1 };
    let engine = SoftEngine::new(config).expect("one processor is allowed");
    let mut vcpu = engine.create_vcpu(0).expect("the first is there");
    let mut state = vcpu.state().expect("a stopped processor has a state");
    begin(&mut state, mode, options, registers);
    vcpu.set_state(&state).expect("it is a sound state");
    let mut io = Io { reads: code.to_vec(), at: 0 };
    let started = Instant::now();
    let exit = {
        let _guard = watch(vcpu.kicker(), KICK);
        vcpu.run(&mut io, Budget::Instructions(INSTRUCTIONS)).expect("the host is sound")
    };
    assert!(started.elapsed() < STUCK, "{mode:?}: kicked, but came back only now");
    let after = vcpu.state().expect("a stopped processor has a state");
    check(mode, exit, &after);
    // The state is one that can go on.
    vcpu.set_state(&after).expect("it is a sound state");
    let _guard = watch(vcpu.kicker(), KICK);
    vcpu.run(&mut io, Budget::Instructions(16)).expect("the host is sound");
}

/// What holds whatever a guest did.
fn check(mode: Mode, exit: Exit, state: &CpuState) {
    let lma = state.msrs.efer & Efer::LMA.bits() != 0;
    let paging = state.cr0 & Cr0::PG.bits() != 0;
    let lme = state.msrs.efer & Efer::LME.bits() != 0;
    assert_eq!(lma, lme && paging, "{mode:?} {exit:?}");
    assert!(!paging || state.cr0 & Cr0::PE.bits() != 0);
    assert_ne!(state.rflags & Flags::FIXED.bits(), 0);
    assert_eq!(state.xcr0 & 1, 1, "x87 state cannot be turned off");
    if let Exit::Unsupported { length, .. } = exit {
        assert!(length <= 15);
    }
}

/// Page tables, descriptors and gates that work, then the bytes; each bit of `options` lets the
/// bytes themselves be one of the tables.
fn lay_out(memory: &GuestMemory, code: &[u8], options: u8) {
    let write = |at: u64, bytes: &[u8]| {
        memory.write_physical(GuestPhys(at), bytes).expect("it lies in RAM");
    };
    if !code.is_empty() {
        let filler: Vec<u8> = code.iter().copied().cycle().take(0x1000).collect();
        for page in (TABLES..0x2_0000).step_by(0x1000) {
            write(page, &filler);
        }
    }
    if options & 1 == 0 {
        static PAGING: OnceLock<Vec<u8>> = OnceLock::new();
        write(TABLES, PAGING.get_or_init(page_tables));
    }
    if options & 2 == 0 {
        let flat = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff];
        let more = [0x00af_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0x0000_8b00_7000_0067_u64];
        let bytes: Vec<u8> = flat.iter().chain(&more).flat_map(|one| one.to_le_bytes()).collect();
        write(GDT, &bytes);
    }
    if options & 4 == 0 {
        let gate = 0x0000_8e00_0008_0000 | CODE + 0x100;
        let gates: Vec<u8> = (0..256).flat_map(|_| [gate, 0]).flat_map(u64::to_le_bytes).collect();
        write(IDT, &gates);
        let mut tss = [0; 0x68];
        for field in [0x04, 0x0c, 0x24, 0x2c, 0x34] {
            tss[field..field + 8].copy_from_slice(&STACK.to_le_bytes());
        }
        write(TSS, &tss);
    }
    write(CODE, code.get(..0x4000).unwrap_or(code));
}

/// PML4, PDPT and a directory of two 2 MiB pages with a table for the first; user, writable.
fn page_tables() -> Vec<u8> {
    let mut tables = vec![0; 0x4000];
    let mut put = |at: usize, value: u64| {
        tables[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(0, (TABLES + 0x1000) | 7);
    put(0x1000, (TABLES + 0x2000) | 7);
    put(0x2000, (TABLES + 0x3000) | 7);
    put(0x2008, 0x87);
    for page in 0..512 {
        put(0x3000 + page * 8, (page as u64) << 12 | 7);
    }
    tables
}

/// Registers at the start. `options` bit 3 sets IF, 4 TF, 5-7 turn features of CR4 on.
fn begin(state: &mut CpuState, mode: Mode, options: u8, registers: [u8; 16]) {
    let rights = attr::PRESENT | attr::S | attr::WRITE_READ | attr::ACCESSED;
    let flat = Segment {
        base: 0,
        limit: u32::MAX,
        selector: 16,
        attributes: rights | attr::DB | attr::GRANULAR,
    };
    for (register, byte) in state.gpr.iter_mut().zip(registers) {
        *register = spread(byte);
    }
    state.activity = Activity::Running;
    state.rip = CODE;
    state.gpr[4] = STACK;
    state.gdtr = TableRegister { base: GDT, limit: 0x37 };
    state.idtr = TableRegister { base: IDT, limit: 0xfff };
    state.tr = Segment { base: TSS, limit: 0x67, selector: 0x30, attributes: attr::PRESENT | 0xb };
    let flags = if options & 8 != 0 { Flags::IF.bits() } else { 0 };
    let trap = if options & 0x10 != 0 { Flags::TF.bits() } else { 0 };
    state.rflags = Flags::FIXED.bits() | flags | trap;
    state.cr0 = (Cr0::PE | Cr0::ET | Cr0::NE).bits();
    state.cr4 = (Cr4::OSFXSR | Cr4::OSXMMEXCPT).bits();
    for (bit, feature) in [(0x20, Cr4::OSXSAVE), (0x40, Cr4::SMEP | Cr4::SMAP), (0x80, Cr4::VME)] {
        if options & bit != 0 {
            state.cr4 |= feature.bits();
        }
    }
    state.cr3 = TABLES;
    let code = |attributes, selector| Segment { attributes, selector, ..flat };
    let long = |state: &mut CpuState| {
        state.cr4 |= Cr4::PAE.bits();
        state.cr0 |= (Cr0::PG | Cr0::WP).bits();
        state.msrs.efer = (Efer::LME | Efer::LMA | Efer::NXE | Efer::SCE).bits();
    };
    let readable = rights | attr::CODE | attr::GRANULAR;
    match mode {
        Mode::Real => {
            state.segments = [Segment::real_mode(0, rights); 6];
            state.segments[1] = Segment::real_mode(0, rights | attr::CODE);
            state.cr0 = Cr0::ET.bits();
            state.idtr = TableRegister { base: 0, limit: 0x3ff };
        }
        Mode::Virtual8086 => {
            let ring3 = rights | RING3;
            state.segments = [Segment::real_mode(0, ring3); 6];
            state.rflags |= Flags::VM.bits() | u64::from(registers[0] & 3) << 12;
        }
        Mode::Protected16 => {
            state.segments = [Segment { attributes: rights, limit: 0xffff, ..flat }; 6];
            state.segments[1] = Segment { limit: 0xffff, ..code(rights | attr::CODE, 0x18) };
        }
        Mode::Protected32 | Mode::Paged32 => {
            state.segments = [flat; 6];
            state.segments[1] = code(readable | attr::DB, 0x18);
            if mode == Mode::Paged32 {
                state.cr0 |= Cr0::PG.bits();
            }
        }
        Mode::Compatibility => {
            long(state);
            state.segments = [flat; 6];
            state.segments[1] = code(readable | attr::DB, 0x18);
        }
        Mode::Long => {
            long(state);
            state.segments = [flat; 6];
            state.segments[1] = code(readable | attr::LONG, 8);
        }
        Mode::LongUser => {
            long(state);
            state.segments =
                [Segment { selector: 0x2b, attributes: flat.attributes | RING3, ..flat }; 6];
            state.segments[1] = code(readable | attr::LONG | RING3, 0x23);
        }
    }
}

/// Registers that point into RAM, at its edges, at the ends of the address space, or count.
fn spread(byte: u8) -> u64 {
    let low = u64::from(byte & 0x1f);
    match byte >> 5 {
        0 => low,
        1 => CODE + low * 0x80,
        2 => STACK + low,
        3 => RAM - low,
        4 => u64::MAX - low,
        5 => 0x7fff_ffff_ffff - low,
        6 => low << 59 | 0x5555_5555,
        _ => 0xfee0_0000 | low << 4,
    }
}

/// Devices that answer with the bytes in turn.
struct Io {
    reads: Vec<u8>,
    at: usize,
}

impl Io {
    fn answer(&mut self, data: &mut [u8]) {
        for byte in data {
            *byte = self.reads.get(self.at).copied().unwrap_or(0xff);
            self.at = (self.at + 1) % self.reads.len().max(1);
        }
    }
}

impl GuestIo for Io {
    fn port_in(&mut self, _port: u16, data: &mut [u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4));
        self.answer(data);
    }

    fn port_out(&mut self, _port: u16, data: &[u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4));
    }

    fn mmio_read(&mut self, _address: GuestPhys, data: &mut [u8]) {
        assert!((1..=8).contains(&data.len()));
        self.answer(data);
    }

    fn mmio_write(&mut self, _address: GuestPhys, data: &[u8]) {
        assert!((1..=8).contains(&data.len()));
    }

    fn end_of_interrupt(&mut self, _vector: u8) {}

    fn acknowledge_pic(&mut self) -> Option<u8> {
        None
    }
}
