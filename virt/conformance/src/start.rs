//! The state in which a payload's first processor begins (payloads::Start).

use payloads::{Start, layout};
use x86::segment::attr;
use x86::{Activity, CpuState, Cr0, Cr4, Efer, Flags, Reg, Segment, TableRegister};

const DATA: u16 = attr::PRESENT | attr::S | attr::WRITE_READ | attr::ACCESSED;
const FLAT: u16 = DATA | attr::DB | attr::GRANULAR;
/// Present, type 11: a busy 32- or 64-bit TSS.
const BUSY_TSS: u16 = attr::PRESENT | 0xb;

/// Applies a start to the state after RESET.
pub(crate) fn state(reset: CpuState, start: Start) -> CpuState {
    let mut state = CpuState { activity: Activity::Running, ..reset };
    state.gpr = [0; 16];
    state.rflags = Flags::FIXED.bits();
    match start {
        Start::Real { segment, offset } => {
            state.segments = [Segment::real_mode(0, DATA); 6];
            state.segments[1] = Segment::real_mode(segment, DATA | attr::CODE);
            state.rip = offset.into();
            state.gpr[Reg::Rsp as usize] = layout::STACK16.into();
            state.idtr = TableRegister { base: 0, limit: 0x3ff };
            state.cr0 = Cr0::ET.bits();
        }
        Start::Protected { eip } => {
            protected(&mut state, eip.into(), layout::selector::CODE32, FLAT | attr::CODE);
            state.cr0 = (Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE).bits();
            state.cr4 = (Cr4::OSFXSR | Cr4::OSXMMEXCPT).bits();
        }
        Start::Long { rip } => {
            let code = DATA | attr::CODE | attr::LONG | attr::GRANULAR;
            protected(&mut state, rip, layout::selector::CODE64, code);
            let cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::PG;
            state.cr0 = cr0.bits();
            state.cr4 = (Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT).bits();
            state.cr3 = layout::PML4;
            state.msrs.efer = (Efer::LME | Efer::LMA | Efer::NXE).bits();
        }
    }
    state
}

/// What 32-bit protected mode and long mode have in common.
fn protected(state: &mut CpuState, rip: u64, code: u16, attributes: u16) {
    let flat = |selector, attributes| Segment { base: 0, limit: u32::MAX, selector, attributes };
    state.segments = [flat(layout::selector::DATA, FLAT); 6];
    state.segments[1] = flat(code, attributes);
    state.rip = rip;
    state.gpr[Reg::Rsp as usize] = layout::STACK;
    state.gdtr = TableRegister { base: layout::GDT, limit: layout::GDT_BYTES - 1 };
    state.idtr = TableRegister { base: layout::IDT, limit: 0xfff };
    state.tr = Segment {
        base: layout::TSS,
        limit: u32::from(layout::TSS_BYTES) - 1,
        selector: layout::selector::TSS,
        attributes: BUSY_TSS,
    };
    state.ldtr = Segment { limit: 0xffff, ..Segment::default() };
}
