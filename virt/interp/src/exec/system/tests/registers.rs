//! Control and debug registers, MSRs, CPUID, flags, ports.

use x86::cpuid::{CpuidEntry, CpuidResult};
use x86::{Cr0, Cr4, Dr6, Dr7, Efer, Exception, Flags, msr};

use super::{TSS, gp, long, protected};
use crate::bus::Flush;
use crate::cpu::{Cpu, Mode, Stop};
use crate::testing::{CODE, DATA, FlatBus, STACK, real, run, step};

const UD: Stop = Stop::Fault(Exception::UD);

/// MOV CRn, RAX in 64-bit mode.
fn write_control(number: u8, value: u64, prepare: fn(&mut Cpu<FlatBus>)) -> (Cpu<FlatBus>, Stop) {
    let mut cpu = long(0, &[0x0f, 0x22, 0xc0 | number << 3]);
    cpu.state.cr0 |= Cr0::PG.bits();
    cpu.refresh();
    prepare(&mut cpu);
    cpu.bus.flushes.clear();
    cpu.regs[0] = value;
    let stop = step(&mut cpu);
    (cpu, stop)
}

#[test]
fn cr0_consistency() {
    let paged = (Cr0::PE | Cr0::PG).bits();
    for bad in [1 << 32 | paged, Cr0::PG.bits(), paged | Cr0::NW.bits(), Cr0::PE.bits()] {
        assert_eq!(write_control(0, bad, |_| {}).1, gp(0), "{bad:#x}");
    }
    let (cpu, stop) = write_control(0, paged | Cr0::WP.bits() | 1 << 7, |_| {});
    assert_eq!(stop, Stop::None);
    assert_eq!(cpu.state.cr0, paged | (Cr0::WP | Cr0::ET).bits());
    assert_eq!(cpu.bus.context.cr0, cpu.state.cr0);
}

#[test]
fn activating_and_leaving_long_mode() {
    // MOV CR0, EAX
    let mut cpu = protected(0, &[0x0f, 0x22, 0xc0, 0x0f, 0x22, 0xc1]);
    cpu.regs[0] = cpu.state.cr0 | Cr0::PG.bits();
    cpu.regs[1] = cpu.state.cr0;
    cpu.state.msrs.efer = Efer::LME.bits();
    assert_eq!(step(&mut cpu), gp(0), "LME without PAE");
    cpu.state.cr4 |= Cr4::PAE.bits();
    cpu.bus.pdptes_valid = false;
    assert_eq!(step(&mut cpu), Stop::None, "long mode has no PDPTEs to load");
    assert!(cpu.is_ia32e() && cpu.mode == Mode::Protected32);
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(!cpu.is_ia32e());
    assert_eq!(cpu.bus.flushes, [Flush::All, Flush::All]);
    cpu.state.msrs.efer = 0;
    cpu.set_rip(CODE);
    assert_eq!(step(&mut cpu), gp(0), "PDPTEs with reserved bits");
}

#[test]
fn cr3_and_pcid() {
    let (cpu, stop) = write_control(3, 0x5000, |_| {});
    assert_eq!(
        (stop, cpu.state.cr3, &cpu.bus.flushes[..]),
        (Stop::None, 0x5000, &[Flush::NonGlobal][..])
    );
    assert_eq!(write_control(3, 1 << 63, |_| {}).1, gp(0), "bit 63 without PCIDE");
    assert_eq!(write_control(3, 1 << 48, |_| {}).1, gp(0), "beyond 48 physical bits");
    let pcide = |cpu: &mut Cpu<FlatBus>| cpu.state.cr4 |= Cr4::PCIDE.bits();
    let (cpu, _) = write_control(3, 0x5007, pcide);
    assert_eq!(cpu.bus.flushes, [Flush::Pcid(7)]);
    let (cpu, stop) = write_control(3, 1 << 63 | 0x5007, pcide);
    assert_eq!((stop, cpu.state.cr3), (Stop::None, 0x5007));
    assert!(cpu.bus.flushes.is_empty());
}

