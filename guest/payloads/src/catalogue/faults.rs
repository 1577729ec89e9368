//! Exceptions: vectors, error codes, saved addresses, priorities (SDM vol. 3, 6.7-6.15).

use iced_x86::code_asm::*;

use crate::feature;
use crate::kit::{Assembled, Guest, page, pf, vector};
use crate::layout::{self, selector};
use crate::payload::{End, Payload};

const ABSENT: u64 = 0x5_0000;
const NON_CANONICAL: u64 = 0x8000_0000_0000;

pub(super) fn arithmetic() -> Payload {
    Guest::long("#DE of every width, #BP, #OF by INT 4, #UD", |g| {
        g.xor(ebx, ebx)?;
        g.mov(eax, 7)?;
        g.xor(edx, edx)?;
        g.fault(vector::DE, 0, |g| g.div(bl))?;
        g.fault(vector::DE, 0, |g| g.div(bx))?;
        g.fault(vector::DE, 0, |g| g.div(ebx))?;
        g.fault(vector::DE, 0, |g| g.idiv(rbx))?;
        // Quotients that do not fit.
        g.mov(eax, 0x8000_0000u32)?;
        g.cdq()?;
        g.mov(ebx, -1)?;
        g.fault(vector::DE, 0, |g| g.idiv(ebx))?;
        g.mov(ax, 0x200)?;
        g.mov(bl, 2)?;
        g.fault(vector::DE, 0, |g| g.div(bl))?;
        g.report(0x8000_0200)?;
        g.trap(vector::BP, 1, |g| g.int3())?;
        g.trap(vector::BP, 2, |g| g.db(&[0xcd, 3]))?;
        g.trap(vector::OF, 2, |g| g.int(4))?;
        g.fault(vector::UD, 0, |g| g.ud2())?;
        // INTO, PUSH CS and AAA are not in 64-bit mode.
        for opcode in [0xce, 0x0e, 0x37, 0x60, 0xd6] {
            g.fault(vector::UD, 0, |g| g.db(&[opcode]))?;
        }
        // LOCK where it may not be: register form, MOV.
        g.fault(vector::UD, 0, |g| g.db(&[0xf0, 0x01, 0xd8]))?;
        g.fault(vector::UD, 0, |g| g.db(&[0xf0, 0x89, 0x03]))
    })
}

pub(super) fn arithmetic_32() -> Payload {
    Guest::protected("#OF by INTO, #BR by BOUND, #DE by AAM in 32-bit mode", |g| {
        // The overflow is made inside, for arming the handler changes the flags.
        g.trap(vector::OF, 8, |g| {
            g.mov(eax, 0x7fff_ffff)?;
            g.inc(eax)?;
            g.nop()?;
            g.db(&[0xce])
        })?;
        g.xor(eax, eax)?;
        g.db(&[0xce])?;
        g.place(layout::DATA, &[1, 0, 0, 0, 9, 0, 0, 0]);
        g.mov(eax, 5)?;
        g.bound(eax, qword_ptr(layout::DATA))?;
        g.mov(eax, 10)?;
        g.fault(vector::BR, 0, |g| g.bound(eax, qword_ptr(layout::DATA)))?;
        g.mov(eax, 0)?;
        g.fault(vector::BR, 0, |g| g.bound(eax, qword_ptr(layout::DATA)))?;
        g.fault(vector::DE, 0, |g| g.db(&[0xd4, 0]))
    })
}

