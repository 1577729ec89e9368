//! What AMD's and Intel's processors do differently: the guest gets its CPUID vendor's way.

use x86::segment::attr;
use x86::xsave::MXCSR_RESET;
use x86::{Cr4, Exception, Vector, XsaveArea};

use crate::cpu::{Cpu, Stop};
use crate::lower::CodeSize;
use crate::testing::{CODE, DATA, FlatBus, STACK, machine, step};
use crate::vector::Exchange;

const UD: Stop = Stop::Fault(Exception::UD);
const GP: Stop = Stop::Fault(Exception::GP0);
const VENDORS: [[u8; 4]; 2] = [*b"Auth", *b"Genu"];

fn of(vendor: [u8; 4], size: CodeSize, code: &[u8]) -> Cpu<FlatBus> {
    let mut cpu = machine(size, code);
    cpu.bus.cpuid[0].result.ebx = u32::from_le_bytes(vendor);
    cpu
}

fn amd(code: &[u8]) -> Cpu<FlatBus> {
    of(*b"Auth", CodeSize::Bits64, code)
}

fn intel(code: &[u8]) -> Cpu<FlatBus> {
    of(*b"Genu", CodeSize::Bits64, code)
}

fn is_page_fault(stop: Stop, address: u64) -> bool {
    matches!(stop, Stop::Fault(e) if e.vector == Vector::PageFault && e.address == address)
}

#[test]
fn an_operand_size_prefix_cuts_returns_on_amd_only() {
    for (bytes, dropped) in [(&[0x66, 0xc3][..], 0), (&[0x66, 0xc2, 0x10, 0][..], 0x10)] {
        let (mut theirs, mut others) = (amd(bytes), intel(bytes));
        for cpu in [&mut theirs, &mut others] {
            cpu.bus.poke(STACK, 0x7_2345u64);
            assert_eq!(step(cpu), Stop::None);
        }
        assert_eq!((theirs.rip(), theirs.regs[4]), (0x2345, STACK + 2 + dropped));
        assert_eq!((others.rip(), others.regs[4]), (0x7_2345, STACK + 8 + dropped));
    }
}

#[test]
fn an_operand_size_prefix_cuts_calls_and_jumps_on_amd_only() {
    // call +0x100: a 16-bit displacement on AMD, the first half of a 32-bit one on Intel.
    let call = [0x66, 0xe8, 0, 1, 2, 0];
    let mut cpu = amd(&call);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.regs[4]), (CODE + 4 + 0x100, STACK - 2));
    assert_eq!(cpu.bus.peek::<u16>(STACK - 2), CODE as u16 + 4);
    let mut cpu = intel(&call);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.regs[4]), (CODE + 6 + 0x2_0100, STACK - 8));
    // jmp rax
    for (mut cpu, target) in
        [(amd(&[0x66, 0xff, 0xe0]), 0x2345), (intel(&[0x66, 0xff, 0xe0]), 0x7_2345)]
    {
        cpu.regs[0] = 0x7_2345;
        assert_eq!(step(&mut cpu), Stop::None);
        assert_eq!(cpu.rip(), target);
    }
    // REX.W wins over the prefix, as in calls of __tls_get_addr.
    let mut cpu = amd(&[0x66, 0x66, 0x48, 0xe8, 0, 1, 2, 0]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.regs[4]), (CODE + 8 + 0x2_0100, STACK - 8));
}

#[test]
fn a_sixteen_bit_branch_in_long_mode_knows_no_limit() {
    let mut cpu = amd(&[0x66, 0xeb, 0x10]);
    cpu.state.segments[1].limit = 0;
    cpu.refresh();
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.rip(), CODE + 3 + 0x10);
}

#[test]
fn lock_mov_cr0_is_cr8_on_neither() {
    for vendor in VENDORS {
        assert_eq!(step(&mut of(vendor, CodeSize::Bits64, &[0xf0, 0x0f, 0x20, 0xc0])), UD);
        // mov rax, cr8
        assert_eq!(step(&mut of(vendor, CodeSize::Bits64, &[0x44, 0x0f, 0x20, 0xc0])), Stop::None);
    }
}

