//! Interrupts into real-mode guests: ExtINT, MSI, ends of level-triggered ones, NMI, the timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use engine::{Engine, Exit, MsiMessage};
use x86::lapic::reg;

use super::support::{
    Access, CODE, Machine, Recorder, hardware, machine, real_mode, run, with_x2apic,
};

/// sti; hlt; jmp to the hlt.
const WAIT: [u8; 4] = [0xfb, 0xf4, 0xeb, 0xfd];
const HANDLER: u16 = 0x2000;
const NUMBER_OF_INTERRUPTS: u32 = 5;

/// out 0x80, al; iret
fn plain_handler(machine: &Machine, vector: u8) {
    machine.vector(vector, HANDLER);
    machine.write(HANDLER.into(), &[0xe6, 0x80, 0xcf]);
}

/// Writes EOI through the x2APIC first.
fn apic_handler(machine: &Machine, vector: u8) {
    machine.vector(vector, HANDLER);
    #[rustfmt::skip]
    machine.write(HANDLER.into(), &[
        0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00, // mov ecx, 0x80b
        0x66, 0x31, 0xc0,                   // xor eax, eax
        0x66, 0x31, 0xd2,                   // xor edx, edx
        0x0f, 0x30,                         // wrmsr
        0xe6, 0x80,                         // out 0x80, al
        0xcf,                               // iret
    ]);
}

/// Fires until the machine has acknowledged enough, then ends with vector 9.
fn pic(machine: &Machine) -> (Box<dyn FnMut() -> Option<u8> + Send>, Arc<AtomicU32>) {
    let (engine, taken) = (machine.engine.clone(), Arc::new(AtomicU32::new(0)));
    let count = taken.clone();
    let acknowledge = move || {
        engine.set_pic_output(false);
        let before = count.fetch_add(1, Ordering::SeqCst);
        Some(if before + 1 == NUMBER_OF_INTERRUPTS { 9 } else { 8 })
    };
    (Box::new(acknowledge), taken)
}

#[test]
fn the_8259_pair_interrupts_a_halted_processor() {
    let Some(machine) = machine(1) else { return };
    plain_handler(&machine, 8);
    machine.vector(9, 0x2100);
    machine.write(0x2100, &[0xfa, 0xf4]);
    let mut vcpu = machine.boot(&WAIT);
    // Virtual wire: LINT0 in ExtINT mode, the APIC on.
    let mut state = with_x2apic(real_mode(CODE), 0);
    state.lapic.registers[reg::LVT_LINT0] = 7 << 8;
    vcpu.set_state(&state).unwrap();
    let (acknowledge, taken) = pic(&machine);
    let mut io = Recorder { pic: Some(acknowledge), ..Recorder::default() };
    let (engine, seen) = (machine.engine.clone(), taken.clone());
    let source = std::thread::spawn(move || {
        for turn in 0..NUMBER_OF_INTERRUPTS {
            while seen.load(Ordering::SeqCst) < turn {
                std::thread::yield_now();
            }
            // Now before, now after the handler is done.
            std::thread::sleep(Duration::from_millis(u64::from(turn % 2) * 5));
            engine.set_pic_output(true);
        }
    });
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
    source.join().unwrap();
    assert_eq!(taken.load(Ordering::SeqCst), NUMBER_OF_INTERRUPTS);
    assert_eq!(io.outs(0x80), NUMBER_OF_INTERRUPTS as usize - 1);
}

#[test]
fn a_masked_lint0_keeps_the_8259_pair_out() {
    let Some(machine) = machine(1) else { return };
    // sti; nop; out 0x81, al; cli; hlt
    let mut vcpu = machine.boot(&[0xfb, 0x90, 0x90, 0xe6, 0x81, 0xfa, 0xf4]);
    vcpu.set_state(&with_x2apic(real_mode(CODE), 0)).unwrap();
    let (acknowledge, taken) = pic(&machine);
    let mut io = Recorder { pic: Some(acknowledge), ..Recorder::default() };
    machine.engine.set_pic_output(true);
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
    assert_eq!(taken.load(Ordering::SeqCst), 0);
    assert_eq!(io.trace, [Access::Out(0x81, vec![0])]);
}

#[test]
fn an_acknowledged_vector_survives_a_kick_before_its_delivery() {
    let Some(machine) = machine(1) else { return };
    plain_handler(&machine, 8);
    let mut vcpu = machine.boot(&WAIT);
    let mut state = with_x2apic(real_mode(CODE), 0);
    state.lapic.registers[reg::LVT_LINT0] = 7 << 8;
    vcpu.set_state(&state).unwrap();
    let (kick, engine) = (vcpu.kicker(), machine.engine.clone());
    // The kick comes between acknowledgement and entry.
    let inner = kick.clone();
    let acknowledge = move || {
        engine.set_pic_output(false);
        inner.kick();
        Some(8)
    };
    let mut io = Recorder { pic: Some(Box::new(acknowledge)), ..Recorder::default() };
    machine.engine.set_pic_output(true);
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted);
    let saved = vcpu.state().unwrap();
    let delivered = saved.rip == u64::from(HANDLER);
    assert!(delivered || saved.pending_interrupt == Some(8), "{saved:?}");
    // Loading it again does not lose it either.
    vcpu.set_state(&saved).unwrap();
    let mut io = Recorder { stop: Some((0x80, kick)), ..Recorder::default() };
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted);
    assert_eq!(io.outs(0x80), 1);
}

