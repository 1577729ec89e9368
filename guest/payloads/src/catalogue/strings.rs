//! String instructions: counts, directions, faults in the middle (SDM vol. 2B, REP).

use iced_x86::code_asm::*;

use crate::kit::{Assembled, Guest, pf, vector};
use crate::layout;
use crate::payload::{Action, Payload};

const DATA: u64 = layout::DATA;
/// The last bytes before an absent page.
const EDGE: u64 = 0x5_1000;

/// RCX, RSI and RDI.
fn registers(g: &mut Guest, count: u64, source: u64, target: u64) -> Assembled {
    g.mov(rcx, count)?;
    g.mov(rsi, source)?;
    g.mov(rdi, target)
}

fn report_registers(g: &mut Guest, count: u64, source: u64, target: u64) -> Assembled {
    for (register, value) in [(ecx, count), (esi, source), (edi, target)] {
        g.mov(eax, register)?;
        g.report(value as u32)?;
    }
    Ok(())
}

pub(super) fn moves() -> Payload {
    Guest::long("MOVS of every width, both directions, overlapping, page-crossing", |g| {
        let bytes: Vec<u8> = (0..64).collect();
        g.place(DATA, &bytes);
        registers(g, 8, DATA, DATA + 0x100)?;
        g.rep().movsb()?;
        report_registers(g, 0, DATA + 8, DATA + 0x108)?;
        g.mov(rbx, qword_ptr(DATA + 0x100))?;
        g.report64(rbx, 0x0706_0504_0302_0100)?;
        g.std()?;
        registers(g, 2, DATA + 12, DATA + 0x118)?;
        g.rep().movsd()?;
        report_registers(g, 0, DATA + 4, DATA + 0x110)?;
        g.cld()?;
        g.mov(rbx, qword_ptr(DATA + 0x114))?;
        g.report64(rbx, 0x0f0e_0d0c_0b0a_0908)?;
        // Overlapping by one: the first byte spreads.
        registers(g, 15, DATA + 0x100, DATA + 0x101)?;
        g.mov(byte_ptr(DATA + 0x100), 0x5a)?;
        g.rep().movsb()?;
        g.mov(rbx, qword_ptr(DATA + 0x108))?;
        g.report64(rbx, 0x5a5a_5a5a_5a5a_5a5a)?;
        // Overlapping by 3 with words: a pattern.
        registers(g, 6, DATA + 1, DATA + 4)?;
        g.rep().movsw()?;
        g.mov(rbx, qword_ptr(DATA + 8))?;
        g.report64(rbx, 0x0302_0103_0201_0302)?;
        // Backwards the same distance is a copy.
        g.std()?;
        registers(g, 3, DATA + 0x20 + 16, DATA + 0x20 + 24)?;
        g.rep().movsq()?;
        g.cld()?;
        g.mov(rbx, qword_ptr(DATA + 0x28))?;
        g.report64(rbx, 0x2726_2524_2322_2120)?;
        // Across pages at odd addresses.
        registers(g, 0x1800, DATA + 0x2001, DATA + 0x5fff)?;
        g.mov(dword_ptr(DATA + 0x2ffe), 0x0d0c_0b0a)?;
        g.rep().movsb()?;
        report_registers(g, 0, DATA + 0x3801, DATA + 0x77ff)?;
        g.mov(eax, dword_ptr(DATA + 0x6ffc))?;
        g.report(0x0d0c_0b0a)
    })
}

pub(super) fn faults_in_the_middle() -> Payload {
    Guest::long("REP MOVS and STOS up to an absent page: what is done is done, exactly", |g| {
        g.unmap(EDGE);
        registers(g, 16, DATA, EDGE - 5)?;
        g.page_fault(pf::W, EDGE, |g| g.rep().movsb())?;
        report_registers(g, 11, DATA + 5, EDGE)?;
        registers(g, 16, EDGE - 8, DATA)?;
        g.page_fault(0, EDGE, |g| g.rep().movsd())?;
        report_registers(g, 14, EDGE, DATA + 8)?;
        // An element across the edge is not begun.
        registers(g, 16, DATA, EDGE - 11)?;
        g.mov(qword_ptr(EDGE - 8), 0)?;
        g.page_fault(pf::W, EDGE, |g| g.rep().movsq())?;
        report_registers(g, 15, DATA + 8, EDGE - 3)?;
        g.mov(eax, -1)?;
        registers(g, 0x1_0000, 0, EDGE - 0x1800)?;
        g.page_fault(pf::W, EDGE, |g| g.rep().stosd())?;
        report_registers(g, 0x1_0000 - 0x600, 0, EDGE)?;
        // Downwards into the absent page from above.
        g.std()?;
        registers(g, 9, DATA + 0x100, EDGE + 0x1010)?;
        g.page_fault(pf::W, EDGE + 0xff8, |g| g.rep().movsq())?;
        g.cld()?;
        report_registers(g, 6, DATA + 0x100 - 24, EDGE + 0xff8)?;
        // LODS and SCAS.
        registers(g, 10, EDGE - 4, EDGE - 4)?;
        g.page_fault(0, EDGE, |g| g.rep().lodsw())?;
        report_registers(g, 8, EDGE, EDGE - 4)?;
        g.mov(eax, 0x1234_5678)?;
        registers(g, 10, 0, EDGE - 8)?;
        g.page_fault(0, EDGE, |g| g.repne().scasd())?;
        report_registers(g, 8, 0, EDGE)
    })
}