#[test]
fn prefetch_of_a_register_is_undefined_on_amd() {
    let code = [0x48, 0x0f, 0x0d, 0xc8];
    assert_eq!(step(&mut amd(&code)), UD);
    assert_eq!(step(&mut intel(&code)), Stop::None);
    // Of memory it is a hint on both, wherever that is.
    for vendor in VENDORS {
        assert_eq!(step(&mut of(vendor, CodeSize::Bits64, &[0x0f, 0x0d, 0x0f])), Stop::None);
    }
}

#[test]
fn sha_takes_any_address_on_amd() {
    for (vendor, expected) in VENDORS.into_iter().zip([Stop::None, GP]) {
        let mut cpu = of(vendor, CodeSize::Bits64, &[0x0f, 0x38, 0xcc, 0x07]); // sha256msg1 xmm0, [rdi]
        cpu.bus.unit = Some(|_, _| ());
        cpu.regs[7] = DATA + 1;
        assert_eq!(step(&mut cpu), expected);
    }
}

#[test]
fn an_access_across_four_gibibytes_is_beyond_the_limit_on_amd() {
    for (vendor, expected) in VENDORS.into_iter().zip([true, false]) {
        let mut cpu = of(vendor, CodeSize::Bits32, &[0x8b, 0x07]); // mov eax, [edi]
        cpu.regs[7] = 0xffff_fffe;
        assert_eq!(step(&mut cpu) == GP, expected);
        // The last bytes below are not.
        let mut cpu = of(vendor, CodeSize::Bits32, &[0x8b, 0x07]);
        cpu.regs[7] = 0xffff_fffc;
        assert!(is_page_fault(step(&mut cpu), 0xffff_fffc));
    }
}

#[test]
fn x87_results_withheld_still_need_a_place_on_amd() {
    let withhold = |area: &mut XsaveArea, _: &mut Exchange| area.set_fsw(0x8081);
    for (vendor, faults) in VENDORS.into_iter().zip([true, false]) {
        let mut cpu = of(vendor, CodeSize::Bits64, &[0xdb, 0x1f]); // fistp dword [rdi]
        cpu.state.xsave.set_fcw(0x37e);
        cpu.bus.unit = Some(withhold);
        cpu.bus.absent.insert(DATA >> 12);
        cpu.regs[7] = DATA;
        let stop = step(&mut cpu);
        assert_eq!(is_page_fault(stop, DATA), faults);
        assert_eq!(cpu.state.xsave.fsw(), if faults { 0 } else { 0x8081 });
    }
}

#[test]
fn half_precision_is_converted_before_its_place_is_looked_at_on_intel() {
    let overflow = |_: &mut XsaveArea, exchange: &mut Exchange| {
        (exchange.raised, exchange.unmasked) = (8, 8);
    };
    for (vendor, faults) in VENDORS.into_iter().zip([true, false]) {
        // vcvtps2ph [rdi], xmm0, 0
        let mut cpu = of(vendor, CodeSize::Bits64, &[0xc4, 0xe3, 0x79, 0x1d, 0x07, 0]);
        cpu.bus.unit = Some(overflow);
        cpu.bus.absent.insert(DATA >> 12);
        cpu.regs[7] = DATA;
        let stop = step(&mut cpu);
        assert_eq!(is_page_fault(stop, DATA), faults);
        assert_eq!(stop == Stop::Fault(Exception::new(Vector::SimdFault)), !faults);
        assert_eq!(cpu.state.xsave.mxcsr(), if faults { MXCSR_RESET } else { MXCSR_RESET | 8 });
    }
}

