//! Paging structures and what they permit (SDM vol. 3, 4.3-4.10).

use iced_x86::code_asm::*;

use crate::feature;
use crate::kit::{Assembled, Guest, page, pf, vector};
use crate::layout;
use crate::payload::Payload;

/// A page below 2 MiB that payloads remap, and two frames to map there.
const VIRTUAL: u64 = 0x5_0000;
const FRAME: u64 = 0x4_0000;
const FRAME_2: u64 = 0x4_1000;
const ENTRY: u64 = layout::PAGE_TABLE + (VIRTUAL >> 12) * 8;
const KERNEL: u64 = page::P | page::W;
const EFER: u32 = 0xc000_0080;
/// Frames with values to tell them apart.
const VALUE: u64 = 0x1111;
const VALUE_2: u64 = 0x2222;

fn frames(g: &mut Guest) {
    g.place_u64(FRAME, VALUE);
    g.place_u64(FRAME_2, VALUE_2);
}

/// Writes a page-table entry and invalidates the page; RAX is lost.
fn remap(g: &mut Guest, entry: u64, value: u64, linear: u64) -> Assembled {
    g.mov(rax, value)?;
    g.mov(qword_ptr(entry), rax)?;
    g.mov(rax, linear)?;
    g.invlpg(byte_ptr(rax))
}

/// Reports the A and D bits of an entry.
fn report_a_d(g: &mut Guest, entry: u64, expected: u64) -> Assembled {
    g.mov(eax, dword_ptr(entry))?;
    g.and(eax, (page::A | page::D) as i32)?;
    g.report(expected as u32)
}

pub(super) fn two_level() -> Payload {
    Guest::protected("32-bit paging: 4 KiB and 4 MiB pages, A and D, WP, #PF", |g| {
        let (directory, table) = (layout::TABLES, layout::TABLES + 0x1000);
        let mut entries = Vec::new();
        for number in 0..1024u32 {
            entries.extend((number << 12 | KERNEL as u32).to_le_bytes());
        }
        let of = |address: u64| table + (address >> 12) * 4;
        g.place(table, &entries);
        g.place(of(0x3f_f000), &(FRAME as u32 | KERNEL as u32).to_le_bytes());
        g.place(of(0x3f_e000), &[0; 4]);
        g.place(of(0x3f_d000), &(FRAME_2 as u32 | page::P as u32).to_le_bytes());
        g.place(directory, &(table as u32 | KERNEL as u32).to_le_bytes());
        g.place(directory + 4, &(KERNEL as u32 | page::PS as u32).to_le_bytes());
        frames(g);
        g.mov(eax, directory as i32)?;
        g.mov(cr3, eax)?;
        g.mov(eax, cr4)?;
        g.or(eax, 0x10)?;
        g.mov(cr4, eax)?;
        g.mov(eax, cr0)?;
        g.or(eax, 0x8000_0000u32 as i32)?;
        g.mov(cr0, eax)?;
        report_a_d(g, of(0x3f_f000), 0)?;
        g.mov(eax, dword_ptr(0x3f_f000))?;
        g.report(VALUE as u32)?;
        report_a_d(g, of(0x3f_f000), page::A)?;
        g.mov(dword_ptr(0x3f_f000), 0x77)?;
        report_a_d(g, of(0x3f_f000), page::A | page::D)?;
        g.mov(eax, dword_ptr(FRAME))?;
        g.report(0x77)?;
        report_a_d(g, directory + 4, 0)?;
        g.mov(eax, dword_ptr(0x40_0000 + FRAME_2))?;
        g.report(VALUE_2 as u32)?;
        g.mov(dword_ptr(0x40_0000 + FRAME_2), 0x78)?;
        report_a_d(g, directory + 4, page::A | page::D)?;
        g.page_fault(0, 0x3f_e123, |g| g.mov(eax, dword_ptr(0x3f_e123)))?;
        g.page_fault(pf::W, 0x3f_e123, |g| g.mov(dword_ptr(0x3f_e123), eax))?;
        g.page_fault(0, 0x80_0000, |g| g.mov(eax, dword_ptr(0x80_0000)))?;
        // Read-only pages hold only user code, until WP is set.
        g.mov(dword_ptr(0x3f_d000), 0x79)?;
        g.mov(eax, cr0)?;
        g.or(eax, 1 << 16)?;
        g.mov(cr0, eax)?;
        g.page_fault(pf::P | pf::W, 0x3f_d000, |g| g.mov(dword_ptr(0x3f_d000), 0x7a))?;
        g.mov(eax, dword_ptr(0x3f_d000))?;
        g.report(0x79)
    })
}