#[test]
fn protection_key_registers() {
    // WRPKRU, RDPKRU
    let mut cpu = long(3, &[0x0f, 0x01, 0xef, 0x0f, 0x01, 0xee]);
    cpu.regs[..3].copy_from_slice(&[0x5555_5554, 0, 0]);
    assert_eq!(step(&mut cpu), UD, "CR4.PKE is clear");
    cpu.state.cr4 |= Cr4::PKE.bits();
    for (rcx, rdx) in [(1, 0), (0, 1)] {
        (cpu.regs[1], cpu.regs[2]) = (rcx, rdx);
        assert_eq!(step(&mut cpu), gp(0));
    }
    (cpu.regs[1], cpu.regs[2]) = (0, 0);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.state.pkru, cpu.bus.context.pkru), (0x5555_5554, 0x5555_5554));
    (cpu.regs[0], cpu.regs[2]) = (!0, !0);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.regs[0], cpu.regs[2]), (0x5555_5554, 0));
    // IA32_PKRS counts under CR4.PKS only.
    let mut cpu = long(0, &[0x0f, 0x30]);
    cpu.regs[..3].copy_from_slice(&[4, u64::from(msr::PKRS), 0]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.state.msrs.pkrs, cpu.bus.context.pkrs), (4, 0));
    cpu.state.cr4 |= Cr4::PKS.bits();
    cpu.refresh();
    assert_eq!(cpu.bus.context.pkrs, 4);
}

#[test]
fn cr4_consistency_and_flushes() {
    let base = (Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE).bits();
    assert_eq!(write_control(4, base & !Cr4::PAE.bits(), |_| {}).1, gp(0), "PAE in long mode");
    assert_eq!(write_control(4, base | Cr4::VMXE.bits(), |_| {}).1, gp(0), "VMX is not offered");
    assert_eq!(write_control(4, base | 1 << 40, |_| {}).1, gp(0));
    let low_cr3 = |cpu: &mut Cpu<FlatBus>| cpu.state.cr3 = 0x1001;
    assert_eq!(write_control(4, base | Cr4::PCIDE.bits(), low_cr3).1, gp(0));
    let (cpu, stop) = write_control(4, base | Cr4::PGE.bits(), |_| {});
    assert_eq!((stop, &cpu.bus.flushes[..]), (Stop::None, &[Flush::All][..]));
    let (cpu, _) = write_control(4, base | Cr4::SMEP.bits(), |_| {});
    assert_eq!(cpu.bus.flushes, [Flush::NonGlobal]);
    let (cpu, _) = write_control(4, base | Cr4::FSGSBASE.bits(), |_| {});
    assert!(cpu.bus.flushes.is_empty());
}

#[test]
fn cr8_is_the_task_priority() {
    // MOV CR8, RAX; MOV RCX, CR8
    let mut cpu = long(0, &[0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc1]);
    cpu.regs[0] = 9;
    assert_eq!(run(&mut cpu, 2), Stop::None);
    assert_eq!(cpu.regs[1], 9);
    let mut cpu = long(0, &[0x44, 0x0f, 0x22, 0xc0]);
    cpu.regs[0] = 16;
    assert_eq!(step(&mut cpu), gp(0));
    let mut cpu = long(3, &[0x44, 0x0f, 0x20, 0xc1]);
    assert_eq!(step(&mut cpu), gp(0));
}

#[test]
fn machine_status_word() {
    // LMSW AX cannot clear PE; CLTS.
    let mut cpu = protected(0, &[0x0f, 0x01, 0xf0, 0x0f, 0x06]);
    cpu.regs[0] = 0x8;
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(cpu.has_cr0(Cr0::PE) && cpu.has_cr0(Cr0::TS));
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(!cpu.has_cr0(Cr0::TS));
    for code in [[0x0f, 0x01, 0xe0], [0x0f, 0x00, 0xc0], [0x0f, 0x00, 0xc8]] {
        let mut cpu = protected(3, &code);
        assert_eq!(step(&mut cpu), Stop::None);
        let mut cpu = protected(3, &code);
        cpu.state.cr4 |= Cr4::UMIP.bits();
        assert_eq!(step(&mut cpu), gp(0), "UMIP {code:x?}");
    }
}