#[test]
fn a_faulting_gather_keeps_the_mask_bits_to_come_on_amd() {
    const MASK: u128 = 0x8000_0001_8000_0002_0000_0003_8000_0004;
    for vendor in VENDORS {
        // vpgatherdd xmm0, [rdi+xmm1*4], xmm2: elements 0 and 2 exist, 3 does not.
        let mut cpu = of(vendor, CodeSize::Bits64, &[0xc4, 0xe2, 0x69, 0x90, 0x04, 0x8f]);
        cpu.regs[7] = DATA;
        cpu.bus.poke(DATA, 0x11u32);
        cpu.bus.poke(DATA + 4, 0x22u32);
        cpu.bus.absent.insert((DATA >> 12) + 1);
        cpu.state.xsave.set_xmm(1, 1024 << 96 | 1 << 64);
        cpu.state.xsave.set_xmm(2, MASK);
        for register in [0, 2] {
            cpu.state.xsave.set_ymm_hi(register, 5);
        }
        assert!(is_page_fault(step(&mut cpu), DATA + 4096));
        let area = &cpu.state.xsave;
        assert_eq!(area.xmm(0), 0x22 << 64 | 0x11);
        let high = [area.ymm_hi(0), area.ymm_hi(2)];
        if vendor == *b"Auth" {
            assert_eq!((area.xmm(2), high), (0x8000_0001 << 96, [5, 5]));
        } else {
            assert_eq!((area.xmm(2), high), (0xffff_ffff << 96, [0, 0]));
        }
    }
}

#[test]
fn saving_touches_the_start_of_the_area_on_amd() {
    for (vendor, faults) in VENDORS.into_iter().zip([true, false]) {
        let mut cpu = of(vendor, CodeSize::Bits64, &[0x0f, 0xae, 0x37]); // xsaveopt [rdi]
        cpu.state.cr4 |= Cr4::OSXSAVE.bits();
        cpu.regs[7] = DATA - 64;
        cpu.bus.absent.insert((DATA >> 12) - 1);
        assert_eq!(is_page_fault(step(&mut cpu), DATA - 64 + 24), faults);
    }
}

#[test]
fn far_jumps_have_no_64_bit_offset_on_amd() {
    // jmp far [rdi] with REX.W
    for (vendor, target) in VENDORS.into_iter().zip([0x2000, 0x2_0000]) {
        let mut cpu = of(vendor, CodeSize::Bits64, &[0x48, 0xff, 0x2f]);
        cpu.regs[7] = DATA;
        cpu.bus.poke(DATA, if target == 0x2000 { 8 << 32 | 0x2000u64 } else { 0x2_0000 });
        cpu.bus.poke(DATA + 8, 8u16);
        cpu.state.gdtr.base = DATA + 0x100;
        cpu.state.gdtr.limit = 0xff;
        let code = attr::PRESENT | attr::S | attr::CODE | attr::WRITE_READ | attr::ACCESSED;
        cpu.bus.poke(DATA + 0x108, u64::from(code | attr::LONG) << 40);
        assert_eq!(step(&mut cpu), Stop::None);
        assert_eq!(cpu.rip(), target);
    }
}

#[test]
fn only_intel_passes_over_a_breakpoint_behind_mov_ss() {
    for (vendor, hits) in VENDORS.into_iter().zip([1, 0]) {
        let mut cpu = of(vendor, CodeSize::Bits64, &[0x90]);
        cpu.state.dr[0] = CODE;
        cpu.state.dr7 |= 1;
        assert_eq!(cpu.instruction_breakpoints(CODE, false), 1);
        assert_eq!(cpu.instruction_breakpoints(CODE, true), hits);
    }
}

#[test]
fn a_call_with_a_bad_target_and_a_bad_stack_fails_by_the_stack_on_amd() {
    for (vendor, fails_by_stack) in VENDORS.into_iter().zip([true, false]) {
        let mut cpu = of(vendor, CodeSize::Bits64, &[0xff, 0xd0]); // call rax
        cpu.regs[0] = 1 << 47;
        cpu.bus.poke(STACK - 8, 0x1234u64);
        assert_eq!(step(&mut cpu), GP);
        assert_eq!(cpu.bus.peek::<u64>(STACK - 8), 0x1234, "nothing is pushed");
        let mut cpu = of(vendor, CodeSize::Bits64, &[0xff, 0xd0]);
        cpu.regs[0] = 1 << 47;
        cpu.regs[4] = DATA;
        cpu.bus.absent.insert((DATA >> 12) - 1);
        let stop = step(&mut cpu);
        assert_eq!((is_page_fault(stop, DATA - 8), stop == GP), (fails_by_stack, !fails_by_stack));
    }
}
