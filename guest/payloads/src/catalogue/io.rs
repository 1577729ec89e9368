//! Ports and memory-mapped devices, as a device sees them (SDM vol. 1, 18; vol. 2, IN, OUT, INS).

use iced_x86::code_asm::*;

use crate::kit::{Assembled, Guest, page, pf, vector};
use crate::layout::{self, selector};
use crate::payload::Direction::{MmioRead, MmioWrite, PortIn, PortOut};
use crate::payload::Payload;
use crate::ports;

const DATA: u64 = layout::DATA;

fn port_value(port: u16, width: u8) -> u64 {
    (0..u16::from(width)).rev().fold(0, |all, i| all << 8 | u64::from(ports::port_byte(port + i)))
}

fn device_value(offset: u64, width: u8) -> u64 {
    (0..u64::from(width)).rev().fold(0, |all, i| all << 8 | u64::from(ports::device_byte(offset + i)))
}

fn expect_in(g: &mut Guest, port: u16, width: u8) -> u32 {
    let value = port_value(port, width);
    g.expect_access(PortIn, port.into(), width, value);
    value as u32
}

fn expect_read(g: &mut Guest, offset: u64, width: u8) -> u64 {
    let value = device_value(offset, width);
    g.expect_access(MmioRead, layout::DEVICE + offset, width, value);
    value
}

fn expect_write(g: &mut Guest, offset: u64, width: u8, value: u64) {
    g.expect_access(MmioWrite, layout::DEVICE + offset, width, value);
}

pub(super) fn ports_of_every_width() -> Payload {
    Guest::long("IN and OUT of 1, 2 and 4 bytes, immediate and DX ports", |g| {
        g.mov(edx, u32::from(ports::DEVICE))?;
        g.mov(rax, -1i64)?;
        let value = expect_in(g, ports::DEVICE, 1);
        g.in_(al, dx)?;
        g.report(0xffff_ff00 | value)?;
        let value = expect_in(g, ports::DEVICE, 2);
        g.in_(ax, dx)?;
        g.report(0xffff_0000 | value)?;
        let value = expect_in(g, ports::DEVICE, 4);
        g.in_(eax, dx)?;
        // A 32-bit result clears the upper half.
        g.mov(rbx, rax)?;
        g.report64(rbx, value.into())?;
        g.inc(edx)?;
        let value = expect_in(g, ports::DEVICE + 1, 4);
        g.in_(eax, dx)?;
        g.report(value)?;
        g.mov(eax, 0x8765_4321u32)?;
        for (width, value) in [(1, 0x21), (2, 0x4321), (4, 0x8765_4321)] {
            g.expect_access(PortOut, (ports::DEVICE + 1).into(), width, value);
        }
        g.out(dx, al)?;
        g.out(dx, ax)?;
        g.out(dx, eax)?;
        for (width, value) in [(1, 0x21), (2, 0x4321), (4, 0x8765_4321)] {
            g.expect_access(PortOut, 0x80, width, value);
        }
        g.out(0x80, al)?;
        g.out(0x80, ax)?;
        g.out(0x80, eax)?;
        // Nobody answers: all ones.
        g.xor(eax, eax)?;
        g.expect_access(PortIn, 0x3000, 2, 0xffff);
        g.mov(edx, 0x3000)?;
        g.in_(ax, dx)?;
        g.report(0xffff)?;
        g.expect_access(PortIn, 0xffff, 1, 0xff);
        g.mov(edx, 0xffff)?;
        g.in_(al, dx)?;
        g.report(0xffff)
    })
}

fn counter(n: u64, width: u8) -> u64 {
    (0x10 + n) * (0x0101_0101 & ((1u64 << (8 * width)) - 1))
}

