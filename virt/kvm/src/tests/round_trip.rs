//! State in, state out: equal, and effective in the guest.

use engine::{Engine, Exit};
use x86::lapic::reg;
use x86::{Activity, CpuState, Cr4, Exception, TableRegister, XsaveArea};

use super::support::{CODE, HOLE, Recorder, hardware, machine, real_mode, run, with_x2apic};
use crate::probe::enter_long_mode;

/// What KVM derives itself and so may differ: read-only APIC registers, bits the host adds, and
/// the TSC offset, which KVM moves at every load of a vCPU where the host's TSC is unstable.
fn comparable(mut state: CpuState) -> CpuState {
    state.msrs.tsc_offset = 0;
    for derived in [reg::VERSION, reg::PPR, reg::LDR, reg::TIMER_CURRENT] {
        state.lapic.registers[derived] = 0;
    }
    state.msrs.misc_enable &= 1;
    state
}

fn full_state(memory: &memory::GuestMemory) -> CpuState {
    let mut state = with_x2apic(real_mode(CODE), 0);
    enter_long_mode(&mut state, memory);
    for (index, register) in state.gpr.iter_mut().enumerate() {
        *register = 0x1111_1111_1111_1111 * index as u64;
    }
    state.rip = 0x8000;
    state.rflags = 0x2 | 0x8d5;
    state.cr2 = 0x1234_5678_9abc;
    state.cr4 |= (Cr4::OSXSAVE | Cr4::PGE | Cr4::OSXMMEXCPT).bits();
    state.xcr0 = 3;
    state.gdtr = TableRegister { base: 0x5000, limit: 0x7f };
    state.idtr = TableRegister { base: 0x6000, limit: 0xfff };
    state.segments[4].base = 0x7f00_1234_5678;
    state.segments[5].base = 0xffff_8000_0000_1000;
    state.dr = [0x1000, 0x2000, 0x3000, 0x4000];
    state.dr6 = 0xffff_0ff1;
    state.dr7 = 0x455;
    state.msrs.star = 0x0023_0010_0000_0000;
    state.msrs.lstar = 0xffff_ffff_8100_0000;
    state.msrs.sfmask = 0x4_7700;
    state.msrs.kernel_gs_base = 0xffff_8880_0000_0000;
    state.msrs.sysenter_cs = 0x10;
    // AMD's are 32 bits wide.
    state.msrs.sysenter_esp = 0xc900_0000;
    state.msrs.sysenter_eip = 0x8200_0000;
    state.msrs.tsc_offset = 0u64.wrapping_sub(crate::host::rdtsc());
    state.msrs.mtrr_def_type = 0xc06;
    state.msrs.mtrr_fixed = [0x0606_0606_0606_0606; 11];
    state.msrs.kvm_poll_control = 0;
    state.xsave.set_fcw(0x27f);
    state.xsave.set_mxcsr(0x1fa0);
    for register in 0..16 {
        state.xsave.set_xmm(register, 0x0101_0101_0101_0101_0101_0101 * register as u128);
    }
    state.lapic.registers[reg::TPR] = 0x20;
    state.lapic.registers[reg::LVT_LINT1] = 4 << 8;
    state.lapic.registers[reg::LVT_ERROR] = 0xfe;
    state
}

#[test]
fn the_whole_state_comes_back() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.engine.create_vcpu(0).unwrap();
    let mut state = full_state(&machine.memory);
    if !hardware() {
        // Such a host says yes to a TSC offset and ignores it.
        state.msrs.tsc_offset = 0;
    }
    vcpu.set_state(&state).unwrap();
    let saved = vcpu.state().unwrap();
    if hardware() {
        let apart = saved.msrs.tsc_offset.wrapping_sub(state.msrs.tsc_offset).cast_signed();
        assert!(apart.abs() < 1 << 32, "the TSC offset came back {apart} ticks off");
    }
    let (saved, state) = (comparable(saved), comparable(state));
    assert_eq!(saved.lapic, state.lapic);
    assert_eq!(saved.msrs, state.msrs);
    assert_eq!(saved.xsave, state.xsave);
    assert_eq!(saved, state);
    // And from there into another VM.
    let Some(other) = super::support::machine(1) else { return };
    let mut second = other.engine.create_vcpu(0).unwrap();
    second.set_state(&saved).unwrap();
    assert_eq!(comparable(second.state().unwrap()), saved);
}

#[test]
fn the_reset_state_comes_back() {
    let Some(machine) = machine(2) else { return };
    for index in 0..2 {
        let mut vcpu = machine.engine.create_vcpu(index).unwrap();
        let (saved, reset) = (vcpu.state().unwrap(), CpuState::reset(index));
        assert_eq!(comparable(saved), comparable(reset));
    }
}

