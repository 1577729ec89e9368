//! The interpreter's side: a flat bus with one code page and one data window.

use std::collections::HashMap;

use iced_x86::Instruction;
use interp::bus::Access;
use interp::vector::{Exchange, VectorHandle, VectorUnit};
use interp::{
    Bus, CodeSize, Context, Cpu, Flush, LinearMemory, Platform, PortIo, Stop, StringAssist,
    Translation, Width, decode,
};
use soft::simd::HostVectors;
use x86::cpuid::CpuidResult;
use x86::exception::pf;
use x86::segment::attr;
use x86::{CpuState, Cr0, Cr4, Efer, Exception, Segment, XsaveArea};

use crate::case::{CODE, Case, DONE, IMAGE_SIZE, Machine, Outcome, START, WINDOW, WINDOW_SIZE};

const PAGE: usize = 4096;
/// More than any case needs, REP counts included.
const MOST_STEPS: u32 = 100_000;

struct FlatBus {
    window: Box<[u8; WINDOW_SIZE]>,
    code: Box<[u8; PAGE]>,
    vectors: HostVectors,
    /// CPUID leaves asked before: on a virtual host each costs microseconds.
    leaves: HashMap<(u32, u32), CpuidResult>,
}

/// Runs cases.
pub(crate) struct Interpreter {
    cpu: Cpu<FlatBus>,
    template: CpuState,
}

impl Interpreter {
    pub(crate) fn new() -> Self {
        let bus = FlatBus {
            window: Box::new([0; WINDOW_SIZE]),
            code: Box::new([0xcc; PAGE]),
            vectors: HostVectors::new().expect("the host lends code memory"),
            leaves: HashMap::new(),
        };
        let template = user_state();
        Self { cpu: Cpu::new(template.clone(), bus), template }
    }

    /// Runs a case until it leaves its code.
    pub(crate) fn run(&mut self, case: &Case) -> Outcome {
        self.prepare(case);
        let size = if case.bitness == 64 { CodeSize::Bits64 } else { CodeSize::Bits32 };
        for _ in 0..MOST_STEPS {
            let rip = self.cpu.rip();
            let offset = rip.wrapping_sub(CODE) as usize;
            if offset >= PAGE {
                return self.outcome(fetch_fault(rip));
            }
            if self.cpu.bus.code[offset] == 0xcc {
                return self.outcome(Exception::new(x86::Vector::Breakpoint));
            }
            let bytes = *self.cpu.bus.code;
            let op = match decode(&bytes[offset..], size, &mut self.cpu.bus) {
                Ok(op) => op,
                Err(_) => return self.outcome(fetch_fault(CODE + PAGE as u64)),
            };
            self.cpu.set_rip(rip.wrapping_add(u64::from(op.len)));
            if (op.run)(&mut self.cpu, &op).is_ok() {
                continue;
            }
            let stop = std::mem::take(&mut self.cpu.stop);
            match stop {
                Stop::Repeat => self.cpu.set_rip(rip),
                Stop::Fault(exception) => {
                    self.cpu.set_rip(rip);
                    return self.outcome(exception);
                }
                other => panic!("seed {}: {other:?} at {rip:#x}", case.seed),
            }
        }
        panic!("seed {}: does not end", case.seed);
    }

    fn prepare(&mut self, case: &Case) {
        if self.cpu.bus.vectors.is_nearly_full() {
            self.cpu.bus.vectors.clear();
        }
        let before = &case.before;
        let mut state = self.template.clone();
        state.gpr = before.gpr;
        state.rip = before.rip;
        state.rflags = before.rflags;
        state.xsave.0[..IMAGE_SIZE].copy_from_slice(&before.image);
        if case.bitness == 32 {
            state.segments[1].attributes &= !attr::LONG;
            state.segments[1].attributes |= attr::DB;
        }
        *self.cpu.bus.window = before.window;
        self.cpu.bus.code.fill(0xcc);
        self.cpu.bus.code[START..START + case.code.len()].copy_from_slice(&case.code);
        self.cpu.import(&state);
    }

    fn outcome(&mut self, exception: Exception) -> Outcome {
        let window = *self.cpu.bus.window;
        let state = self.cpu.export();
        let mut image = [0; IMAGE_SIZE];
        image.copy_from_slice(&state.xsave.0[..IMAGE_SIZE]);
        Outcome {
            after: Machine { image, gpr: state.gpr, rflags: state.rflags, rip: state.rip, window },
            vector: match exception.vector.number() {
                3 => DONE,
                other => u64::from(other),
            },
            error_code: u64::from(exception.error_code),
            address: exception.address,
        }
    }
}

fn fetch_fault(at: u64) -> Exception {
    Exception::page_fault(at, pf::USER | pf::FETCH)
}

/// User mode under a 64-bit Linux.
fn user_state() -> CpuState {
    let mut state = CpuState::reset(0);
    let data = attr::PRESENT | attr::S | attr::WRITE_READ | attr::ACCESSED | 3 << 5;
    let flat = |selector, attributes| Segment { base: 0, limit: u32::MAX, selector, attributes };
    for index in [0, 2, 3] {
        state.segments[index] = flat(0x2b, data | attr::DB | attr::GRANULAR);
    }
    state.segments[4] = Segment::default();
    state.segments[5] = Segment::default();
    state.segments[1] = flat(0x33, data | attr::CODE | attr::LONG | attr::GRANULAR);
    state.cr0 = (Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG).bits();
    state.cr4 = (Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE | Cr4::DE).bits();
    state.msrs.efer = (Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE).bits();
    state.xcr0 = 7;
    state
}