pub(super) fn comparisons() -> Payload {
    Guest::long("REPE and REPNE CMPS and SCAS: where they stop and the flags they leave", |g| {
        g.place(DATA, b"the quick brown fox");
        g.place(DATA + 0x40, b"the quick crown fox");
        registers(g, 19, DATA, DATA + 0x40)?;
        g.repe().cmpsb()?;
        g.setb(bl)?;
        g.setne(bh)?;
        report_registers(g, 8, DATA + 11, DATA + 0x4b)?;
        g.movzx(eax, bx)?;
        g.report(0x101)?;
        registers(g, 8, DATA + 11, DATA + 0x4b)?;
        g.repe().cmpsb()?;
        g.sete(al)?;
        g.movzx(eax, al)?;
        g.report(1)?;
        g.mov(eax, i32::from(b'q'))?;
        registers(g, 19, 0, DATA)?;
        g.repne().scasb()?;
        report_registers(g, 14, 0, DATA + 5)?;
        // RCX = 0: nothing happens, flags included, nor is memory touched.
        g.xor(eax, eax)?;
        g.stc()?;
        registers(g, 0, 0x8000_0000_0000, 0x8000_0000_0000)?;
        g.repe().cmpsb()?;
        g.report_flags(0x41, 0x41)?;
        g.rep().movsb()?;
        g.rep().stosq()?;
        g.repne().scasw()?;
        // F2 repeats MOVS like F3.
        registers(g, 3, DATA, DATA + 0x80)?;
        g.db(&[0xf2, 0xa4])?;
        report_registers(g, 0, DATA + 3, DATA + 0x83)
    })
}

pub(super) fn address_sizes() -> Payload {
    Guest::long("67 prefix: ECX, ESI and EDI are used and zero-extended", |g| {
        g.place(DATA, &[1, 2, 3, 4]);
        g.mov(rcx, 0xffff_ffff_0000_0004u64)?;
        g.mov(rsi, 0x1234_5678_0000_0000u64 | DATA)?;
        g.mov(rdi, 0x8765_4321_0000_0000u64 | (DATA + 0x10))?;
        g.db(&[0x67, 0xf3, 0xa4])?;
        g.mov(eax, dword_ptr(DATA + 0x10))?;
        g.report(0x0403_0201)?;
        g.report64(rcx, 0)?;
        g.report64(rsi, DATA + 4)?;
        g.report64(rdi, DATA + 0x14)?;
        // JRCXZ and JECXZ, LOOP with ECX.
        g.mov(rcx, 1u64 << 32)?;
        let mut over = g.create_label();
        g.xor(eax, eax)?;
        g.db(&[0x67, 0xe3, 2])?; // JECXZ over the UD2
        g.ud2()?;
        g.jrcxz(over)?;
        g.inc(eax)?;
        g.set_label(&mut over)?;
        g.nop()?;
        g.report(1)?;
        g.mov(rcx, 3u64)?;
        g.xor(eax, eax)?;
        let mut again = g.create_label();
        g.set_label(&mut again)?;
        g.inc(eax)?;
        g.loop_(again)?;
        g.report(3)
    })
}

pub(super) fn long_runs() -> Payload {
    Guest::long("a long REP is interrupted by an external interrupt and ends complete", |g| {
        g.lapic_enable()?;
        let data = u32::from(vector::COUNTED);
        g.mov(ebp, 0)?;
        g.action(Action::MsiLater { address: 0xfee0_0000, data })?;
        let mut again = g.create_label();
        g.sti()?;
        g.set_label(&mut again)?;
        g.inc(ebp)?;
        g.mov(eax, ebp)?;
        registers(g, 0x4_0000, 0, layout::TABLES)?;
        g.rep().stosd()?;
        g.cmp(dword_ptr(Guest::count_of(vector::COUNTED)), 0)?;
        g.je(again)?;
        g.cli()?;
        // Every doubleword is this round's.
        g.mov(eax, ebp)?;
        registers(g, 0x4_0000, 0, layout::TABLES)?;
        g.repe().scasd()?;
        g.mov(ebp, 0)?;
        report_registers(g, 0, 0, layout::TABLES + 0x10_0000)
    })
}