pub(super) fn pae() -> Payload {
    Guest::protected("PAE paging: PDPTEs are loaded by MOV CR3, 2 MiB pages, NX", |g| {
        let (pointers, directory) = (layout::TABLES, layout::TABLES + 0x1000);
        g.place_u64(pointers, directory | page::P);
        g.place_u64(directory, KERNEL | page::PS);
        g.place_u64(directory + 8, 0x20_0000 | KERNEL | page::PS | page::NX);
        g.place_u64(pointers + 0x20, directory | page::P | page::W);
        g.place(0x20_0000, &[0xc3]);
        g.mov(eax, cr4)?;
        g.or(eax, 0x20)?;
        g.mov(cr4, eax)?;
        g.mov(eax, pointers as i32)?;
        g.mov(cr3, eax)?;
        g.mov(ecx, EFER)?;
        g.xor(edx, edx)?;
        g.mov(eax, 0x800)?;
        g.wrmsr()?;
        g.mov(eax, cr0)?;
        g.or(eax, 0x8000_0000u32 as i32)?;
        g.mov(cr0, eax)?;
        g.movzx(eax, byte_ptr(0x20_0000))?;
        g.report(0xc3)?;
        g.page_fault(0, 0x40_0000, |g| g.mov(eax, dword_ptr(0x40_0000)))?;
        g.page_fault(0, 0x4000_0000, |g| g.mov(eax, dword_ptr(0x4000_0000)))?;
        // The fetch faults at its own address, with the return address already pushed.
        let (mut call, mut back) = (g.create_label(), g.create_label());
        g.mov(ebx, 0x20_0000)?;
        g.mov(esi, esp)?;
        g.arm(call, back)?;
        g.set_label(&mut call)?;
        g.mov(dword_ptr(layout::VARIABLES), ebx)?;
        g.expect_exception(vector::PF, pf::P | pf::FETCH, 0, Some(0x20_0000));
        g.call(ebx)?;
        g.set_label(&mut back)?;
        g.mov(eax, esi)?;
        g.sub(eax, esp)?;
        g.mov(esp, esi)?;
        g.report(4)?;
        // The table at +0x20 has reserved bits in its first PDPTE: CR3 stays what it was.
        g.mov(eax, (pointers + 0x20) as i32)?;
        g.fault(vector::GP, 0, |g| g.mov(cr3, eax))?;
        g.mov(eax, cr3)?;
        g.report(pointers as u32)
    })
}

pub(super) fn four_level() -> Payload {
    Guest::long("4-level paging: both halves of the address space, non-canonical addresses", |g| {
        let high = 0xffff_8123_4567_8000u64;
        let tables = layout::TABLES;
        let index = |level: u32| (high >> (12 + 9 * level) & 511) * 8;
        g.place_u64(layout::PML4 + index(3), tables | KERNEL);
        g.place_u64(tables + index(2), tables + 0x1000 | KERNEL);
        g.place_u64(tables + 0x1000 + index(1), tables + 0x2000 | KERNEL);
        g.place_u64(tables + 0x2000 + index(0), FRAME | KERNEL);
        frames(g);
        g.mov(rbx, high)?;
        g.mov(eax, dword_ptr(rbx))?;
        g.report(VALUE as u32)?;
        g.mov(qword_ptr(rbx + 8), 0x7654)?;
        g.mov(eax, dword_ptr(FRAME + 8))?;
        g.report(0x7654)?;
        for entry in [
            layout::PML4 + index(3),
            tables + index(2),
            tables + 0x1000 + index(1),
        ] {
            g.mov(eax, dword_ptr(entry))?;
            g.and(eax, page::A as i32)?;
            g.report(page::A as u32)?;
        }
        report_a_d(g, tables + 0x2000 + index(0), page::A | page::D)?;
        g.page_fault(0, high + 0x1000, |g| g.mov(eax, dword_ptr(rbx + 0x1000)))?;
        g.mov(rcx, 0x8000_0000_0000u64)?;
        g.fault(vector::GP, 0, |g| g.mov(eax, dword_ptr(rcx)))?;
        g.fault(vector::GP, 0, |g| g.mov(byte_ptr(rcx), al))?;
        g.mov(rdx, rsp)?;
        g.mov(rbp, rcx)?;
        g.fault(vector::SS, 0, |g| g.mov(eax, dword_ptr(rbp)))?;
        g.mov(rax, cr2)?;
        // Neither changed CR2.
        g.report((high + 0x1000) as u32)?;
        // The last byte below the hole.
        g.mov(rcx, 0x7fff_ffff_ffffu64)?;
        g.page_fault(0, 0x7fff_ffff_ffff, |g| g.mov(al, byte_ptr(rcx)))
    })
}