#[test]
fn table_registers_in_memory() {
    // SGDT [DATA]; LIDT [DATA]
    let mut cpu =
        long(0, &[0x0f, 0x01, 0x04, 0x25, 0, 0, 1, 0, 0x0f, 0x01, 0x1c, 0x25, 0, 0, 1, 0]);
    cpu.state.gdtr.base = 0xffff_8000_0000_2000;
    assert_eq!(run(&mut cpu, 2), Stop::None);
    assert_eq!(cpu.state.idtr, cpu.state.gdtr);
    cpu.bus.poke(DATA + 2, 0x8000_0000_0000u64);
    cpu.set_rip(CODE + 8);
    assert_eq!(step(&mut cpu), gp(0), "not canonical");
}

#[test]
fn invalidation() {
    // INVLPG [RAX]; INVPCID RCX, [RAX]
    let mut cpu = long(0, &[0x0f, 0x01, 0x38, 0x66, 0x0f, 0x38, 0x82, 0x08]);
    cpu.regs[0] = DATA;
    cpu.regs[1] = 1;
    cpu.bus.poke(DATA, 5u64);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(step(&mut cpu), gp(0), "a PCID without PCIDE");
    cpu.state.cr4 |= Cr4::PCIDE.bits();
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.bus.flushes, [Flush::Page(DATA), Flush::Pcid(5)]);
    cpu.set_rip(CODE + 3);
    cpu.regs[1] = 4;
    assert_eq!(step(&mut cpu), gp(0));
}

#[test]
fn debug_registers() {
    // MOV DR7, RAX; MOV RCX, DR5
    let mut cpu = long(0, &[0x0f, 0x23, 0xf8, 0x0f, 0x21, 0xe9]);
    cpu.regs[0] = 0xffff_ffff;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.state.dr7, 0xffff_27ff);
    assert!(cpu.bus.context.watch);
    assert_eq!(step(&mut cpu), Stop::Fault(Exception::debug(Dr6::BD.bits())), "GD");
    cpu.state.dr7 &= !Dr7::GD.bits();
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.regs[1], 0xffff_07ff, "DR5 is DR7");
    cpu.state.cr4 |= Cr4::DE.bits();
    cpu.set_rip(CODE + 3);
    assert_eq!(step(&mut cpu), UD, "DE");
    cpu.set_rip(CODE);
    cpu.regs[0] = 1 << 32;
    assert_eq!(step(&mut cpu), gp(0));
}

#[test]
fn breakpoint_conditions() {
    let mut cpu = protected(0, &[0xe4, 0x61]);
    cpu.state.dr = [0x1000, 0x61, 0x1000, 0];
    // 0: execute, enabled; 1: I/O, one byte, enabled; 2: execute, disabled.
    cpu.state.dr7 = Dr7::FIXED | 1 | 4 | 2 << 20;
    assert_eq!(cpu.instruction_breakpoints(0x1000, false), 1);
    assert_eq!(cpu.instruction_breakpoints(0x1001, false), 0);
    cpu.state.rflags |= Flags::RF.bits();
    assert_eq!(cpu.instruction_breakpoints(0x1000, false), 0);
    assert_eq!(cpu.port_breakpoints(0x60, 4), 0, "CR4.DE is clear");
    cpu.state.cr4 |= Cr4::DE.bits();
    assert_eq!((cpu.port_breakpoints(0x60, 4), cpu.port_breakpoints(0x62, 1)), (2, 0));
    assert_eq!(step(&mut cpu), Stop::TrapAfter(Exception::debug(2)));
    assert_eq!(cpu.rip(), CODE + 2);
}

/// WRMSR then RDMSR at CPL 0.
fn msr_round_trip(index: u32, value: u64) -> Result<u64, Stop> {
    let mut cpu = long(0, &[0x0f, 0x30, 0x0f, 0x32]);
    cpu.regs[1] = u64::from(index);
    (cpu.regs[0], cpu.regs[2]) = (value & 0xffff_ffff, value >> 32);
    match run(&mut cpu, 2) {
        Stop::None => Ok(cpu.regs[2] << 32 | cpu.regs[0]),
        stop => Err(stop),
    }
}