pub(super) fn string_ports() -> Payload {
    Guest::long("INS and OUTS, repeated, both directions, page-crossing, partly faulting", |g| {
        g.mov(edx, u32::from(ports::COUNTER))?;
        g.mov(edi, DATA as u32 + 0xffa)?;
        g.mov(ecx, 4)?;
        for n in 1..=4 {
            g.expect_access(PortIn, ports::COUNTER.into(), 4, counter(n, 4));
        }
        g.rep().insd()?;
        g.mov(rbx, qword_ptr(DATA + 0xffa))?;
        g.report64(rbx, 0x1212_1212_1111_1111)?;
        g.mov(rbx, qword_ptr(DATA + 0x1002))?;
        g.report64(rbx, 0x1414_1414_1313_1313)?;
        g.mov(eax, edi)?;
        g.report(DATA as u32 + 0x100a)?;
        g.mov(eax, ecx)?;
        g.report(0)?;
        // Backwards, words.
        g.std()?;
        g.mov(edi, DATA as u32 + 0x20)?;
        g.mov(ecx, 3)?;
        for n in 5..=7 {
            g.expect_access(PortIn, ports::COUNTER.into(), 2, counter(n, 2));
        }
        g.rep().insw()?;
        g.cld()?;
        g.mov(rbx, qword_ptr(DATA + 0x1c))?;
        g.report64(rbx, 0x0000_1515_1616_1717)?;
        g.expect_access(PortIn, ports::COUNTER.into(), 1, 0x18);
        g.insb()?;
        // OUTS from what was read.
        g.mov(edx, u32::from(ports::DEVICE))?;
        g.mov(esi, DATA as u32 + 0xffa)?;
        g.mov(ecx, 8)?;
        for n in [0x1111, 0x1111, 0x1212, 0x1212, 0x1313, 0x1313, 0x1414, 0x1414] {
            g.expect_access(PortOut, ports::DEVICE.into(), 2, n);
        }
        g.rep().outsw()?;
        g.mov(eax, esi)?;
        g.report(DATA as u32 + 0x100a)?;
        // The second element faults: the first was output, RCX and RSI say so.
        g.unmap(0x5_1000);
        g.place(0x5_0ffc, &[1, 2, 3, 4]);
        g.mov(esi, 0x5_0ffc)?;
        g.mov(ecx, 5)?;
        g.expect_access(PortOut, ports::DEVICE.into(), 4, 0x0403_0201);
        g.page_fault(0, 0x5_1000, |g| g.rep().outsd())?;
        g.mov(eax, ecx)?;
        g.report(4)?;
        g.mov(eax, esi)?;
        g.report(0x5_1000)?;
        // INS checks its destination before it reads the port.
        g.mov(edi, 0x5_1000)?;
        g.page_fault(pf::W, 0x5_1000, |g| g.insb())
    })
}

pub(super) fn permission_bitmap() -> Payload {
    Guest::long("the I/O permission bitmap and IOPL at CPL 3", |g| {
        // Ports 0-0xff: 0xe0-0xe3 and 0x80 open; bitmap behind the TSS, limit made to reach it.
        let bitmap = layout::TSS + u64::from(layout::TSS_BYTES);
        for byte in 0..0x20 {
            let open: u8 = match byte {
                0x10 => 0xfe,
                0x1c => 0xf0,
                _ => 0xff,
            };
            g.place(bitmap + byte, &[open]);
        }
        g.place(bitmap + 0x20, &[0xff]);
        let descriptor = layout::GDT + u64::from(selector::TSS);
        g.mov(word_ptr(descriptor), i32::from(layout::TSS_BYTES) + 0x20)?;
        g.mov(byte_ptr(descriptor + 5), 0x89)?;
        g.mov(eax, i32::from(selector::TSS))?;
        g.ltr(ax)?;
        g.user(0, |g| {
            g.mov(eax, 0x77)?;
            g.report(0x77)?;
            g.expect_access(PortOut, 0x80, 1, 0x77);
            g.out(0x80, al)?;
            g.fault(vector::GP, 0, |g| g.out(0x80, ax))?;
            g.fault(vector::GP, 0, |g| g.in_(al, 0x81))?;
            // Beyond the bitmap.
            g.mov(edx, u32::from(ports::DEVICE))?;
            g.fault(vector::GP, 0, |g| g.in_(al, dx))
        })?;
        g.user(3 << 12, |g| {
            g.mov(edx, u32::from(ports::DEVICE))?;
            expect_in(g, ports::DEVICE, 1);
            g.in_(al, dx)
        })
    })
}