pub(super) fn segment_loads() -> Payload {
    Guest::long("#GP, #NP and #SS of segment loads, with the selector", |g| {
        let load = |g: &mut Guest, register: AsmRegisterSegment, vector: u8, selector: u16| {
            g.mov(ecx, i32::from(selector))?;
            g.fault(vector, u32::from(selector & !3), |g| g.mov(register, ecx))
        };
        load(g, ds, vector::NP, selector::ABSENT)?;
        load(g, ss, vector::SS, selector::ABSENT)?;
        load(g, ds, vector::GP, selector::BEYOND)?;
        load(g, es, vector::GP, selector::EXECUTE_ONLY)?;
        load(g, ds, vector::GP, selector::TSS)?;
        load(g, ss, vector::GP, selector::READ_ONLY)?;
        load(g, ss, vector::GP, selector::CODE64)?;
        load(g, ss, vector::GP, selector::USER_DATA)?;
        // Privilege before presence, and no RPL in the error code; an LDT selector without an LDT
        // is #GP with TI.
        load(g, fs, vector::GP, selector::ABSENT | 3)?;
        load(g, gs, vector::GP, 0xc)?;
        // Loading sets the accessed bit; a null selector is fine for data, and for SS at CPL 0 < 3.
        g.mov(ecx, i32::from(selector::READ_ONLY))?;
        g.mov(es, ecx)?;
        g.mov(eax, es)?;
        g.report(selector::READ_ONLY.into())?;
        g.xor(ecx, ecx)?;
        g.mov(es, ecx)?;
        g.mov(eax, es)?;
        g.report(0)?;
        g.mov(ss, ecx)?;
        g.mov(ecx, i32::from(selector::DATA))?;
        g.mov(ss, ecx)?;
        g.mov(es, ecx)?;
        // CS can't be loaded by MOV.
        g.fault(vector::UD, 0, |g| g.db(&[0x8e, 0xc9]))?;
        // LLDT and LTR: of a wrong type, absent, busy.
        g.mov(ecx, i32::from(selector::DATA))?;
        g.fault(vector::GP, selector::DATA.into(), |g| g.lldt(cx))?;
        g.mov(ecx, i32::from(selector::TSS))?;
        g.fault(vector::GP, selector::TSS.into(), |g| g.ltr(cx))?;
        // LAR, LSL, VERR, VERW never fault.
        g.mov(ecx, i32::from(selector::DATA))?;
        g.lar(eax, ecx)?;
        // Bits 19:16 of what LAR loads are undefined.
        g.and(eax, 0x00f0_fe00)?;
        g.report(0x00c0_9200)?;
        g.lsl(eax, ecx)?;
        g.report(0xffff_ffff)?;
        g.mov(ecx, i32::from(selector::BEYOND))?;
        g.lar(eax, ecx)?;
        g.report_if(|a| a.setne(al))?;
        g.mov(ecx, i32::from(selector::READ_ONLY))?;
        g.verw(cx)?;
        g.report_if(|a| a.setne(al))?;
        g.verr(cx)?;
        g.report_if(|a| a.sete(al))
    })
}

pub(super) fn segment_limits() -> Payload {
    Guest::protected("limits, expand-down, read-only and execute-only segments", |g| {
        let load = |g: &mut Guest, selector: u16| {
            g.mov(eax, i32::from(selector))?;
            g.mov(es, eax)
        };
        load(g, selector::SMALL)?;
        g.mov(eax, dword_ptr(0xffcu32).es())?;
        g.fault(vector::GP, 0, |g| g.mov(eax, dword_ptr(0xffdu32).es()))?;
        g.fault(vector::GP, 0, |g| g.mov(byte_ptr(0x1000u32).es(), al))?;
        load(g, selector::EXPAND_DOWN)?;
        g.mov(al, byte_ptr(0x1000u32).es())?;
        g.mov(al, byte_ptr(0xffffu32).es())?;
        g.fault(vector::GP, 0, |g| g.mov(al, byte_ptr(0xfffu32).es()))?;
        g.fault(vector::GP, 0, |g| g.mov(ax, word_ptr(0xffffu32).es()))?;
        load(g, selector::READ_ONLY)?;
        g.mov(al, byte_ptr(0x1000u32).es())?;
        g.fault(vector::GP, 0, |g| g.mov(byte_ptr(0x1000u32).es(), al))?;
        g.fault(vector::GP, 0, |g| g.or(byte_ptr(0x1000u32).es(), 0))?;
        load(g, 0)?;
        g.fault(vector::GP, 0, |g| g.mov(al, byte_ptr(0x1000u32).es()))?;
        load(g, selector::DATA)?;
        // Writing through CS, and the stack beyond its limit.
        g.fault(vector::GP, 0, |g| g.mov(byte_ptr(0x1000u32).cs(), al))?;
        g.mov(ebx, esp)?;
        g.mov(ecx, ss)?;
        g.mov(eax, i32::from(selector::SMALL))?;
        g.mov(dword_ptr(layout::DATA), 0x1001)?;
        g.mov(ss, eax)?;
        g.mov(esp, 0x800)?;
        g.fault(vector::SS, 0, |g| g.mov(eax, dword_ptr(ebp + 0x1000)))?;
        g.mov(ss, ecx)?;
        g.mov(esp, ebx)?;
        g.mov(eax, ebx)?;
        g.report(layout::STACK as u32)
    })
}