#[test]
fn model_specific_registers() {
    let bad = Err(gp(0));
    for (index, value) in [
        (msr::LSTAR, 0xffff_8000_0000_1000),
        (msr::KERNEL_GS_BASE, 0x7fff_ffff_f000),
        (msr::FS_BASE, 0xffff_ffff_8000_0000),
        (msr::PAT, 0x0007_0106_0007_0406),
        (msr::MTRR_DEF_TYPE, 0xc06),
        (msr::MTRR_FIX_4K_F8000, 0x0505_0505_0505_0505),
        (msr::MTRR_PHYS_BASE0 + 1, 0xffff_0000_0800),
        (msr::TSC_AUX, 0x1234),
        (msr::SPEC_CTRL, 1),
        (msr::TSC, 0x1234_5678_9abc),
        (msr::EFER, 0xd01),
    ] {
        assert_eq!(msr_round_trip(index, value), Ok(value), "{index:#x}");
    }
    for (index, value) in [
        (msr::LSTAR, 0x8000_0000_0000),
        (msr::GS_BASE, 0x8000_0000_0000),
        (msr::PAT, 2),
        (msr::MTRR_DEF_TYPE, 7),
        (msr::MTRR_FIX_4K_F8000, 3),
        (msr::MTRR_PHYS_BASE0, 1 << 48),
        (msr::TSC_AUX, 1 << 32),
        (msr::SPEC_CTRL, 8),
        (msr::EFER, 1 << 12),
        (0x1234_5678, 0),
    ] {
        assert_eq!(msr_round_trip(index, value), bad, "{index:#x}");
    }
    let mut cpu = long(3, &[0x0f, 0x32]);
    assert_eq!(step(&mut cpu), gp(0));
    let mut cpu = long(0, &[0x0f, 0x32]);
    cpu.bus.msrs.insert(0x1234, 0x5_0000_0006);
    cpu.regs[1] = 0x1234;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.regs[0], cpu.regs[2]), (6, 5), "the bus's MSRs");
}

#[test]
fn time_stamp_counter() {
    let mut cpu = long(0, &[0x0f, 0x31]);
    cpu.bus.tsc = 1000;
    cpu.write_msr(msr::TSC, 5000).expect("TSC is writable");
    assert_eq!((cpu.state.msrs.tsc_offset, cpu.state.msrs.tsc_adjust), (4000, 4000));
    cpu.write_msr(msr::TSC_ADJUST, 0).expect("TSC_ADJUST is announced");
    assert_eq!(cpu.guest_tsc(), 1000);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.regs[0], 1000);
    let mut cpu = long(3, &[0x0f, 0x31]);
    cpu.state.cr4 |= Cr4::TSD.bits();
    assert_eq!(step(&mut cpu), gp(0));
}

#[test]
fn cpuid_shows_live_bits() {
    let mut cpu = long(0, &[]);
    let leaf = |eax, ebx, ecx| CpuidResult { eax, ebx, ecx, edx: 0 };
    for (subleaf, result) in [(0, leaf(7, 0, 0)), (2, leaf(256, 576, 0))] {
        cpu.bus.cpuid.push(CpuidEntry { leaf: 0xd, subleaf: Some(subleaf), result });
    }
    assert_eq!(cpu.live_cpuid(0xd, 0).ebx, 832);
    cpu.state.xcr0 = 3;
    assert_eq!(cpu.live_cpuid(0xd, 0).ebx, 576);
    assert!(cpu.live_cpuid(1, 0).ecx >> 27 & 1 == 1);
    cpu.state.cr4 &= !Cr4::OSXSAVE.bits();
    assert!(cpu.live_cpuid(1, 0).ecx >> 27 & 1 == 0);
    cpu.state.msrs.apic_base &= !(1 << 11);
    assert!(cpu.live_cpuid(1, 0).edx >> 9 & 1 == 0);
    cpu.state.lapic.registers[x86::lapic::reg::ID] = 5 << 24;
    assert_eq!(cpu.live_cpuid(1, 0).ebx >> 24, 5);
    cpu.state.lapic.registers[x86::lapic::reg::ID] = 5;
    assert_eq!(cpu.live_cpuid(1, 0).ebx >> 24, 5, "x2APIC layout");
}

