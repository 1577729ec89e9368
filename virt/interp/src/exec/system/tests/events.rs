//! The double-fault table, DR6, CR2, RF, shadows, INIT and SIPI.

use x86::{Activity, Dr6, Dr7, Exception, Flags, Vector};

use super::{HANDLER, handler, protected, set_gate, stack32};
use crate::cpu::Stop;
use crate::testing::{CODE, step};

/// Delivers an exception with the gates of some vectors not present; tells where it ended.
fn deliver_without(broken: &[u8], exception: Exception) -> Result<u64, Stop> {
    let mut cpu = protected(0, &[]);
    for &vector in broken {
        set_gate(&mut cpu, vector, super::sel::CODE_0, 0x0e);
    }
    match cpu.deliver_exception(exception) {
        Ok(()) => Ok((cpu.rip() - HANDLER) / 16),
        Err(_) => Err(cpu.stop),
    }
}

#[test]
fn double_fault_table() {
    let page_fault = Exception::page_fault(0x1234, 0);
    // Benign then contributory: handled one after the other.
    assert_eq!(deliver_without(&[6], Exception::UD), Ok(11));
    // Contributory then contributory; page fault then contributory.
    assert_eq!(deliver_without(&[13], Exception::gp(0)), Ok(8));
    assert_eq!(deliver_without(&[14], page_fault), Ok(8));
    // Benign, contributory, contributory.
    assert_eq!(deliver_without(&[6, 11], Exception::UD), Ok(8));
    let missing = Exception::with_code(Vector::SegmentNotPresent, 8 * 8 + 2 + 1);
    assert_eq!(deliver_without(&[13, 8], Exception::gp(0)), Err(Stop::TripleFault(missing)));
}

#[test]
fn a_page_fault_while_delivering_a_contributory_exception_is_handled_serially() {
    let mut cpu = protected(3, &[]);
    // #GP goes through a gate whose TSS stack page is absent; #PF by a conforming gate.
    cpu.bus.poke(super::TSS + 4, 0x9000u32);
    cpu.bus.absent.insert(8);
    set_gate(&mut cpu, 14, super::sel::CONFORMING, 0x8e);
    cpu.regs[4] = super::STACK_1;
    let rip = cpu.rip();
    cpu.deliver_exception(Exception::gp(0)).expect("the page fault has a handler");
    assert_eq!(cpu.rip(), handler(14));
    assert_eq!(cpu.state.cr2, 0x8ffc);
    // Error code: a supervisor write, whatever the interrupted level.
    let [code, eip] = stack32(&cpu);
    assert_eq!((code, eip), (2, rip as u32));
}

#[test]
fn faults_push_resume_flag_and_traps_do_not() {
    let flags_of = |exception| {
        let mut cpu = protected(0, &[]);
        cpu.deliver_exception(exception).expect("all handlers are there");
        let with_code = exception.vector.has_error_code();
        let frame: [u32; 4] = stack32(&cpu);
        assert!(!cpu.has_flag(Flags::RF));
        frame[if with_code { 3 } else { 2 }] & Flags::RF.bits() as u32 != 0
    };
    assert!(flags_of(Exception::UD));
    assert!(flags_of(Exception::gp(8)));
    assert!(flags_of(Exception::debug(Dr6::BD.bits())));
    assert!(!flags_of(Exception::debug(Dr6::BS.bits())));
    assert!(!flags_of(Exception::debug(1)));
    assert!(!flags_of(Exception::new(Vector::Breakpoint)));
}

#[test]
fn debug_exception_updates_dr6_and_clears_general_detect() {
    let mut cpu = protected(0, &[]);
    cpu.state.dr6 = Dr6::FIXED | 0xf;
    cpu.state.dr7 |= Dr7::GD.bits();
    cpu.deliver_exception(Exception::debug(Dr6::BS.bits() | 2)).expect("handled");
    assert_eq!(cpu.state.dr6, Dr6::FIXED | Dr6::BS.bits() | 2);
    assert_eq!(cpu.state.dr7 & Dr7::GD.bits(), 0);
}

#[test]
fn interrupts_clear_if_through_interrupt_gates_only_and_close_shadows() {
    for (access, open) in [(0x8e, false), (0x8f, true)] {
        let mut cpu = protected(0, &[]);
        set_gate(&mut cpu, 0x30, super::sel::CODE_0, access);
        cpu.state.rflags |= (Flags::IF | Flags::TF | Flags::NT).bits();
        cpu.state.sti_shadow = true;
        assert!(!cpu.interrupts_open());
        cpu.state.activity = Activity::Halted;
        cpu.deliver_interrupt(0x30).expect("handled");
        assert_eq!(cpu.rip(), handler(0x30));
        assert_eq!(cpu.has_flag(Flags::IF), open);
        assert!(!cpu.has_flag(Flags::TF) && !cpu.has_flag(Flags::NT));
        assert_eq!(cpu.interrupts_open(), open);
        assert_eq!(cpu.state.activity, Activity::Running);
        let [eip, cs, eflags] = stack32(&cpu);
        assert_eq!((eip, cs), (CODE as u32, 8));
        assert_eq!(u64::from(eflags), 2 | (Flags::IF | Flags::TF | Flags::NT).bits());
    }
}