pub(super) fn large_pages() -> Payload {
    Guest::long("2 MiB pages: address bits, A and D in the directory, reserved bits", |g| {
        let entry = layout::DIRECTORIES + 8;
        let linear = 0x20_0000;
        g.place_u64(entry, KERNEL | page::PS);
        frames(g);
        g.mov(eax, dword_ptr(linear + FRAME))?;
        g.report(VALUE as u32)?;
        report_a_d(g, entry, page::A)?;
        g.mov(dword_ptr(linear + FRAME_2), 0x99)?;
        report_a_d(g, entry, page::A | page::D)?;
        g.mov(eax, dword_ptr(FRAME_2))?;
        g.report(0x99)?;
        // Bits 20:13 are reserved, bit 12 is PAT.
        remap(g, entry, KERNEL | page::PS | 1 << 13, linear)?;
        g.page_fault(pf::P | pf::RSVD, linear, |g| g.mov(eax, dword_ptr(linear)))?;
        g.page_fault(pf::P | pf::RSVD | pf::W, linear + 5, |g| g.mov(byte_ptr(linear + 5), al))?;
        remap(g, entry, KERNEL | page::PS | 1 << 12, linear)?;
        g.mov(eax, dword_ptr(linear + FRAME_2))?;
        g.report(0x99)
    })
}

pub(super) fn gigabyte_pages() -> Payload {
    Guest::long("a 1 GiB page", |g| {
        g.needs(feature::PAGES_1G);
        let entry = layout::PDPT + 4 * 8;
        g.place_u64(entry, KERNEL | page::PS);
        frames(g);
        g.mov(rbx, 4u64 << 30)?;
        g.mov(eax, dword_ptr(rbx + FRAME as i32))?;
        g.report(VALUE as u32)?;
        report_a_d(g, entry, page::A)?;
        g.mov(dword_ptr(rbx + FRAME_2 as i32), 0x55)?;
        report_a_d(g, entry, page::A | page::D)?;
        g.mov(eax, dword_ptr(FRAME_2))?;
        g.report(0x55)?;
        remap(g, entry, KERNEL | page::PS | 1 << 29, 4 << 30)?;
        g.page_fault(pf::P | pf::RSVD, 0, |g| g.mov(eax, dword_ptr(rbx)))
    })
}

