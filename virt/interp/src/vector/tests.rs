//! What the checks, the moves and the saved images do; arithmetic is tested where a unit exists.

use x86::xsave::{FCW_INIT, MXCSR_RESET};
use x86::{Cr0, Cr4, Exception, Vector};

use crate::cpu::{Cpu, Stop};
use crate::lower::CodeSize;
use crate::testing::{CODE, DATA, FlatBus, machine, real, step};

const MOVUPS: &[u8] = &[0x0f, 0x10, 0x07]; // movups xmm0, [rdi]
const MOVAPS_STORE: &[u8] = &[0x0f, 0x29, 0x07]; // movaps [rdi], xmm0
const VMOVUPS: &[u8] = &[0xc5, 0xf8, 0x10, 0x07]; // vmovups xmm0, [rdi]
const MASKMOVQ: &[u8] = &[0x0f, 0xf7, 0xc1]; // maskmovq mm0, mm1
const FNSTCW: &[u8] = &[0xd9, 0x3f]; // fnstcw [rdi]
const FLDCW: &[u8] = &[0xd9, 0x2f]; // fldcw [rdi]
const WAIT: &[u8] = &[0x9b];
const XSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x27];
const XSAVEC64: &[u8] = &[0x48, 0x0f, 0xc7, 0x27];
const XSAVEOPT64: &[u8] = &[0x48, 0x0f, 0xae, 0x37];
const XRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x2f];
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x07];
const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x0f];
const FNSAVE: &[u8] = &[0xdd, 0x37];
const FRSTOR: &[u8] = &[0xdd, 0x27];

const UD: Stop = Stop::Fault(Exception::UD);
const NM: Stop = Stop::Fault(Exception::NM);
const MF: Stop = Stop::Fault(Exception::new(Vector::MathFault));
const GP: Stop = Stop::Fault(Exception::GP0);

fn long(code: &[u8]) -> Cpu<FlatBus> {
    let mut cpu = machine(CodeSize::Bits64, code);
    cpu.regs[7] = DATA;
    cpu
}

/// Runs one instruction after changing the processor.
fn outcome(code: &[u8], change: impl FnOnce(&mut Cpu<FlatBus>)) -> Stop {
    let mut cpu = long(code);
    change(&mut cpu);
    step(&mut cpu)
}

/// Continues with another instruction in the same state.
fn then(cpu: &mut Cpu<FlatBus>, code: &[u8]) -> Stop {
    cpu.bus.poke_bytes(CODE, code);
    cpu.set_rip(CODE);
    step(cpu)
}

fn pending(cpu: &mut Cpu<FlatBus>) {
    cpu.state.xsave.set_fcw(0x37e);
    cpu.state.xsave.set_fsw(0x8081);
}

#[test]
fn sse_is_undefined_under_emulation_and_unavailable_after_a_task_switch() {
    assert_eq!(outcome(MOVUPS, |_| ()), Stop::None);
    assert_eq!(outcome(MOVUPS, |cpu| cpu.state.cr4 &= !Cr4::OSFXSR.bits()), UD);
    assert_eq!(outcome(MOVUPS, |cpu| cpu.state.cr0 |= (Cr0::EM | Cr0::TS).bits()), UD);
    assert_eq!(outcome(MOVUPS, |cpu| cpu.state.cr0 |= Cr0::TS.bits()), NM);
    // A pending x87 exception is not SSE's business.
    assert_eq!(outcome(MOVUPS, pending), Stop::None);
}

#[test]
fn avx_needs_xcr0_and_protected_mode_but_neither_osfxsr_nor_em() {
    assert_eq!(outcome(VMOVUPS, |cpu| cpu.state.xcr0 = 3), UD);
    assert_eq!(outcome(VMOVUPS, |cpu| cpu.state.cr4 &= !Cr4::OSXSAVE.bits()), UD);
    assert_eq!(outcome(VMOVUPS, |cpu| cpu.state.cr0 |= Cr0::TS.bits()), NM);
    assert_eq!(outcome(VMOVUPS, |cpu| cpu.state.cr4 &= !Cr4::OSFXSR.bits()), Stop::None);
    let mut cpu = real(&[0xc5, 0xf8, 0x28, 0xc0]); // vmovaps xmm0, xmm0
    cpu.state.cr4 |= Cr4::OSXSAVE.bits();
    cpu.state.xcr0 = 7;
    assert_eq!(step(&mut cpu), UD);
}