pub(super) fn mmio_of_every_width() -> Payload {
    Guest::long("loads and stores of 1, 2, 4, 8 and 16 bytes on a device", |g| {
        g.mov(ebx, layout::DEVICE as u32)?;
        g.mov(rax, -1i64)?;
        let value = expect_read(g, 0, 1);
        g.mov(al, byte_ptr(rbx))?;
        g.report(0xffff_ff00 | value as u32)?;
        let value = expect_read(g, 2, 2);
        g.mov(ax, word_ptr(rbx + 2))?;
        g.report(0xffff_0000 | value as u32)?;
        let value = expect_read(g, 4, 4);
        g.mov(eax, dword_ptr(rbx + 4))?;
        g.report(value as u32)?;
        let value = expect_read(g, 8, 8);
        g.mov(rcx, qword_ptr(rbx + 8))?;
        g.report64(rcx, value)?;
        let value = expect_read(g, 0x11, 1);
        g.movzx(eax, byte_ptr(rbx + 0x11))?;
        g.report(value as u32)?;
        let value = expect_read(g, 0x1b, 1);
        g.movsx(eax, byte_ptr(rbx + 0x1b))?;
        g.report(value as u8 as i8 as u32)?;
        g.mov(rcx, 0x1122_3344_5566_7788u64)?;
        expect_write(g, 0x20, 1, 0x88);
        g.mov(byte_ptr(rbx + 0x20), cl)?;
        expect_write(g, 0x22, 2, 0x7788);
        g.mov(word_ptr(rbx + 0x22), cx)?;
        expect_write(g, 0x24, 4, 0x5566_7788);
        g.mov(dword_ptr(rbx + 0x24), ecx)?;
        expect_write(g, 0x28, 8, 0x1122_3344_5566_7788);
        g.mov(qword_ptr(rbx + 0x28), rcx)?;
        expect_write(g, 0x30, 4, 0xffff_fff9);
        g.mov(dword_ptr(rbx + 0x30), -7)?;
        expect_write(g, 0x38, 8, 0xffff_ffff_ffff_fff9);
        g.mov(qword_ptr(rbx + 0x38), -7)?;
        // The device kept it.
        g.expect_access(MmioRead, layout::DEVICE + 0x28, 8, 0x1122_3344_5566_7788);
        g.mov(rdx, qword_ptr(rbx + 0x28))?;
        g.report64(rdx, 0x1122_3344_5566_7788)
    })
}

pub(super) fn mmio_vectors() -> Payload {
    Guest::long("16-byte moves on a device come in pieces of 8", |g| {
        g.mov(ebx, layout::DEVICE as u32)?;
        let low = expect_read(g, 0x40, 8);
        let high = expect_read(g, 0x48, 8);
        g.movdqu(xmm0, xmmword_ptr(rbx + 0x40))?;
        g.movq(rcx, xmm0)?;
        g.report64(rcx, low)?;
        expect_write(g, 0x60, 8, low);
        expect_write(g, 0x68, 8, high);
        g.movups(xmmword_ptr(rbx + 0x60), xmm0)?;
        let value = expect_read(g, 0x80, 8);
        expect_read(g, 0x88, 8);
        g.movaps(xmm1, xmmword_ptr(rbx + 0x80))?;
        expect_write(g, 0x90, 8, value);
        expect_write(g, 0x98, 8, device_value(0x88, 8));
        g.movdqa(xmmword_ptr(rbx + 0x90), xmm1)
    })
}