pub(super) fn privileged() -> Payload {
    Guest::long("what CPL 3 may not execute: #GP(0) for each", |g| {
        g.place(layout::DATA, &[0; 16]);
        g.map_with(layout::DATA, page::U);
        g.user(0, |g| {
            g.fault(vector::GP, 0, |g| g.cli())?;
            g.fault(vector::GP, 0, |g| g.sti())?;
            g.fault(vector::GP, 0, |g| g.hlt())?;
            g.fault(vector::GP, 0, |g| g.in_(al, 0x80))?;
            g.fault(vector::GP, 0, |g| g.out(0x80, al))?;
            g.mov(edx, 0x80)?;
            g.fault(vector::GP, 0, |g| g.out(dx, eax))?;
            g.fault(vector::GP, 0, |g| g.mov(rax, cr0))?;
            g.fault(vector::GP, 0, |g| g.mov(cr3, rax))?;
            g.fault(vector::GP, 0, |g| g.mov(rax, dr7))?;
            g.fault(vector::GP, 0, |g| g.clts())?;
            g.fault(vector::GP, 0, |g| g.invlpg(byte_ptr(rsp)))?;
            g.fault(vector::GP, 0, |g| g.wbinvd())?;
            g.fault(vector::GP, 0, |g| g.lidt(fword_ptr(layout::DATA)))?;
            g.fault(vector::GP, 0, |g| g.lgdt(fword_ptr(layout::DATA)))?;
            g.fault(vector::GP, 0, |g| g.lldt(ax))?;
            g.fault(vector::GP, 0, |g| g.ltr(ax))?;
            g.fault(vector::GP, 0, |g| g.lmsw(ax))?;
            g.mov(ecx, 0x10)?;
            g.fault(vector::GP, 0, |g| g.rdmsr())?;
            g.fault(vector::GP, 0, |g| g.wrmsr())?;
            g.fault(vector::GP, 0, |g| g.swapgs())?;
            // POPF leaves IF and IOPL alone without a fault.
            g.push(0x3202)?;
            g.popfq()?;
            g.pushfq()?;
            g.pop(rbx)?;
            g.and(ebx, 0x3200)
        })?;
        g.mov(eax, ebx)?;
        g.report(0)
    })
}

pub(super) fn user_instruction_prevention() -> Payload {
    Guest::long("UMIP: SGDT, SIDT, SLDT, STR and SMSW at CPL 3", |g| {
        g.needs(feature::UMIP);
        g.map_with(layout::DATA, page::U);
        g.user(0, |g| {
            g.sidt(fword_ptr(layout::DATA))?;
            g.smsw(eax)?;
            g.str(eax)
        })?;
        g.mov(eax, dword_ptr(layout::DATA + 2))?;
        g.report(layout::IDT as u32)?;
        g.mov(rax, cr4)?;
        g.bts(rax, 11)?;
        g.mov(cr4, rax)?;
        g.user(0, |g| {
            g.fault(vector::GP, 0, |g| g.sgdt(fword_ptr(layout::DATA)))?;
            g.fault(vector::GP, 0, |g| g.sidt(fword_ptr(layout::DATA)))?;
            g.fault(vector::GP, 0, |g| g.sldt(eax))?;
            g.fault(vector::GP, 0, |g| g.str(eax))?;
            g.fault(vector::GP, 0, |g| g.smsw(eax))
        })
    })
}