#[test]
fn the_upper_halves_of_vector_registers_come_back() {
    let Some(machine) = machine(1) else { return };
    let table = machine.engine.cpuid();
    let components = u64::from(x86::cpuid::lookup(table, 0xd, 0).eax);
    if components & 4 == 0 {
        println!("skipped: this host shows no AVX");
        return;
    }
    let mut vcpu = machine.engine.create_vcpu(0).unwrap();
    let mut state = full_state(&machine.memory);
    state.xcr0 = components;
    for register in 0..16 {
        state.xsave.set_ymm_hi(register, 0x77 << register);
    }
    for leaf in [5, 6, 7u32].into_iter().filter(|leaf| components >> leaf & 1 != 0) {
        let place = x86::cpuid::lookup(table, 0xd, leaf);
        state.xsave.0[place.ebx as usize] = leaf as u8 * 4;
    }
    state.pkru = if components >> 9 & 1 != 0 { 0x5555_5554 } else { 0 };
    vcpu.set_state(&state).unwrap();
    let back = vcpu.state().unwrap();
    assert_eq!((back.xsave, back.pkru), (state.xsave.clone(), state.pkru));
    // A fresh area clears all of it again.
    state.xsave = XsaveArea::default();
    vcpu.set_state(&state).unwrap();
    assert_eq!(vcpu.state().unwrap().xsave, state.xsave);
}

#[test]
fn events_come_back() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.engine.create_vcpu(0).unwrap();
    let base = full_state(&machine.memory);
    let mut fault = base.clone();
    fault.pending_exception = Some(Exception::page_fault(0xdead_b000, 7));
    let mut interrupt = base.clone();
    interrupt.pending_interrupt = Some(0x61);
    let mut nmi = base.clone();
    (nmi.nmi_pending, nmi.nmi_blocked) = (true, true);
    let halted = CpuState { activity: Activity::Halted, ..base.clone() };
    let waiting = CpuState { activity: Activity::WaitForSipi, ..base };
    for state in [fault, interrupt, nmi, halted, waiting] {
        vcpu.set_state(&state).unwrap();
        let saved = vcpu.state().unwrap();
        assert_eq!(saved.pending_exception, state.pending_exception);
        assert_eq!(saved.pending_interrupt, state.pending_interrupt);
        assert_eq!((saved.nmi_pending, saved.nmi_blocked), (state.nmi_pending, state.nmi_blocked));
        assert_eq!(saved.activity, state.activity);
    }
}

#[test]
fn the_shadow_of_sti_comes_back() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(&[0x90, 0xfa, 0xf4]);
    let mut state = real_mode(CODE);
    state.rflags |= 0x200;
    state.sti_shadow = true;
    vcpu.set_state(&state).unwrap();
    assert!(vcpu.state().unwrap().sti_shadow);
    assert_eq!(run(&mut *vcpu, &mut Recorder::default()), Exit::Halted);
    assert!(!vcpu.state().unwrap().sti_shadow);
}

#[test]
fn a_loaded_page_fault_is_delivered_with_its_address() {
    let Some(machine) = machine(1) else { return };
    // Real mode: #PF cannot happen there, #GP can; vector 13 writes and stops.
    machine.vector(13, 0x2000);
    machine.write(0x2000, &[0xe6, 0x8d, 0xfa, 0xf4]);
    let mut vcpu = machine.boot(&[0xf4]);
    let mut state = real_mode(CODE);
    state.pending_exception = Some(Exception::GP0);
    vcpu.set_state(&state).unwrap();
    let mut io = Recorder::default();
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
    assert_eq!(io.outs(0x8d), 1);
}

#[test]
fn a_saved_guest_goes_on_in_another_vm() {
    let (Some(one), Some(two)) = (machine(1), machine(1)) else { return };
    // mov cx, 1000; l: inc bx; out 0x80, al; loop l; cli; hlt
    let code = [0xb9, 0xe8, 0x03, 0x43, 0xe6, 0x80, 0xe2, 0xfb, 0xfa, 0xf4];
    let mut first = one.boot(&code);
    let mut io = Recorder { stop: Some((0x80, first.kicker())), ..Recorder::default() };
    for _ in 0..100 {
        assert_eq!(run(&mut *first, &mut io), Exit::Interrupted);
    }
    let mut ram = vec![0; HOLE as usize];
    one.memory.read_physical(memory::GuestPhys(0), &mut ram).unwrap();
    two.write(0, &ram);
    let mut second = two.engine.create_vcpu(0).unwrap();
    second.set_state(&first.state().unwrap()).unwrap();
    let mut io = Recorder::default();
    assert_eq!(run(&mut *second, &mut io), Exit::Halted);
    assert_eq!(io.outs(0x80), 900);
    assert_eq!(second.state().unwrap().gpr[3], 1000);
}