pub(super) fn accessed_and_dirty() -> Payload {
    Guest::long("A and D: set by reads, writes, RMW, fetches; not by what faults", |g| {
        g.place_u64(ENTRY, FRAME | KERNEL);
        g.place_u64(ENTRY + 8, FRAME_2 | page::P);
        g.place(FRAME, &[0xc3]);
        report_a_d(g, ENTRY, 0)?;
        g.mov(ebx, VIRTUAL as u32)?;
        g.call(rbx)?;
        report_a_d(g, ENTRY, page::A)?;
        g.lock().cmpxchg(dword_ptr(VIRTUAL + 8), ecx)?;
        report_a_d(g, ENTRY, page::A | page::D)?;
        remap(g, ENTRY, FRAME | KERNEL, VIRTUAL)?;
        g.mov(eax, dword_ptr(VIRTUAL))?;
        report_a_d(g, ENTRY, page::A)?;
        g.add(dword_ptr(VIRTUAL), 0)?;
        report_a_d(g, ENTRY, page::A | page::D)?;
        // D cleared and the page invalidated: the next write sets it again.
        remap(g, ENTRY, FRAME | KERNEL | page::A, VIRTUAL)?;
        g.push(qword_ptr(VIRTUAL))?;
        report_a_d(g, ENTRY, page::A)?;
        g.pop(qword_ptr(VIRTUAL))?;
        report_a_d(g, ENTRY, page::A | page::D)?;
        // A write that faults sets no D.
        g.page_fault(pf::P | pf::W, VIRTUAL + 0x1000, |g| {
            g.mov(dword_ptr(VIRTUAL + 0x1000), eax)
        })?;
        g.mov(eax, dword_ptr(ENTRY + 8))?;
        g.and(eax, page::D as i32)?;
        g.report(0)
    })
}

/// Calls the page at `VIRTUAL`, whose fetch must fault with this code.
fn fetch_faults(g: &mut Guest, error: u32) -> Assembled {
    let (mut call, mut back) = (g.create_label(), g.create_label());
    g.arm(call, back)?;
    g.set_label(&mut call)?;
    g.mov(rsi, rsp)?;
    g.mov(r14, VIRTUAL)?;
    g.expect_exception(vector::PF, error, 0, Some(VIRTUAL as u32));
    g.call(r14)?;
    g.set_label(&mut back)?;
    g.mov(rsp, rsi)
}

pub(super) fn no_execute() -> Payload {
    Guest::long("NX pages can't be fetched; without EFER.NXE the bit is reserved", |g| {
        g.place_u64(ENTRY, FRAME | KERNEL | page::NX);
        g.place(FRAME, &[0xc3]);
        fetch_faults(g, pf::P | pf::FETCH)?;
        g.movzx(eax, byte_ptr(VIRTUAL))?;
        g.report(0xc3)?;
        g.mov(ecx, EFER)?;
        g.rdmsr()?;
        g.btr(eax, 11)?;
        g.wrmsr()?;
        g.mov(eax, VIRTUAL as u32)?;
        g.invlpg(byte_ptr(rax))?;
        g.page_fault(pf::P | pf::RSVD, VIRTUAL, |g| g.mov(al, byte_ptr(VIRTUAL)))?;
        g.rdmsr()?;
        g.bts(eax, 11)?;
        g.wrmsr()?;
        // NX at any level.
        remap(g, ENTRY, FRAME | KERNEL, VIRTUAL)?;
        g.mov(r14, VIRTUAL)?;
        g.call(r14)?;
        let upper = layout::DIRECTORIES + 8;
        g.place(0x20_0000, &[0xc3]);
        g.place_u64(upper, 0x20_0000 | KERNEL | page::PS | page::NX);
        let (mut call, mut back) = (g.create_label(), g.create_label());
        g.arm(call, back)?;
        g.set_label(&mut call)?;
        g.mov(rsi, rsp)?;
        g.mov(r14d, 0x20_0000)?;
        g.expect_exception(vector::PF, pf::P | pf::FETCH, 0, Some(0x20_0000));
        g.call(r14)?;
        g.set_label(&mut back)?;
        g.mov(rsp, rsi)
    })
}