pub(super) fn mmio_misaligned() -> Payload {
    Guest::long("misaligned accesses on a device; across pages and into RAM", |g| {
        g.mov(ebx, layout::DEVICE as u32)?;
        let value = expect_read(g, 0x101, 2);
        g.movzx(eax, word_ptr(rbx + 0x101))?;
        g.report(value as u32)?;
        let value = expect_read(g, 0x103, 4);
        g.mov(eax, dword_ptr(rbx + 0x103))?;
        g.report(value as u32)?;
        let value = expect_read(g, 0x10d, 8);
        g.mov(rcx, qword_ptr(rbx + 0x10d))?;
        g.report64(rcx, value)?;
        expect_write(g, 0x201, 4, 0x0c0b_0a09);
        g.mov(dword_ptr(rbx + 0x201), 0x0c0b_0a09)?;
        // Across pages of the device: one access in each.
        expect_read(g, 0xffe, 2);
        expect_read(g, 0x1000, 2);
        g.mov(eax, dword_ptr(rbx + 0xffe))?;
        g.report(device_value(0xffe, 4) as u32)?;
        expect_write(g, 0x1ffc, 4, 0x5566_7788);
        expect_write(g, 0x2000, 4, 0x1122_3344);
        g.mov(rcx, 0x1122_3344_5566_7788u64)?;
        g.mov(qword_ptr(rbx + 0x1ffc), rcx)?;
        // From RAM into the device: the page after 0x50000 is the device's.
        let entry = Guest::entry_of(0x5_1000);
        g.place_u64(entry, layout::DEVICE | page::P | page::W);
        g.place(0x5_0ffc, &[1, 2, 3, 4]);
        expect_read(g, 0, 4);
        g.mov(rcx, qword_ptr(0x5_0ffcu32))?;
        g.report64(rcx, device_value(0, 4) << 32 | 0x0403_0201)?;
        expect_write(g, 0, 2, 0x0807);
        g.mov(dword_ptr(0x5_0ffeu32), 0x0807_0605)?;
        g.mov(eax, dword_ptr(0x5_0ffcu32))?;
        g.report(0x0605_0201)
    })
}

pub(super) fn mmio_read_modify_write() -> Payload {
    Guest::long("read-modify-write on a device: one read, one write", |g| {
        g.mov(ebx, layout::DEVICE as u32)?;
        let rmw = |g: &mut Guest,
                   offset: u64,
                   width: u8,
                   f: fn(u64) -> u64,
                   body: &dyn Fn(&mut Guest) -> Assembled| {
            let value = expect_read(g, offset, width);
            let mask = u64::MAX >> (64 - 8 * u32::from(width));
            expect_write(g, offset, width, f(value) & mask);
            body(g)
        };
        rmw(g, 0x300, 4, |v| v + 5, &|g| g.add(dword_ptr(rbx + 0x300), 5))?;
        rmw(g, 0x308, 1, |v| v | 0x80, &|g| g.or(byte_ptr(rbx + 0x308), 0x80))?;
        rmw(g, 0x310, 8, |v| v.wrapping_sub(1), &|g| g.dec(qword_ptr(rbx + 0x310)))?;
        rmw(g, 0x318, 2, |v| !v, &|g| g.not(word_ptr(rbx + 0x318)))?;
        rmw(g, 0x320, 4, |v| v << 3, &|g| g.shl(dword_ptr(rbx + 0x320), 3))?;
        rmw(g, 0x328, 4, |v| v | 1 << 9, &|g| g.bts(dword_ptr(rbx + 0x328), 9))?;
        // Reads only.
        let value = expect_read(g, 0x330, 4);
        g.cmp(dword_ptr(rbx + 0x330), value as i32)?;
        g.report_if(|a| a.sete(al))?;
        expect_read(g, 0x338, 1);
        g.test(byte_ptr(rbx + 0x338), 0)?;
        g.report_if(|a| a.sete(al))?;
        // MOV with a register of the address: the old base is used.
        let value = expect_read(g, 0x340, 4);
        g.mov(ebx, dword_ptr(rbx + 0x340))?;
        g.mov(eax, ebx)?;
        g.report(value as u32)
    })
}