#[test]
fn mmx_raises_ud_nm_mf_in_this_order() {
    let all = |cpu: &mut Cpu<FlatBus>| {
        pending(cpu);
        cpu.state.cr0 |= (Cr0::EM | Cr0::TS).bits();
    };
    assert_eq!(outcome(MASKMOVQ, all), UD);
    let switched = |cpu: &mut Cpu<FlatBus>| {
        pending(cpu);
        cpu.state.cr0 |= Cr0::TS.bits();
    };
    assert_eq!(outcome(MASKMOVQ, switched), NM);
    assert_eq!(outcome(MASKMOVQ, pending), MF);
}

#[test]
fn only_waiting_x87_instructions_report_what_is_pending() {
    assert_eq!(outcome(FNSTCW, pending), Stop::None);
    assert_eq!(outcome(FLDCW, pending), MF);
    assert_eq!(outcome(WAIT, pending), MF);
    assert_eq!(outcome(FNSTCW, |cpu| cpu.state.cr0 |= Cr0::EM.bits()), NM);
    // WAIT looks at TS only together with MP, and never at EM.
    assert_eq!(outcome(WAIT, |cpu| cpu.state.cr0 |= (Cr0::EM | Cr0::TS).bits()), Stop::None);
    assert_eq!(outcome(WAIT, |cpu| cpu.state.cr0 |= (Cr0::MP | Cr0::TS).bits()), NM);
}

#[test]
fn aligned_moves_insist_and_vex_zeroes_what_lies_above() {
    assert_eq!(outcome(MOVAPS_STORE, |cpu| cpu.regs[7] = DATA + 8), GP);
    assert_eq!(outcome(MOVUPS, |cpu| cpu.regs[7] = DATA + 8), Stop::None);
    for (code, high) in [(MOVUPS, 9), (VMOVUPS, 0)] {
        let mut cpu = long(code);
        cpu.state.xsave.set_ymm_hi(0, 9);
        cpu.bus.poke(DATA, 5u64);
        assert_eq!(step(&mut cpu), Stop::None);
        assert_eq!((cpu.state.xsave.xmm(0), cpu.state.xsave.ymm_hi(0)), (5, high));
    }
}

#[test]
fn a_store_across_an_absent_page_writes_nothing() {
    let mut cpu = long(&[0x0f, 0x11, 0x07]); // movups [rdi], xmm0
    cpu.regs[7] = DATA + 0xff8;
    cpu.bus.absent.insert((DATA >> 12) + 1);
    cpu.state.xsave.set_xmm(0, u128::MAX);
    assert!(matches!(step(&mut cpu), Stop::Fault(e) if e.vector == Vector::PageFault));
    assert_eq!(cpu.bus.peek::<u64>(DATA + 0xff8), 0);
}

/// A processor with something in every register.
fn filled() -> Cpu<FlatBus> {
    let mut cpu = long(XSAVE64);
    for (index, byte) in cpu.state.xsave.0[32..160].iter_mut().enumerate() {
        *byte = if index % 16 < 10 { index as u8 } else { 0 };
    }
    for index in 0..16 {
        cpu.state.xsave.set_xmm(index, 0x1111 * (index as u128 + 1));
        cpu.state.xsave.set_ymm_hi(index, 0x2222 * (index as u128 + 1));
    }
    cpu.state.xsave.set_fsw(0x3800);
    cpu.state.xsave.0[4] = 0x81;
    cpu.state.xsave.set_mxcsr(0x3f80);
    (cpu.regs[0], cpu.regs[2]) = (7, 0);
    cpu
}

#[test]
fn every_way_of_saving_restores_what_it_saved() {
    for (save, restore, avx) in [
        (XSAVE64, XRSTOR64, true),
        (XSAVEC64, XRSTOR64, true),
        (XSAVEOPT64, XRSTOR64, true),
        (FXSAVE64, FXRSTOR64, false),
    ] {
        let mut cpu = filled();
        let before = cpu.state.xsave.clone();
        assert_eq!(then(&mut cpu, save), Stop::None);
        cpu.state.xsave = x86::XsaveArea::default();
        assert_eq!(then(&mut cpu, restore), Stop::None);
        let end = if avx { 832 } else { 416 };
        assert_eq!(cpu.state.xsave.0[..416], before.0[..416]);
        assert_eq!(cpu.state.xsave.0[576..576.max(end)], before.0[576..576.max(end)]);
    }
}

#[test]
fn fnsave_initialises_and_frstor_brings_back() {
    let mut cpu = filled();
    let before = cpu.state.xsave.clone();
    assert_eq!(then(&mut cpu, FNSAVE), Stop::None);
    assert_eq!((cpu.state.xsave.fcw(), cpu.state.xsave.fsw()), (FCW_INIT, 0));
    assert_eq!(cpu.state.xsave.0[4], 0);
    assert_eq!(then(&mut cpu, FRSTOR), Stop::None);
    assert_eq!(cpu.state.xsave.0[..160], before.0[..160]);
}