#[test]
fn the_end_of_a_level_triggered_interrupt_is_reported() {
    if !hardware() {
        return; // such a host keeps ends of interrupts to itself
    }
    let Some(machine) = machine(1) else { return };
    apic_handler(&machine, 0x41);
    let mut vcpu = machine.boot(&WAIT);
    vcpu.set_state(&with_x2apic(real_mode(CODE), 0)).unwrap();
    let level = MsiMessage { address: 0xfee0_0000, data: 0x41 | 3 << 14 };
    machine.engine.signal_msi(level).unwrap();
    let mut io = Recorder { stop: Some((0x80, vcpu.kicker())), ..Recorder::default() };
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted);
    assert_eq!(io.trace, [Access::End(0x41), Access::Out(0x80, vec![0])]);
    // An edge-triggered one on another vector ends silently.
    apic_handler(&machine, 0x51);
    io.trace.clear();
    machine.engine.signal_msi(MsiMessage { address: 0xfee0_0000, data: 0x51 }).unwrap();
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted);
    assert_eq!(io.trace, [Access::Out(0x80, vec![0])]);
}

#[test]
fn a_level_interrupt_in_a_loaded_state_reports_its_end_too() {
    if !hardware() {
        return; // such a host keeps ends of interrupts to itself
    }
    let Some(machine) = machine(1) else { return };
    apic_handler(&machine, 0x41);
    let mut vcpu = machine.boot(&WAIT);
    let mut state = with_x2apic(real_mode(CODE), 0);
    state.lapic.registers[reg::IRR + 2] = 1 << 1;
    state.lapic.registers[reg::TMR + 2] = 1 << 1;
    vcpu.set_state(&state).unwrap();
    let mut io = Recorder { stop: Some((0x80, vcpu.kicker())), ..Recorder::default() };
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted);
    assert_eq!(io.trace, [Access::End(0x41), Access::Out(0x80, vec![0])]);
}

#[test]
fn a_message_to_nobody_is_the_guests_loss() {
    let Some(machine) = machine(1) else { return };
    let _vcpu = machine.boot(&WAIT);
    let message = MsiMessage { address: 0xfee0_7000, data: 0x41 };
    machine.engine.signal_msi(message).unwrap();
}

#[test]
fn an_nmi_wakes_a_processor_with_interrupts_off() {
    let Some(machine) = machine(1) else { return };
    machine.vector(2, HANDLER);
    machine.write(HANDLER.into(), &[0xe6, 0x80, 0xcf]);
    let mut vcpu = machine.boot(&[0xfa, 0xf4, 0xf4]);
    vcpu.set_state(&with_x2apic(real_mode(CODE), 0)).unwrap();
    machine.engine.inject_nmi(0).unwrap();
    let mut io = Recorder::default();
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
    assert_eq!(io.outs(0x80), 1);
}

#[test]
fn the_timer_goes_on_where_the_state_says() {
    let Some(machine) = machine(1) else { return };
    apic_handler(&machine, 0x30);
    let mut vcpu = machine.boot(&WAIT);
    let mut state = with_x2apic(real_mode(CODE), 0);
    state.lapic.registers[reg::LVT_TIMER] = 0x30;
    state.lapic.registers[reg::TIMER_DIVIDE] = 0b1011;
    state.lapic.registers[reg::TIMER_INITIAL] = 4_000_000_000;
    state.lapic.timer_remaining_ns = Some(30_000_000);
    vcpu.set_state(&state).unwrap();
    let saved = vcpu.state().unwrap();
    let remaining = saved.lapic.timer_remaining_ns.expect("it counts");
    assert!(remaining <= 30_000_000, "{remaining}");
    let mut io = Recorder { stop: Some((0x80, vcpu.kicker())), ..Recorder::default() };
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted);
    assert_eq!(io.trace, [Access::Out(0x80, vec![0])]);
    assert_eq!(vcpu.state().unwrap().lapic.timer_remaining_ns, None);
}

#[test]
fn a_tsc_deadline_in_the_state_fires() {
    let Some(machine) = machine(1) else { return };
    apic_handler(&machine, 0x30);
    let mut vcpu = machine.boot(&WAIT);
    let mut state = with_x2apic(real_mode(CODE), 0);
    state.lapic.registers[reg::LVT_TIMER] = 0x30 | 2 << 17;
    let soon = u64::from(machine.engine.capabilities().tsc_khz) * 20;
    state.lapic.tsc_deadline = crate::host::rdtsc().wrapping_add(soon);
    vcpu.set_state(&state).unwrap();
    assert_eq!(vcpu.state().unwrap().lapic.tsc_deadline, state.lapic.tsc_deadline);
    let mut io = Recorder { stop: Some((0x80, vcpu.kicker())), ..Recorder::default() };
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted);
    assert_eq!(vcpu.state().unwrap().lapic.tsc_deadline, 0);
}