pub(super) fn mmio_operands() -> Payload {
    Guest::long("PUSH, POP, IMUL and CMOV with operands on a device; an indirect jump", |g| {
        g.mov(ebx, layout::DEVICE as u32)?;
        let value = expect_read(g, 0x400, 8);
        g.push(qword_ptr(rbx + 0x400))?;
        g.pop(rcx)?;
        g.report64(rcx, value)?;
        g.mov(ecx, 0x4711)?;
        g.push(rcx)?;
        expect_write(g, 0x408, 8, 0x4711);
        g.pop(qword_ptr(rbx + 0x408))?;
        let mut target = g.create_label();
        g.lea(rcx, ptr(target))?;
        g.mov(qword_ptr(DATA), rcx)?;
        g.jmp(qword_ptr(DATA))?;
        g.ud2()?;
        g.set_label(&mut target)?;
        let value = expect_read(g, 0x410, 4);
        g.mov(eax, 2)?;
        g.imul_2(eax, dword_ptr(rbx + 0x410))?;
        g.report((value as u32).wrapping_mul(2))?;
        let value = expect_read(g, 0x418, 4);
        g.cmp(ebx, ebx)?;
        g.cmove(eax, dword_ptr(rbx + 0x418))?;
        g.report(value as u32)
    })
}

pub(super) fn mmio_strings() -> Payload {
    Guest::long("REP MOVS and STOS to, from and between device registers", |g| {
        g.place(DATA, &[1, 2, 3, 4, 5, 6, 7, 8]);
        g.mov(esi, DATA as u32)?;
        g.mov(edi, layout::DEVICE as u32 + 0x500)?;
        g.mov(ecx, 2)?;
        expect_write(g, 0x500, 4, 0x0403_0201);
        expect_write(g, 0x504, 4, 0x0807_0605);
        g.rep().movsd()?;
        g.mov(esi, layout::DEVICE as u32 + 0x600)?;
        g.mov(edi, DATA as u32 + 0x20)?;
        g.mov(ecx, 3)?;
        for n in 0..3 {
            expect_read(g, 0x600 + n * 2, 2);
        }
        g.rep().movsw()?;
        g.mov(rbx, qword_ptr(DATA + 0x20))?;
        g.report64(rbx, device_value(0x600, 6))?;
        g.mov(eax, 0x5a5a)?;
        g.mov(edi, layout::DEVICE as u32 + 0x700)?;
        g.mov(ecx, 3)?;
        for n in 0..3 {
            expect_write(g, 0x700 + n, 1, 0x5a);
        }
        g.rep().stosb()?;
        g.mov(eax, edi)?;
        g.report(layout::DEVICE as u32 + 0x703)?;
        // Register to register.
        g.mov(esi, layout::DEVICE as u32 + 0x608)?;
        let value = expect_read(g, 0x608, 8);
        expect_write(g, 0x703, 8, value);
        g.movsq()?;
        let value = expect_read(g, 0x610, 4);
        g.lodsd()?;
        g.report(value as u32)?;
        // SCAS stops at the first equal byte.
        let at = (0..256).find(|n| ports::device_byte(0x800 + n) == 0x26).expect("7 is odd");
        g.mov(edi, layout::DEVICE as u32 + 0x800)?;
        g.mov(ecx, 0x100)?;
        g.mov(eax, 0x26)?;
        for n in 0..=at {
            expect_read(g, 0x800 + n, 1);
        }
        g.repne().scasb()?;
        g.mov(eax, ecx)?;
        g.report(0x100 - at as u32 - 1)
    })
}