pub(super) fn write_protect() -> Payload {
    Guest::long("CR0.WP: supervisor writes and read-only pages, RMW included", |g| {
        g.place_u64(ENTRY, FRAME | page::P);
        frames(g);
        g.page_fault(pf::P | pf::W, VIRTUAL, |g| g.mov(byte_ptr(VIRTUAL), 1))?;
        g.page_fault(pf::P | pf::W, VIRTUAL, |g| g.lock().inc(dword_ptr(VIRTUAL)))?;
        // CMPXCHG writes even when the comparison fails.
        g.mov(eax, 0x4242)?;
        g.page_fault(pf::P | pf::W, VIRTUAL, |g| g.cmpxchg(dword_ptr(VIRTUAL), ecx))?;
        g.mov(rax, cr0)?;
        g.btr(rax, 16)?;
        g.mov(cr0, rax)?;
        g.mov(dword_ptr(VIRTUAL), 0x51)?;
        g.mov(eax, dword_ptr(FRAME))?;
        g.report(0x51)?;
        g.mov(rax, cr0)?;
        g.bts(rax, 16)?;
        g.mov(cr0, rax)?;
        g.page_fault(pf::P | pf::W, VIRTUAL, |g| g.mov(byte_ptr(VIRTUAL), 1))?;
        // Read-only at the directory.
        let upper = layout::DIRECTORIES + 8;
        g.place_u64(upper, 0x20_0000 | page::P | page::PS);
        g.page_fault(pf::P | pf::W, 0x20_0010, |g| g.mov(byte_ptr(0x20_0010), 1))
    })
}

pub(super) fn user_and_supervisor() -> Payload {
    Guest::long("U/S: what CPL 3 may read, write and fetch", |g| {
        g.map_with(FRAME, page::U);
        frames(g);
        g.place(FRAME_2, &[0xc3]);
        g.unmap(VIRTUAL);
        g.user(3 << 12, |g| {
            g.mov(eax, dword_ptr(FRAME))?;
            g.report(VALUE as u32)?;
            g.mov(dword_ptr(FRAME), 3)?;
            g.page_fault(pf::P | pf::U, FRAME_2, |g| g.mov(al, byte_ptr(FRAME_2)))?;
            g.page_fault(pf::P | pf::U | pf::W, FRAME_2, |g| g.mov(byte_ptr(FRAME_2), al))?;
            g.page_fault(pf::U, VIRTUAL, |g| g.mov(al, byte_ptr(VIRTUAL)))?;
            g.page_fault(pf::U | pf::W, VIRTUAL, |g| g.mov(byte_ptr(VIRTUAL), al))?;
            let (mut call, mut back) = (g.create_label(), g.create_label());
            g.arm(call, back)?;
            g.set_label(&mut call)?;
            g.mov(rsi, rsp)?;
            g.mov(r14, FRAME_2)?;
            g.expect_exception(vector::PF, pf::P | pf::U | pf::FETCH, 0, Some(FRAME_2 as u32));
            g.call(r14)?;
            g.set_label(&mut back)?;
            g.mov(rsp, rsi)
        })
    })
}

pub(super) fn smep_smap() -> Payload {
    Guest::long("SMEP and SMAP: user pages under CPL 0, STAC and CLAC", |g| {
        g.needs(feature::SMEP);
        g.needs(feature::SMAP);
        g.place_u64(ENTRY, FRAME | KERNEL | page::U);
        g.place(FRAME, &[0xc3]);
        g.mov(ebx, VIRTUAL as u32)?;
        g.call(rbx)?;
        g.mov(al, byte_ptr(VIRTUAL))?;
        g.mov(rax, cr4)?;
        g.bts(rax, 20)?;
        g.mov(cr4, rax)?;
        fetch_faults(g, pf::P | pf::FETCH)?;
        g.movzx(eax, byte_ptr(VIRTUAL))?;
        g.report(0xc3)?;
        g.mov(rax, cr4)?;
        g.bts(rax, 21)?;
        g.mov(cr4, rax)?;
        g.page_fault(pf::P, VIRTUAL, |g| g.mov(al, byte_ptr(VIRTUAL)))?;
        g.page_fault(pf::P | pf::W, VIRTUAL, |g| g.mov(byte_ptr(VIRTUAL), al))?;
        g.stac()?;
        g.movzx(eax, byte_ptr(VIRTUAL))?;
        g.report(0xc3)?;
        g.mov(byte_ptr(VIRTUAL), 0xc3)?;
        g.clac()?;
        g.page_fault(pf::P, VIRTUAL, |g| g.mov(al, byte_ptr(VIRTUAL)))?;
        g.mov(rax, cr4)?;
        g.btr(rax, 20)?;
        g.btr(rax, 21)?;
        g.mov(cr4, rax)?;
        g.mov(al, byte_ptr(VIRTUAL))?;
        g.call(rbx)
    })
}

