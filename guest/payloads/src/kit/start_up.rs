//! vCPU 1's way from its start-up IPI to long mode (SDM vol. 3, 8.4.3, 9.8.5).

use iced_x86::code_asm::*;

use super::guest::{Assembled, Guest};
use crate::layout::{self, selector};

const GDT_POINTER: u64 = layout::TRAMPOLINE + 0xf0;
const IDT_POINTER: u64 = layout::TRAMPOLINE + 0xe0;
const LONG_ENTRY: u64 = layout::TRAMPOLINE + 0x80;
const EFER: u32 = 0xc000_0080;

/// Lays the code at the SIPI vector's page.
pub(super) fn place_trampoline(guest: &mut Guest) -> Assembled {
    let pointer = |limit: u16, base: u64| {
        let mut bytes = limit.to_le_bytes().to_vec();
        bytes.extend(base.to_le_bytes());
        bytes
    };
    guest.place(GDT_POINTER, &pointer(layout::GDT_BYTES - 1, layout::GDT));
    guest.place(IDT_POINTER, &pointer(0xfff, layout::IDT));
    // CS base is the page, DS is loaded with 0: data are addressed absolutely.
    guest.part(16, layout::TRAMPOLINE, 0, |g| {
        g.cli()?;
        g.xor(ax, ax)?;
        g.mov(ds, eax)?;
        g.lgdt(dword_ptr(GDT_POINTER))?;
        long_mode_bits(g)?;
        far_jump_16(g, selector::CODE64, LONG_ENTRY as u32)
    })?;
    guest.part(64, LONG_ENTRY, LONG_ENTRY, |g| {
        g.mov(eax, i32::from(selector::DATA))?;
        g.mov(ds, eax)?;
        g.mov(es, eax)?;
        g.mov(ss, eax)?;
        g.mov(rsp, layout::STACK_2)?;
        g.lidt(fword_ptr(IDT_POINTER))?;
        g.jmp(layout::CODE_2)
    })
}

/// CR4, CR3, EFER and CR0 of long mode, from 16-bit code at CPL 0.
pub(crate) fn long_mode_bits(g: &mut Guest) -> Assembled {
    g.mov(eax, 0x620)?;
    g.mov(cr4, eax)?;
    g.mov(eax, layout::PML4 as i32)?;
    g.mov(cr3, eax)?;
    g.mov(ecx, EFER)?;
    g.rdmsr()?;
    g.or(eax, 0x900)?;
    g.wrmsr()?;
    g.mov(eax, 0x8001_0033u32)?;
    g.mov(cr0, eax)
}

/// JMP FAR with a 32-bit offset from 16-bit code: 66 EA offset selector.
pub(crate) fn far_jump_16(g: &mut Guest, selector: u16, offset: u32) -> Assembled {
    g.db(&[0x66, 0xea])?;
    g.db(&offset.to_le_bytes())?;
    g.db(&selector.to_le_bytes())
}