#[test]
fn extended_control_register() {
    // XSETBV; XGETBV
    let set = |value: u64, prepare: fn(&mut Cpu<FlatBus>)| {
        let mut cpu = long(0, &[0x0f, 0x01, 0xd1, 0x0f, 0x01, 0xd0]);
        let result = CpuidResult { eax: 7, ..CpuidResult::default() };
        cpu.bus.cpuid.push(CpuidEntry { leaf: 0xd, subleaf: Some(0), result });
        cpu.regs[0] = value;
        prepare(&mut cpu);
        let stop = run(&mut cpu, 2);
        (stop, cpu.state.xcr0)
    };
    assert_eq!(set(3, |_| {}), (Stop::None, 3));
    for bad in [0, 2, 5, 0xf] {
        assert_eq!(set(bad, |_| {}), (gp(0), 7), "{bad:#x}");
    }
    assert_eq!(set(3, |cpu| cpu.regs[1] = 1).0, gp(0));
    assert_eq!(set(3, |cpu| cpu.state.cr4 &= !Cr4::OSXSAVE.bits()).0, UD);
}

#[test]
fn interrupt_flag_and_shadow() {
    let mut cpu = protected(0, &[0xfb, 0xfb, 0xfa]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(cpu.state.sti_shadow && !cpu.interrupts_open());
    cpu.state.sti_shadow = false;
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(!cpu.state.sti_shadow && cpu.interrupts_open(), "IF was set already");
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(!cpu.interrupts_open());
    assert_eq!(step(&mut protected(3, &[0xfb])), gp(0));
    let mut cpu = protected(3, &[0xfb, 0xfa]);
    cpu.state.cr4 |= Cr4::PVI.bits();
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(cpu.has_flag(Flags::VIF) && !cpu.has_flag(Flags::IF), "PVI");
}

#[test]
fn flags_on_the_stack() {
    // PUSHFD; POPFD
    let mut cpu = protected(0, &[0x9c, 0x9d]);
    cpu.state.rflags |= (Flags::RF | Flags::IF).bits();
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.bus.peek::<u32>(STACK - 4), 0x202, "RF is pushed as 0");
    cpu.bus.poke(STACK - 4, 0xffff_ffffu32);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.rflags(), 0x24_7fd7);
    let mut cpu = protected(3, &[0x9d]);
    cpu.bus.poke(STACK, 0xffff_ffffu32);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.rflags(), 0x24_4dd7, "neither IF nor IOPL");
    assert!(!cpu.bus.context.align_check && cpu.bus.context.ac);
}