pub(super) fn invalidation() -> Payload {
    Guest::long("INVLPG, MOV CR3 and CR4.PGE make new translations seen", |g| {
        frames(g);
        g.place_u64(ENTRY, FRAME | KERNEL);
        let expect = |g: &mut Guest, value: u64| {
            g.mov(eax, dword_ptr(VIRTUAL))?;
            g.report(value as u32)
        };
        expect(g, VALUE)?;
        remap(g, ENTRY, FRAME_2 | KERNEL, VIRTUAL)?;
        expect(g, VALUE_2)?;
        g.mov(qword_ptr(ENTRY), (FRAME | KERNEL) as i32)?;
        g.mov(rax, cr3)?;
        g.mov(cr3, rax)?;
        expect(g, VALUE)?;
        // Global: INVLPG takes it out all the same.
        g.mov(rax, cr4)?;
        g.bts(rax, 7)?;
        g.mov(cr4, rax)?;
        remap(g, ENTRY, FRAME | KERNEL | page::G, VIRTUAL)?;
        expect(g, VALUE)?;
        remap(g, ENTRY, FRAME_2 | KERNEL | page::G, VIRTUAL)?;
        expect(g, VALUE_2)?;
        g.mov(qword_ptr(ENTRY), (FRAME | KERNEL | page::G) as i32)?;
        g.mov(rax, cr4)?;
        g.btr(rax, 7)?;
        g.mov(cr4, rax)?;
        expect(g, VALUE)?;
        // Absent to present needs no invalidation.
        remap(g, ENTRY, 0, VIRTUAL)?;
        g.page_fault(0, VIRTUAL, |g| g.mov(eax, dword_ptr(VIRTUAL)))?;
        g.mov(qword_ptr(ENTRY), (FRAME_2 | KERNEL) as i32)?;
        expect(g, VALUE_2)?;
        // The TLB is not a cache of memory: a write through one name shows under the other.
        g.mov(dword_ptr(FRAME_2), 0x3333)?;
        expect(g, 0x3333)?;
        Ok(())
    })
}