impl FlatBus {
    /// Offset into the window of the first byte, if all are there.
    fn check(&self, at: u64, length: usize, access: Access) -> Result<(), Exception> {
        let last = at.wrapping_add(length as u64 - 1);
        let canonical = |a: u64| ((a as i64) << 16 >> 16) as u64 == a;
        if !canonical(at) || !canonical(last) {
            return Err(Exception::GP0);
        }
        for index in 0..length as u64 {
            let here = at.wrapping_add(index);
            let code = here & !0xfff == CODE;
            let data = here.wrapping_sub(WINDOW) < WINDOW_SIZE as u64;
            if data || code && access == Access::Read {
                continue;
            }
            let write = if access == Access::Write { pf::WRITE } else { 0 };
            let present = if code { pf::PRESENT } else { 0 };
            return Err(Exception::page_fault(here, pf::USER | write | present));
        }
        Ok(())
    }

    fn byte(&mut self, at: u64) -> &mut u8 {
        let offset = at.wrapping_sub(WINDOW) as usize;
        if offset < WINDOW_SIZE {
            &mut self.window[offset]
        } else {
            &mut self.code[(at - CODE) as usize]
        }
    }

    fn read(&mut self, at: u64, into: &mut [u8], access: Access) -> Result<(), Exception> {
        self.check(at, into.len(), access)?;
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = *self.byte(at.wrapping_add(index as u64));
        }
        Ok(())
    }

    fn read_width<W: Width>(&mut self, at: u64, access: Access) -> Result<W, Exception> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes[..W::BYTES as usize], access)?;
        Ok(W::from_u64(u64::from_le_bytes(bytes)))
    }
}

impl LinearMemory for FlatBus {
    fn load<W: Width>(&mut self, at: u64) -> Result<W, Exception> {
        self.read_width(at, Access::Read)
    }

    fn store<W: Width>(&mut self, at: u64, value: W) -> Result<(), Exception> {
        self.store_bytes(at, &value.to_u64().to_le_bytes()[..W::BYTES as usize])
    }

    fn load_for_write<W: Width>(&mut self, at: u64) -> Result<W, Exception> {
        self.read_width(at, Access::Write)
    }

    fn load_bytes(&mut self, at: u64, into: &mut [u8]) -> Result<(), Exception> {
        self.read(at, into, Access::Read)
    }

    fn store_bytes(&mut self, at: u64, from: &[u8]) -> Result<(), Exception> {
        self.check(at, from.len(), Access::Write)?;
        for (index, byte) in from.iter().enumerate() {
            *self.byte(at.wrapping_add(index as u64)) = *byte;
        }
        Ok(())
    }

    fn probe(&mut self, at: u64, length: u64, access: Access) -> Result<(), Exception> {
        self.check(at, length as usize, access)
    }

    fn compare_exchange<W: Width>(&mut self, at: u64, old: W, new: W) -> Result<W, Exception> {
        let found: W = self.load_for_write(at)?;
        if found == old {
            self.store(at, new)?;
        }
        Ok(found)
    }

    fn compare_exchange_16(&mut self, at: u64, old: u128, new: u128) -> Result<u128, Exception> {
        let mut bytes = [0; 16];
        self.read(at, &mut bytes, Access::Write)?;
        let found = u128::from_le_bytes(bytes);
        if found == old {
            self.store_bytes(at, &new.to_le_bytes())?;
        }
        Ok(found)
    }

    fn load_system<W: Width>(&mut self, at: u64) -> Result<W, Exception> {
        self.load(at)
    }

    fn store_system<W: Width>(&mut self, at: u64, value: W) -> Result<(), Exception> {
        self.store(at, value)
    }
}

/// One element at a time: the general path is what is tested.
impl StringAssist for FlatBus {
    fn copy_forward(&mut self, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Exception> {
        Ok(0)
    }

    fn fill_forward<W: Width>(&mut self, _: u64, _: u64, _: W) -> Result<u64, Exception> {
        Ok(0)
    }
}

impl PortIo for FlatBus {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        u32::MAX
    }

    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
}

impl Translation for FlatBus {
    fn set_context(&mut self, _: Context) {}
    fn flush(&mut self, _: Flush) {}
    fn pdptes_valid(&mut self, _: u64) -> bool {
        true
    }
    fn set_watchpoints(&mut self, _: [u64; 4], _: u64) {}
    fn take_watch_hits(&mut self) -> u64 {
        0
    }
}

/// Everything the host has is announced.
impl Platform for FlatBus {
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        *self.leaves.entry((leaf, subleaf)).or_insert_with(|| {
            let host = core::arch::x86_64::__cpuid_count(leaf, subleaf);
            CpuidResult { eax: host.eax, ebx: host.ebx, ecx: host.ecx, edx: host.edx }
        })
    }
    fn read_msr(&mut self, _: &CpuState, _: u32) -> Option<u64> {
        None
    }
    fn write_msr(&mut self, _: &mut CpuState, _: u32, _: u64) -> Option<()> {
        None
    }
    fn host_tsc(&mut self) -> u64 {
        0
    }
    fn random(&mut self) -> u64 {
        4
    }
    fn hypercall(&mut self, _: u64, _: [u64; 4], _: bool) -> i64 {
        interp::bus::KVM_ENOSYS
    }

    fn task_priority(&mut self, _: Option<u8>) -> u8 {
        0
    }
    fn attention(&mut self) -> bool {
        false
    }
}

impl VectorUnit for FlatBus {
    fn supports(&self, instruction: &Instruction) -> bool {
        self.vectors.supports(instruction)
    }
    fn prepare(&mut self, instruction: &Instruction) -> Option<VectorHandle> {
        self.vectors.prepare(instruction)
    }
    fn execute(&mut self, handle: VectorHandle, area: &mut XsaveArea, exchange: &mut Exchange) {
        self.vectors.execute(handle, area, exchange);
    }
}

impl Bus for FlatBus {}