#[test]
fn access_check_flag() {
    let mut cpu = long(0, &[0x0f, 0x01, 0xcb, 0x0f, 0x01, 0xca]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(cpu.bus.context.ac);
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(!cpu.bus.context.ac);
    assert_eq!(step(&mut long(3, &[0x0f, 0x01, 0xcb])), UD);
}

#[test]
fn segment_bases() {
    // WRGSBASE RAX; SWAPGS; RDGSBASE RCX
    let code = [0xf3, 0x48, 0x0f, 0xae, 0xd8, 0x0f, 0x01, 0xf8, 0xf3, 0x48, 0x0f, 0xae, 0xc9];
    let mut cpu = long(0, &code);
    assert_eq!(step(&mut cpu), UD, "CR4.FSGSBASE");
    cpu.state.cr4 |= Cr4::FSGSBASE.bits();
    cpu.state.msrs.kernel_gs_base = 0x2222;
    cpu.regs[0] = 0x1111;
    assert_eq!(run(&mut cpu, 3), Stop::None);
    assert_eq!((cpu.regs[1], cpu.state.msrs.kernel_gs_base), (0x2222, 0x1111));
    cpu.regs[0] = 1 << 47;
    cpu.set_rip(CODE);
    assert_eq!(step(&mut cpu), gp(0));
    assert_eq!(step(&mut long(3, &[0x0f, 0x01, 0xf8])), gp(0), "SWAPGS at CPL 3");
}

#[test]
fn ports() {
    // IN AL, 0x60; OUT DX, EAX
    let mut cpu = real(&[0xe4, 0x60, 0x66, 0xef]);
    cpu.bus.ports.insert(0x60, 0xab);
    cpu.regs[0] = 0x1234_5600;
    cpu.regs[2] = 0xcf8;
    assert_eq!(run(&mut cpu, 2), Stop::None);
    assert_eq!(cpu.bus.outs, [(0xcf8, 4, 0x1234_56ab)]);
    // At CPL 3: IOPL, bitmap, the bitmap's end.
    let mut cpu = protected(3, &[0xed]);
    cpu.regs[2] = 0xcfe;
    assert_eq!(step(&mut cpu), Stop::None);
    cpu.bus.poke(TSS + 0x88 + 0xd01 / 8, 1u8 << (0xd01 % 8));
    cpu.set_rip(CODE);
    assert_eq!(step(&mut cpu), gp(0), "the last byte's bit");
    cpu.state.rflags |= Flags::IOPL.bits();
    assert_eq!(step(&mut cpu), Stop::None);
    cpu.state.rflags &= !Flags::IOPL.bits();
    cpu.state.tr.limit = 0x87;
    cpu.regs[2] = 0;
    cpu.set_rip(CODE);
    assert_eq!(step(&mut cpu), gp(0), "no bitmap");
}

#[test]
fn repeated_port_strings_are_restartable() {
    // REP INSW
    let mut cpu = protected(0, &[0xf3, 0x66, 0x6d]);
    (cpu.regs[1], cpu.regs[2], cpu.regs[7]) = (3, 0x1f0, DATA);
    cpu.bus.ports.insert(0x1f0, 0xbeef);
    cpu.bus.attention_after = Some(1);
    assert_eq!(step(&mut cpu), Stop::Repeat);
    assert_eq!((cpu.regs[1], cpu.regs[7], cpu.rip()), (1, DATA + 4, CODE));
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.regs[1], cpu.regs[7], cpu.rip()), (0, DATA + 6, CODE + 3));
    assert_eq!(cpu.bus.peek::<u32>(DATA + 2), 0xbeef_beef);
    // A destination that faults reads no port.
    cpu.bus.ins.clear();
    (cpu.regs[1], cpu.regs[7]) = (1, 0x5000);
    cpu.bus.read_only.insert(5);
    cpu.set_rip(CODE);
    assert!(matches!(step(&mut cpu), Stop::Fault(_)));
    assert!(cpu.bus.ins.is_empty());
    // REP OUTSB, descending.
    let mut cpu = protected(0, &[0xf3, 0x6e]);
    cpu.bus.poke(DATA, 0x0201u16);
    cpu.state.rflags |= Flags::DF.bits();
    (cpu.regs[1], cpu.regs[2], cpu.regs[6]) = (2, 0x80, DATA + 1);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.bus.outs, [(0x80, 1, 2), (0x80, 1, 1)]);
}

#[test]
fn halt_hypercall_and_features_not_announced() {
    assert_eq!(step(&mut long(0, &[0xf4])), Stop::Halt);
    assert_eq!(step(&mut long(3, &[0xf4])), gp(0));
    let mut cpu = long(0, &[0x0f, 0x01, 0xc1]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.regs[0] as i64, -1000);
    for code in
        [&[0x0f, 0x01, 0xf9][..], &[0x0f, 0x01, 0xcb], &[0x0f, 0x01, 0xe8], &[0x0f, 0x01, 0xc9]]
    {
        let mut cpu = long(0, code);
        cpu.bus.cpuid.clear();
        assert_eq!(step(&mut cpu), UD, "{code:x?}");
    }
}