pub(super) fn pcid() -> Payload {
    Guest::long("PCID: two address spaces, bit 63 of CR3, INVPCID", |g| {
        g.needs(feature::PCID);
        g.needs(feature::INVPCID);
        frames(g);
        g.place_u64(ENTRY, FRAME | KERNEL);
        // A second space that differs in VIRTUAL only.
        let tables = layout::TABLES;
        let all = KERNEL | page::U;
        g.place_u64(tables, tables + 0x1000 | all);
        g.place_u64(tables + 0x1000, tables + 0x2000 | all);
        g.place_u64(tables + 0x1018, layout::DIRECTORIES + 0x3000 | all);
        g.place_u64(tables + 0x2000, tables + 0x3000 | all);
        for number in 0..256u64 {
            g.place_u64(tables + 0x3000 + number * 8, number << 12 | KERNEL);
        }
        let entry_2 = tables + 0x3000 + (VIRTUAL >> 12) * 8;
        g.place_u64(entry_2, FRAME_2 | KERNEL);
        g.place_u64(tables + 0x3000 + 0x100 * 8, tables | KERNEL);
        g.place_u64(tables + 0x3000 + 0x103 * 8, tables + 0x3000 | KERNEL);
        // PCIDE wants CR3 11:0 = 0, which it is.
        g.mov(rax, cr4)?;
        g.bts(rax, 17)?;
        g.mov(cr4, rax)?;
        let space_1 = layout::PML4 | 1;
        let space_2 = tables | 2;
        let switch = |g: &mut Guest, to: u64| {
            g.mov(rax, to)?;
            g.mov(cr3, rax)
        };
        let expect = |g: &mut Guest, value: u64| {
            g.mov(eax, dword_ptr(VIRTUAL))?;
            g.report(value as u32)
        };
        for _ in 0..3 {
            switch(g, space_1)?;
            expect(g, VALUE)?;
            switch(g, space_2)?;
            expect(g, VALUE_2)?;
            switch(g, 1 << 63 | space_1)?;
            expect(g, VALUE)?;
            switch(g, 1 << 63 | space_2)?;
            expect(g, VALUE_2)?;
        }
        // Bit 63 is not kept.
        g.mov(rbx, cr3)?;
        g.report64(rbx, space_2)?;
        // Without bit 63 the space's translations are gone.
        g.mov(qword_ptr(ENTRY), (FRAME_2 | KERNEL) as i32)?;
        switch(g, space_1)?;
        expect(g, VALUE_2)?;
        // From space 1, INVPCID of one address of space 2, then of all of it, then of everything.
        let descriptor = layout::DATA;
        let changes: [(u64, u64, u64, u64); 3] =
            [(0, FRAME, VALUE, VIRTUAL), (1, FRAME_2, VALUE_2, 0), (2, FRAME, VALUE, 0)];
        for (kind, frame, value, linear) in changes {
            switch(g, 1 << 63 | space_1)?;
            g.mov(rax, frame | KERNEL)?;
            g.mov(qword_ptr(entry_2), rax)?;
            g.mov(qword_ptr(descriptor), if kind == 2 { 0 } else { 2 })?;
            g.mov(qword_ptr(descriptor + 8), linear as i32)?;
            g.mov(eax, kind as i32)?;
            g.invpcid(rax, xmmword_ptr(descriptor))?;
            switch(g, 1 << 63 | space_2)?;
            expect(g, value)?;
        }
        g.mov(eax, 4)?;
        g.fault(vector::GP, 0, |g| g.invpcid(rax, xmmword_ptr(descriptor)))?;
        g.mov(qword_ptr(descriptor), 0x1000)?;
        g.mov(eax, 1)?;
        g.fault(vector::GP, 0, |g| g.invpcid(rax, xmmword_ptr(descriptor)))?;
        // PCIDE may go at any PCID, but comes only at 0.
        switch(g, space_1)?;
        g.mov(rax, cr4)?;
        g.btr(rax, 17)?;
        g.mov(cr4, rax)?;
        g.bts(rax, 17)?;
        g.fault(vector::GP, 0, |g| g.mov(cr4, rax))?;
        switch(g, layout::PML4)
    })
}

pub(super) fn page_crossing() -> Payload {
    Guest::long("accesses across pages: order of faults, nothing written before one", |g| {
        let edge = VIRTUAL + 0x1000;
        g.place_u64(ENTRY, FRAME_2 | KERNEL);
        g.place_u64(ENTRY + 8, FRAME | KERNEL);
        g.place(FRAME_2 + 0xff8, &[1, 2, 3, 4, 5, 6, 7, 8]);
        g.place(FRAME, &[9, 10, 11, 12, 13, 14, 15, 16]);
        g.mov(rbx, qword_ptr(edge - 4))?;
        g.report64(rbx, 0x0c0b_0a09_0807_0605)?;
        g.mov(rbx, qword_ptr(edge - 1))?;
        g.report64(rbx, 0x0f0e_0d0c_0b0a_0908)?;
        g.mov(qword_ptr(edge - 3), 0x2132_4354)?;
        g.mov(eax, dword_ptr(FRAME))?;
        g.report(0x0000_0021)?;
        g.mov(eax, dword_ptr(FRAME_2 + 0xffc))?;
        g.report(0x3243_5405)?;
        g.lock().add(dword_ptr(edge - 2), 0x0101_0101)?;
        g.mov(eax, dword_ptr(edge - 2))?;
        g.report(0x0122_3344)?;
        remap(g, ENTRY + 8, 0, edge)?;
        g.mov(eax, -1)?;
        g.page_fault(pf::W, edge, |g| g.mov(dword_ptr(edge - 2), eax))?;
        g.mov(ax, word_ptr(edge - 2))?;
        g.and(eax, 0xffff)?;
        g.report(0x3344)?;
        g.page_fault(0, edge, |g| g.mov(rax, qword_ptr(edge - 7)))?;
        g.page_fault(pf::W, edge, |g| g.inc(dword_ptr(edge - 1)))?;
        g.movups(xmm0, xmmword_ptr(VIRTUAL))?;
        g.page_fault(pf::W, edge, |g| g.movups(xmmword_ptr(edge - 15), xmm0))?;
        // Both absent: the first byte is named.
        remap(g, ENTRY, 0, VIRTUAL)?;
        g.page_fault(0, edge - 2, |g| g.mov(eax, dword_ptr(edge - 2)))?;
        // An instruction that spans pages: the fetch of its second half faults.
        remap(g, ENTRY, FRAME_2 | KERNEL, VIRTUAL)?;
        g.mov(word_ptr(edge - 2), 0x11b8)?;
        let (mut call, mut back) = (g.create_label(), g.create_label());
        g.arm(call, back)?;
        g.set_label(&mut call)?;
        g.mov(rsi, rsp)?;
        g.mov(r14, edge - 2)?;
        g.expect_exception(vector::PF, pf::FETCH, 0, Some(edge as u32));
        g.call(r14)?;
        g.set_label(&mut back)?;
        g.mov(rsp, rsi)?;
        // MOV EAX, 0x44332211; RET once it is there.
        g.mov(qword_ptr(FRAME), 0x00c3_4433)?;
        g.mov(byte_ptr(FRAME), 0x22)?;
        g.mov(word_ptr(FRAME + 1), 0x4433)?;
        g.mov(byte_ptr(FRAME + 3), 0xc3)?;
        remap(g, ENTRY + 8, FRAME | KERNEL, edge)?;
        g.call(r14)?;
        g.report(0x4433_2211)
    })
}