pub(super) fn floating_point() -> Payload {
    Guest::long("#NM, #MF, #XM and the CR0 and CR4 bits around them", |g| {
        g.mov(rbx, cr0)?;
        g.mov(rax, rbx)?;
        g.bts(rax, 3)?;
        g.mov(cr0, rax)?;
        g.fault(vector::NM, 0, |g| g.fld1())?;
        g.fault(vector::NM, 0, |g| g.addps(xmm0, xmm1))?;
        g.fault(vector::NM, 0, |g| g.wait())?;
        g.clts()?;
        g.mov(rax, cr0)?;
        g.cmp(rax, rbx)?;
        g.report_if(|a| a.sete(al))?;
        // EM: x87 traps, SSE is not there.
        g.mov(rax, rbx)?;
        g.bts(rax, 2)?;
        g.mov(cr0, rax)?;
        g.fault(vector::NM, 0, |g| g.fld1())?;
        g.fault(vector::UD, 0, |g| g.addps(xmm0, xmm1))?;
        g.mov(cr0, rbx)?;
        // An unmasked x87 exception is raised by the next waiting instruction.
        g.fninit()?;
        g.mov(dword_ptr(layout::DATA), 0x37b)?;
        g.fldcw(word_ptr(layout::DATA))?;
        g.fld1()?;
        g.fldz()?;
        g.fdivp(st1, st0)?;
        g.fault(vector::MF, 0, |g| g.wait())?;
        g.fault(vector::MF, 0, |g| g.fld1())?;
        g.fnstsw(ax)?;
        g.and(eax, 0x84)?;
        g.report(0x84)?;
        g.fnclex()?;
        g.wait()?;
        g.fninit()?;
        // SIMD: unmask divide by zero.
        g.mov(dword_ptr(layout::DATA), 0x1d80)?;
        g.ldmxcsr(dword_ptr(layout::DATA))?;
        g.mov(eax, 0x3f80_0000)?;
        g.movd(xmm1, eax)?;
        g.xorps(xmm0, xmm0)?;
        g.movaps(xmm2, xmm1)?;
        g.fault(vector::XM, 0, |g| g.divss(xmm1, xmm0))?;
        g.movd(eax, xmm1)?;
        g.report(0x3f80_0000)?;
        g.stmxcsr(dword_ptr(layout::DATA))?;
        g.mov(eax, dword_ptr(layout::DATA))?;
        g.report(0x1d84)?;
        // Without OSXMMEXCPT it is #UD.
        g.mov(rbx, cr4)?;
        g.mov(rax, rbx)?;
        g.btr(rax, 10)?;
        g.mov(cr4, rax)?;
        g.fault(vector::UD, 0, |g| g.divss(xmm1, xmm0))?;
        // Without OSFXSR there is no SSE.
        g.mov(rax, rbx)?;
        g.btr(rax, 9)?;
        g.mov(cr4, rax)?;
        g.fault(vector::UD, 0, |g| g.addps(xmm0, xmm1))?;
        g.mov(cr4, rbx)?;
        g.mov(dword_ptr(layout::DATA), 0x1f80)?;
        g.ldmxcsr(dword_ptr(layout::DATA))?;
        g.mov(dword_ptr(layout::DATA), 0x1_0000)?;
        g.fault(vector::GP, 0, |g| g.ldmxcsr(dword_ptr(layout::DATA)))
    })
}