#[test]
fn xrstor_initialises_components_that_are_not_present() {
    let mut cpu = filled();
    // XSTATE_BV = 0: everything asked for becomes initial, but MXCSR comes from memory.
    cpu.bus.poke(DATA + 24, 0x1f00u32);
    assert_eq!(then(&mut cpu, XRSTOR64), Stop::None);
    assert_eq!(cpu.state.xsave.fcw(), FCW_INIT);
    assert_eq!((cpu.state.xsave.xmm(3), cpu.state.xsave.ymm_hi(3)), (0, 0));
    assert_eq!(cpu.state.xsave.mxcsr(), 0x1f00);
    // The compacted form initialises MXCSR too.
    cpu.bus.poke(DATA + 520, 1u64 << 63 | 7);
    assert_eq!(then(&mut cpu, XRSTOR64), Stop::None);
    assert_eq!(cpu.state.xsave.mxcsr(), MXCSR_RESET);
}

#[test]
fn xsavec_records_only_what_is_in_use() {
    let mut cpu = filled();
    cpu.state.xsave = x86::XsaveArea::default();
    cpu.state.xsave.set_ymm_hi(2, 1);
    cpu.bus.poke(DATA + 160, u64::MAX);
    assert_eq!(then(&mut cpu, XSAVEC64), Stop::None);
    assert_eq!(cpu.bus.peek::<u64>(DATA + 512), 4);
    assert_eq!(cpu.bus.peek::<u64>(DATA + 520), 1 << 63 | 7);
    assert_eq!(cpu.bus.peek::<u64>(DATA + 160), u64::MAX, "initial state is not written");
}

#[test]
fn pkru_is_component_nine_in_both_forms() {
    for (save, place) in [(XSAVE64, 0x400), (XSAVEC64, 832)] {
        let mut cpu = filled();
        cpu.bus.cpuid.insert(
            0,
            x86::cpuid::CpuidEntry {
                leaf: 0xd,
                subleaf: Some(9),
                result: x86::cpuid::CpuidResult { eax: 8, ebx: 0x400, ecx: 0, edx: 0 },
            },
        );
        cpu.state.xcr0 |= x86::Xcr0::PKRU.bits();
        cpu.state.cr4 |= Cr4::PKE.bits();
        cpu.regs[0] = !0;
        cpu.state.pkru = 0x5555_5554;
        assert_eq!(then(&mut cpu, save), Stop::None);
        assert_eq!(cpu.bus.peek::<u64>(DATA + place), 0x5555_5554);
        assert_eq!(cpu.bus.peek::<u64>(DATA + 512) >> 9 & 1, 1);
        cpu.state.pkru = 1;
        assert_eq!(then(&mut cpu, XRSTOR64), Stop::None);
        assert_eq!((cpu.state.pkru, cpu.bus.context.pkru), (0x5555_5554, 0x5555_5554));
        // Not present in memory: initial.
        cpu.bus.poke(DATA + 512, 0u64);
        assert_eq!(then(&mut cpu, XRSTOR64), Stop::None);
        assert_eq!((cpu.state.pkru, cpu.bus.context.pkru), (0, 0));
    }
}

#[test]
fn bad_areas_raise_gp_and_change_nothing() {
    for (at, value) in [(512, 8u64), (520, 1), (528, 1), (24, 0)] {
        let mut cpu = filled();
        if at == 24 {
            cpu.bus.poke(DATA + 24, 0xffff_1f80u32);
        } else {
            cpu.bus.poke(DATA + at, value);
        }
        let before = cpu.state.xsave.clone();
        assert_eq!(then(&mut cpu, XRSTOR64), GP, "{at}");
        assert_eq!(cpu.state.xsave, before);
    }
    let mut cpu = filled();
    cpu.regs[7] = DATA + 32;
    assert_eq!(then(&mut cpu, XSAVE64), GP, "64-byte alignment");
    cpu.state.cr4 &= !Cr4::OSXSAVE.bits();
    assert_eq!(then(&mut cpu, XSAVE64), UD);
}

#[test]
fn ldmxcsr_refuses_reserved_bits() {
    for (value, expected) in [(0x1_0000u32, GP), (0xffff, Stop::None)] {
        let mut cpu = long(&[0x0f, 0xae, 0x17]); // ldmxcsr [rdi]
        cpu.bus.poke(DATA, value);
        assert_eq!(step(&mut cpu), expected);
        let now = if expected == GP { MXCSR_RESET } else { value };
        assert_eq!(cpu.state.xsave.mxcsr(), now);
    }
}