pub(super) fn page_table_base() -> Payload {
    Guest::long("CR3 refuses reserved bits", |g| {
        g.mov(rax, 1u64 << 62)?;
        g.fault(vector::GP, 0, |g| g.mov(cr3, rax))?;
        g.mov(rax, cr3)?;
        g.report(layout::PML4 as u32)
    })
}

pub(super) fn control_registers() -> Payload {
    Guest::long("combinations of CR0, CR3, CR4 and EFER bits that are refused", |g| {
        g.mov(rbx, cr0)?;
        // PG without PE; NW without CD.
        g.mov(rax, rbx)?;
        g.btr(rax, 0)?;
        g.fault(vector::GP, 0, |g| g.mov(cr0, rax))?;
        g.mov(rax, rbx)?;
        g.bts(rax, 29)?;
        g.fault(vector::GP, 0, |g| g.mov(cr0, rax))?;
        // ET is fixed.
        g.mov(rax, rbx)?;
        g.btr(rax, 4)?;
        g.mov(cr0, rax)?;
        g.mov(rax, cr0)?;
        g.report(0x8001_0033)?;
        // PAE can't go in long mode; reserved bits.
        g.mov(rbx, cr4)?;
        g.mov(rax, rbx)?;
        g.btr(rax, 5)?;
        g.fault(vector::GP, 0, |g| g.mov(cr4, rax))?;
        g.mov(rax, rbx)?;
        g.bts(rax, 31)?;
        g.fault(vector::GP, 0, |g| g.mov(cr4, rax))?;
        // LME can't change under paging; reserved EFER bits.
        g.mov(ecx, EFER)?;
        g.rdmsr()?;
        g.report(0xd00)?;
        g.btr(eax, 8)?;
        g.fault(vector::GP, 0, |g| g.wrmsr())?;
        g.mov(eax, 0xd00 | 1 << 1)?;
        g.fault(vector::GP, 0, |g| g.wrmsr())?;
        // CR1, CR5 and CR9 are not there.
        for number in [0xc8, 0xe8] {
            g.fault(vector::UD, 0, |g| g.db(&[0x0f, 0x20, number]))?;
        }
        // MOV CR ignores the mod bits: 0F 20 with mod = 0 is register form all the same.
        g.mov(rbx, cr3)?;
        g.db(&[0x0f, 0x20, 0x18])?;
        g.cmp(rax, rbx)?;
        g.report_if(|a| a.sete(al))?;
        // The upper half of CR0 is reserved.
        g.mov(rax, cr0)?;
        g.bts(rax, 40)?;
        g.fault(vector::GP, 0, |g| g.mov(cr0, rax))
    })
}