pub(super) fn alignment() -> Payload {
    Guest::long("#AC at CPL 3 with CR0.AM and AC; #GP of aligned vector accesses", |g| {
        g.map_with(layout::DATA, page::U);
        g.mov(rax, cr0)?;
        g.bts(rax, 18)?;
        g.mov(cr0, rax)?;
        g.mov(ebx, layout::DATA as u32)?;
        g.fault(vector::GP, 0, |g| g.movaps(xmm0, xmmword_ptr(rbx + 8)))?;
        g.fault(vector::GP, 0, |g| g.movaps(xmmword_ptr(rbx + 1), xmm0))?;
        g.fault(vector::GP, 0, |g| g.addps(xmm0, xmmword_ptr(rbx + 4)))?;
        g.fault(vector::GP, 0, |g| g.cmpxchg16b(xmmword_ptr(rbx + 8)))?;
        g.movups(xmm0, xmmword_ptr(rbx + 1))?;
        // AC has no meaning at CPL 0.
        g.mov(eax, dword_ptr(rbx + 1))?;
        g.user(1 << 18, |g| {
            g.mov(al, byte_ptr(rbx + 1))?;
            g.mov(ax, word_ptr(rbx + 2))?;
            g.fault(vector::AC, 0, |g| g.mov(ax, word_ptr(rbx + 1)))?;
            g.fault(vector::AC, 0, |g| g.mov(eax, dword_ptr(rbx + 2)))?;
            g.fault(vector::AC, 0, |g| g.mov(qword_ptr(rbx + 4), rax))?;
            g.fault(vector::AC, 0, |g| g.lock().inc(dword_ptr(rbx + 3)))?;
            g.mov(rsi, rsp)?;
            g.sub(rsp, 4)?;
            g.fault(vector::AC, 0, |g| g.push(rax))?;
            g.mov(rsp, rsi)
        })?;
        g.user(0, |g| g.mov(eax, dword_ptr(rbx + 1)))
    })
}

pub(super) fn software_interrupts() -> Payload {
    Guest::long("INT n: gate privilege, absent gates, the limit of the IDT, EXT = 0", |g| {
        let absent = layout::IDT + 0x70 * 16 + 5;
        let bad_type = layout::IDT + 0x71 * 16 + 5;
        let bad_code = layout::IDT + 0x72 * 16 + 2;
        g.mov(byte_ptr(absent), 0x0e)?;
        g.mov(byte_ptr(bad_type), 0x8c)?;
        g.mov(word_ptr(bad_code), i32::from(selector::DATA))?;
        g.fault(vector::NP, 0x70 * 8 + 2, |g| g.int(0x70))?;
        g.fault(vector::GP, 0x71 * 8 + 2, |g| g.int(0x71))?;
        g.fault(vector::GP, selector::DATA.into(), |g| g.int(0x72))?;
        g.user(0, |g| {
            g.fault(vector::GP, 0x50 * 8 + 2, |g| g.int(0x50))?;
            g.fault(vector::GP, 0xd * 8 + 2, |g| g.int(13))?;
            // DPL is checked before P.
            g.fault(vector::GP, 0x70 * 8 + 2, |g| g.int(0x70))?;
            // The breakpoint's gate is open.
            g.trap(vector::BP, 1, |g| g.int3())
        })?;
        // A shorter IDT.
        let pointer = layout::DATA;
        g.mov(word_ptr(pointer), 0x20 * 16 - 1)?;
        g.mov(qword_ptr(pointer + 2), layout::IDT as i32)?;
        g.lidt(fword_ptr(pointer))?;
        g.fault(vector::GP, 0x20 * 8 + 2, |g| g.int(0x20))?;
        g.mov(word_ptr(pointer), 0xfff)?;
        g.lidt(fword_ptr(pointer))
    })
}