#[test]
fn errors_of_external_interrupts_carry_ext_and_those_of_int_do_not() {
    let mut cpu = protected(0, &[0xcd, 0x30]);
    set_gate(&mut cpu, 0x30, super::sel::CODE_0, 0x0e);
    let code = 0x30 * 8 + 2;
    assert_eq!(step(&mut cpu), super::fault(Vector::SegmentNotPresent, code));
    assert_eq!(cpu.rip(), CODE);
    cpu.deliver_interrupt(0x30).expect("#NP is handled");
    assert_eq!(cpu.rip(), handler(11));
    assert_eq!(stack32::<1>(&cpu)[0], code | 1);
}

#[test]
fn nmi_is_blocked_until_iret() {
    let mut cpu = protected(0, &[]);
    assert!(cpu.nmi_open());
    cpu.state.nmi_pending = true; // a second one
    cpu.deliver_nmi().expect("handled");
    assert!(cpu.state.nmi_pending && cpu.state.nmi_blocked);
    assert_eq!(cpu.rip(), handler(2));
    assert!(!cpu.nmi_open());
    cpu.bus.poke(handler(2), 0xcfu8);
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(cpu.nmi_open());
    assert_eq!(cpu.rip(), CODE);
}

#[test]
fn a_fault_during_delivery_leaves_the_interrupted_state() {
    let mut cpu = protected(3, &[]);
    cpu.bus.poke(super::TSS + 8, 0u16);
    cpu.state.rflags |= Flags::IF.bits();
    let before = (cpu.regs[4], cpu.rip(), cpu.rflags(), cpu.state.segments);
    let event = crate::deliver::Event {
        vector: 0x30,
        origin: crate::deliver::Origin::Interrupt,
        error_code: None,
    };
    assert!(cpu.deliver_event(&event).is_err());
    assert_eq!(cpu.stop, super::fault(Vector::InvalidTss, 1));
    assert_eq!((cpu.regs[4], cpu.rip(), cpu.rflags(), cpu.state.segments), before);
    // #TS needs the same stack: double fault, then triple.
    assert!(cpu.deliver_interrupt(0x30).is_err());
    assert_eq!(cpu.stop, Stop::TripleFault(Exception::with_code(Vector::InvalidTss, 1)));
}

#[test]
fn init_and_start_up() {
    let mut cpu = protected(0, &[]);
    cpu.state.xcr0 = 7;
    cpu.state.msrs.pat = 6;
    cpu.state.msrs.apic_base &= !(1 << 8);
    cpu.state.xsave.set_xmm(3, 77);
    cpu.init_reset();
    assert_eq!(cpu.state.activity, Activity::WaitForSipi);
    assert_eq!((cpu.state.cr0, cpu.state.cr4), (0x10, 0));
    assert_eq!((cpu.state.xcr0, cpu.state.msrs.pat, cpu.state.xsave.xmm(3)), (7, 6, 77));
    cpu.start_up(0x9a);
    assert_eq!(cpu.state.activity, Activity::Running);
    assert_eq!(cpu.segment(1).base + cpu.rip(), 0x9_a000);
    cpu.start_up(0x10);
    assert_eq!(cpu.segment(1).selector, 0x9a00, "only a waiting processor starts");
}

#[test]
fn stepping_is_suppressed_by_mov_ss_and_swallowed_by_int() {
    let mut cpu = protected(0, &[0x8e, 0xd0, 0x90, 0xcd, 0x30]);
    cpu.regs[0] = 0x10;
    cpu.stepping = true;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.debug_trap(), None);
    cpu.state.mov_ss_shadow = false;
    cpu.stepping = true;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.debug_trap(), Some(Exception::debug(Dr6::BS.bits())));
    cpu.stepping = true;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.rip(), handler(0x30));
    assert_eq!(cpu.debug_trap(), None);
}

#[test]
fn icebp_shares_its_debug_exception_with_a_breakpoint_that_mov_ss_delayed() {
    let mut cpu = protected(0, &[0xf1]);
    cpu.state.dr7 |= 1;
    cpu.bus.watch_hits = 1;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.state.dr6), (handler(1), Dr6::FIXED | 1));
    assert_eq!(cpu.debug_trap(), None);
    // INT 1 is a software interrupt: the delayed #DB follows it.
    let mut cpu = protected(0, &[0xcd, 0x01]);
    cpu.state.dr7 |= 1;
    cpu.bus.watch_hits = 1;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.debug_trap(), Some(Exception::debug(1)));
}