pub(super) fn priorities() -> Payload {
    Guest::long("of several faults of one instruction the architecture's comes", |g| {
        g.unmap(ABSENT);
        g.mov(rbx, NON_CANONICAL)?;
        // #UD before operands; privilege before #UD of the operand's contents.
        g.fault(vector::UD, 0, |g| g.db(&[0xf0, 0x8b, 0x03]))?;
        // The read of a RMW on an absent page asks to write.
        g.page_fault(pf::W, ABSENT, |g| g.add(dword_ptr(ABSENT), 1))?;
        // Division: the operand's page before its value.
        g.page_fault(0, ABSENT, |g| g.div(dword_ptr(ABSENT)))?;
        // Source before destination of MOVS; PUSH m reads before it writes.
        g.mov(esi, ABSENT as u32)?;
        g.mov(rdi, rbx)?;
        g.page_fault(0, ABSENT, |g| g.movsb())?;
        g.page_fault(0, ABSENT, |g| g.push(qword_ptr(ABSENT)))?;
        // More than 15 bytes: #GP(0), before the page of the operand.
        let long = [0x66; 15];
        g.fault(vector::GP, 0, |g| {
            g.db(&long)?;
            g.db(&[0x90])
        })?;
        g.db(&[0x66; 14])?;
        g.db(&[0x90])?;
        // Non-canonical target: the jump itself faults, at its own address.
        g.fault(vector::GP, 0, |g| g.jmp(rbx))?;
        g.mov(rsi, rsp)?;
        g.fault(vector::GP, 0, |g| g.call(rbx))?;
        g.cmp(rsi, rsp)?;
        g.report_if(|a| a.sete(al))?;
        g.push(rbx)?;
        g.fault(vector::GP, 0, |g| g.ret())?;
        g.mov(rsp, rsi)?;
        // Non-canonical and misaligned for MOVAPS: one #GP(0) either way; SS-relative is #SS.
        g.mov(rbp, rbx)?;
        g.fault(vector::SS, 0, |g| g.mov(eax, dword_ptr(rbp + 1)))?;
        g.page_fault(pf::W, ABSENT + 1, |g| g.movups(xmmword_ptr(ABSENT + 1), xmm0))?;
        // MOVAPS: alignment before the page.
        g.fault(vector::GP, 0, |g| g.movaps(xmmword_ptr(ABSENT + 1), xmm0))
    })
}

pub(super) fn iret_checks() -> Payload {
    Guest::long("what IRET refuses, and that it then changes nothing", |g| {
        let frame = |g: &mut Guest, cs_: i32, ss_: i32, target: u64| -> Assembled {
            g.mov(rsi, rsp)?;
            g.push(ss_)?;
            g.push(rsi)?;
            g.push(2)?;
            g.push(cs_)?;
            g.mov(rax, target)?;
            g.push(rax)
        };
        let mut attempt = |cs_: u16, ss_: u16, target: u64, vector: u8, error: u32| {
            frame(g, cs_.into(), ss_.into(), target)?;
            g.mov(rdi, rsp)?;
            g.fault(vector, error, |g| g.iretq())?;
            g.cmp(rdi, rsp)?;
            g.mov(rsp, rsi)?;
            g.report_if(|a| a.sete(al))
        };
        let here = layout::CODE;
        attempt(0, selector::DATA, here, vector::GP, 0)?;
        attempt(selector::DATA, selector::DATA, here, vector::GP, selector::DATA.into())?;
        attempt(selector::BEYOND, selector::DATA, here, vector::GP, selector::BEYOND.into())?;
        attempt(selector::CODE64, selector::DATA, NON_CANONICAL, vector::GP, 0)?;
        attempt(
            selector::USER_CODE64,
            selector::DATA,
            here,
            vector::GP,
            selector::DATA.into(),
        )?;
        attempt(selector::USER_CODE64, 0, here, vector::GP, 0)?;
        let code = u32::from(selector::CODE64);
        attempt(selector::CODE64 | 3, selector::DATA, here, vector::GP, code)
    })
}

/// Makes #PF undeliverable: its gate is absent, so that delivery itself faults.
fn break_page_fault_gate(g: &mut Guest) -> Assembled {
    g.mov(byte_ptr(layout::IDT + u64::from(vector::PF) * 16 + 5), 0x0e)
}

pub(super) fn double_fault() -> Payload {
    Guest::long("#PF and #GP that can't be delivered become #DF on its own stack", |g| {
        g.unmap(ABSENT);
        break_page_fault_gate(g)?;
        g.fault(vector::DF, 0, |g| g.mov(al, byte_ptr(ABSENT)))?;
        // #GP whose delivery page-faults (a stack that is not there) is #PF, then #DF as that
        // cannot be delivered either.
        let (mut here, mut after) = (g.create_label(), g.create_label());
        g.arm(here, after)?;
        g.mov(rbx, rsp)?;
        g.mov(rcx, NON_CANONICAL)?;
        g.mov(esp, (ABSENT + 0x800) as u32)?;
        g.set_label(&mut here)?;
        g.expect_exception(vector::DF, 0, 0, None);
        g.mov(al, byte_ptr(rcx))?;
        g.set_label(&mut after)?;
        g.mov(rsp, rbx)?;
        // A benign exception and a contributory one are served one after the other: #UD whose
        // gate is absent gives #NP with EXT.
        g.mov(byte_ptr(layout::IDT + u64::from(vector::UD) * 16 + 5), 0x0e)?;
        g.fault(vector::NP, u32::from(vector::UD) * 8 + 3, |g| g.ud2())?;
        // Two contributory ones make #DF: #GP, absent.
        g.mov(byte_ptr(layout::IDT + u64::from(vector::GP) * 16 + 5), 0x0e)?;
        g.fault(vector::DF, 0, |g| g.mov(al, byte_ptr(rcx)))
    })
}

pub(super) fn triple_fault() -> Payload {
    Guest::long("no IDT at all: shutdown", |g| {
        g.ends(End::Shutdown);
        g.mov(eax, 0x600d)?;
        g.report(0x600d)?;
        g.mov(qword_ptr(layout::DATA), 0)?;
        g.mov(qword_ptr(layout::DATA + 8), 0)?;
        g.lidt(fword_ptr(layout::DATA))?;
        g.ud2()
    })
}

pub(super) fn interrupt_stacks() -> Payload {
    Guest::long("IST, alignment of the frame, the frame's contents", |g| {
        let mut handler = g.create_label();
        let mut after = g.create_label();
        g.set_gate(vector::UD, handler)?;
        g.mov(byte_ptr(layout::IDT + u64::from(vector::UD) * 16 + 4), 1)?;
        g.mov(rbx, rsp)?;
        g.sub(rsp, 3)?;
        g.stc()?;
        g.ud2()?;
        g.set_label(&mut handler)?;
        g.mov(eax, esp)?;
        g.report(layout::STACK_IST as u32 - 40)?;
        g.mov(eax, dword_ptr(rsp + 8))?;
        g.report(selector::CODE64.into())?;
        g.mov(eax, dword_ptr(rsp + 16))?;
        g.and(eax, 1 | 1 << 16)?;
        // RF is set in the frame of a fault.
        g.report(1 | 1 << 16)?;
        g.mov(eax, dword_ptr(rsp + 24))?;
        g.report(layout::STACK as u32 - 3)?;
        g.mov(eax, dword_ptr(rsp + 32))?;
        g.report(selector::DATA.into())?;
        g.mov(eax, ss)?;
        g.report(selector::DATA.into())?;
        // Without IST the same stack goes on, aligned to 16.
        let mut plain = g.create_label();
        g.set_gate(vector::UD, plain)?;
        g.mov(byte_ptr(layout::IDT + u64::from(vector::UD) * 16 + 4), 0)?;
        g.mov(rsp, rbx)?;
        g.sub(rsp, 3)?;
        g.ud2()?;
        g.set_label(&mut plain)?;
        g.mov(eax, esp)?;
        g.report(layout::STACK as u32 - 16 - 40)?;
        g.mov(rsp, rbx)?;
        g.jmp(after)?;
        g.set_label(&mut after)?;
        g.nop()
    })
}
