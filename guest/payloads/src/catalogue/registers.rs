//! MSRs and CPUID (SDM vol. 4; vol. 2A, CPUID).

use iced_x86::code_asm::*;

use crate::feature;
use crate::kit::{Assembled, Guest, vector};
use crate::layout;
use crate::payload::Payload;

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const PAT: u32 = 0x277;
const HIGH: u64 = 0xffff_8123_4567_89ab;

fn refused(g: &mut Guest, msr: u32, value: u64) -> Assembled {
    g.mov(ecx, msr)?;
    g.mov(eax, value as u32)?;
    g.mov(edx, (value >> 32) as u32)?;
    g.fault(vector::GP, 0, |g| g.wrmsr())
}

fn read(g: &mut Guest, msr: u32, value: u64) -> Assembled {
    g.mov(ecx, msr)?;
    g.rdmsr()?;
    g.report(value as u32)?;
    g.mov(eax, edx)?;
    g.report((value >> 32) as u32)
}

fn round_trip(g: &mut Guest, msr: u32, value: u64) -> Assembled {
    g.write_msr(msr, value)?;
    read(g, msr, value)
}

pub(super) fn msr_round_trips() -> Payload {
    Guest::long("MSRs keep what is written, all 64 bits", |g| {
        round_trip(g, STAR, 0x0123_4567_89ab_cdef)?;
        round_trip(g, LSTAR, HIGH)?;
        round_trip(g, CSTAR, HIGH + 1)?;
        round_trip(g, SFMASK, 0x0004_7700)?;
        round_trip(g, FS_BASE, HIGH + 2)?;
        round_trip(g, GS_BASE, HIGH + 3)?;
        round_trip(g, KERNEL_GS_BASE, HIGH + 4)?;
        round_trip(g, 0x174, 0x10)?;
        round_trip(g, PAT, 0x0007_0406_0007_0401)?;
        round_trip(g, PAT, 0x0007_0406_0007_0406)?;
        // The upper half of the registers is cleared by RDMSR.
        g.mov(rax, -1i64)?;
        g.mov(rdx, -1i64)?;
        g.mov(ecx, 0x174)?;
        g.rdmsr()?;
        g.mov(rbx, rax)?;
        g.report64(rbx, 0x10)?;
        g.report64(rdx, 0)?;
        g.write_msr(0x174, 0)?;
        g.swapgs()?;
        read(g, GS_BASE, HIGH + 4)?;
        read(g, KERNEL_GS_BASE, HIGH + 3)?;
        for msr in [FS_BASE, GS_BASE, KERNEL_GS_BASE] {
            g.write_msr(msr, 0)?;
        }
        Ok(())
    })
}

pub(super) fn msr_refusals() -> Payload {
    Guest::long("#GP(0) on MSRs that are not there and on values that may not be", |g| {
        g.mov(ecx, 0x4fff_0000)?;
        g.fault(vector::GP, 0, |g| g.rdmsr())?;
        g.fault(vector::GP, 0, |g| g.wrmsr())?;
        const HOLE: u64 = 0x8000_0000_0000;
        for msr in [LSTAR, CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE] {
            refused(g, msr, HOLE)?;
        }
        refused(g, EFER, 0xd00 | 1 << 3)?;
        refused(g, EFER, 1 << 40)?;
        // PAT types 2 and 3 are reserved, so are bits 7:3 of each field.
        refused(g, PAT, 2)?;
        refused(g, PAT, 3 << 56)?;
        refused(g, PAT, 0x08)?;
        // The local APIC's base beyond the physical address width, and x2APIC without enable.
        refused(g, 0x1b, 0xfee0_0900 | 1 << 62)?;
        refused(g, 0x1b, 0xfee0_0500)?;
        // MTRR: type 2 does not exist; capabilities can't be written.
        refused(g, 0x2ff, 2)?;
        refused(g, 0xfe, 0)?;
        // All of it left what was there.
        read(g, EFER, 0xd00)?;
        read(g, PAT, 0x0007_0406_0007_0406)?;
        read(g, LSTAR, 0)
    })
}

pub(super) fn mtrrs() -> Payload {
    Guest::long("MTRRs keep what firmware writes", |g| {
        g.mov(ecx, 0xfe)?;
        g.rdmsr()?;
        g.and(eax, 0x100)?;
        g.report(0x100)?;
        round_trip(g, 0x200, 0x8000_0000)?;
        round_trip(g, 0x201, 0xf_8000_0800)?;
        round_trip(g, 0x250, 0x0606_0606_0606_0606)?;
        round_trip(g, 0x26f, 0x0505_0505_0505_0505)?;
        round_trip(g, 0x2ff, 0xc06)?;
        refused(g, 0x250, 0x0606_0606_0606_0602)?;
        g.write_msr(0x200, 0)?;
        g.write_msr(0x201, 0)
    })
}

pub(super) fn bases() -> Payload {
    Guest::long("FS and GS bases: MSRs, FSGSBASE instructions, segment loads", |g| {
        g.needs(feature::FSGSBASE);
        g.place_u64(layout::DATA + 0x10, 0x1010);
        g.place_u64(layout::DATA + 0x20, 0x2020);
        g.write_msr(FS_BASE, layout::DATA)?;
        g.mov(eax, dword_ptr(0x10u32).fs())?;
        g.report(0x1010)?;
        g.mov(eax, 0x20)?;
        g.mov(eax, dword_ptr(rax).fs())?;
        g.report(0x2020)?;
        g.fault(vector::UD, 0, |g| g.rdfsbase(rax))?;
        g.mov(rax, cr4)?;
        g.bts(rax, 16)?;
        g.mov(cr4, rax)?;
        g.rdfsbase(rbx)?;
        g.report64(rbx, layout::DATA)?;
        g.mov(rbx, HIGH)?;
        g.wrgsbase(rbx)?;
        read(g, GS_BASE, HIGH)?;
        // The 32-bit forms zero-extend.
        g.wrgsbase(ebx)?;
        read(g, GS_BASE, HIGH & 0xffff_ffff)?;
        g.mov(rbx, 0x8000_0000_0000u64)?;
        g.fault(vector::GP, 0, |g| g.wrfsbase(rbx))?;
        // A 67 prefix wraps the effective address before the base is added.
        g.mov(rbx, 0xffff_ffff_0000_0010u64)?;
        g.mov(eax, dword_ptr(ebx).fs())?;
        g.report(0x1010)?;
        // Loading the selector replaces the base by the descriptor's.
        g.mov(eax, i32::from(layout::selector::DATA))?;
        g.mov(fs, eax)?;
        g.mov(gs, eax)?;
        read(g, FS_BASE, 0)?;
        read(g, GS_BASE, 0)
    })
}

pub(super) fn tsc_aux() -> Payload {
    Guest::long("RDTSCP gives TSC_AUX", |g| {
        g.needs(feature::RDTSCP);
        round_trip(g, TSC_AUX, 0x89ab_cdef)?;
        g.rdtscp()?;
        g.mov(eax, ecx)?;
        g.report(0x89ab_cdef)?;
        g.xor(edx, edx)
    })
}

pub(super) fn cpuid() -> Payload {
    Guest::long("CPUID: maxima, what long mode implies, OSXSAVE and APIC bits follow state", |g| {
        let leaf = |g: &mut Guest, leaf: u32, subleaf: u32| -> Assembled {
            g.mov(eax, leaf)?;
            g.mov(ecx, subleaf)?;
            g.cpuid()
        };
        leaf(g, 0, 0)?;
        g.cmp(eax, 0xd)?;
        g.report_if(|a| a.setae(al))?;
        leaf(g, 0x8000_0000, 0)?;
        g.cmp(eax, 0x8000_0008u32 as i32)?;
        g.report_if(|a| a.setae(al))?;
        // FPU TSC MSR PAE CX8 APIC PGE CMOV FXSR SSE SSE2.
        let basic = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 13 | 1 << 15 | 7 << 24;
        leaf(g, 1, 0)?;
        g.mov(eax, edx)?;
        g.and(eax, basic)?;
        g.report(basic as u32)?;
        // A hypervisor is present and signs its leaf.
        g.mov(eax, ecx)?;
        g.shr(eax, 31)?;
        g.report(1)?;
        g.mov(eax, ecx)?;
        g.and(eax, 1 << 27)?;
        g.report(0)?;
        // Local APIC id 0.
        g.mov(eax, ebx)?;
        g.shr(eax, 24)?;
        g.report(0)?;
        leaf(g, 0x4000_0000, 0)?;
        g.cmp(eax, 0x4000_0000)?;
        g.report_if(|a| a.setae(al))?;
        // NX, LM, SYSCALL.
        leaf(g, 0x8000_0001, 0)?;
        g.mov(eax, edx)?;
        g.and(eax, 1 << 20 | 1 << 29 | 1 << 11)?;
        g.report(1 << 20 | 1 << 29 | 1 << 11)?;
        // At least 36 physical and 48 linear bits.
        leaf(g, 0x8000_0008, 0)?;
        g.cmp(al, 36)?;
        g.report_if(|a| a.setae(al))?;
        leaf(g, 0x8000_0008, 0)?;
        g.movzx(eax, ah)?;
        g.cmp(eax, 48)?;
        g.report_if(|a| a.setae(al))?;
        // Upper halves are cleared.
        g.mov(rax, -1i64)?;
        g.mov(rbx, rax)?;
        g.mov(rdx, rax)?;
        leaf(g, 0, 0)?;
        g.or(rax, rbx)?;
        g.or(rax, rcx)?;
        g.or(rax, rdx)?;
        g.shr(rax, 32)?;
        g.report(0)?;
        g.xor(ebx, ebx)?;
        g.xor(ecx, ecx)?;
        g.xor(edx, edx)
    })
}

pub(super) fn cpuid_xsave() -> Payload {
    Guest::long("CPUID: OSXSAVE follows CR4, leaf 0xd follows XCR0", |g| {
        g.needs(feature::XSAVE);
        g.mov(rax, cr4)?;
        g.bts(rax, 18)?;
        g.mov(cr4, rax)?;
        g.mov(eax, 1)?;
        g.xor(ecx, ecx)?;
        g.cpuid()?;
        g.mov(eax, ecx)?;
        g.and(eax, 1 << 27)?;
        g.report(1 << 27)?;
        for features in [1, 3] {
            g.mov(eax, features)?;
            g.xor(edx, edx)?;
            g.xor(ecx, ecx)?;
            g.xsetbv()?;
            g.mov(eax, 0xd)?;
            g.xor(ecx, ecx)?;
            g.cpuid()?;
            g.mov(eax, ebx)?;
            g.report(576)?;
        }
        g.mov(eax, 0xd)?;
        g.xor(ecx, ecx)?;
        g.cpuid()?;
        g.and(eax, 3)?;
        g.report(3)?;
        g.cmp(ecx, 576)?;
        g.report_if(|a| a.setae(al))?;
        g.xor(ebx, ebx)?;
        g.xor(ecx, ecx)?;
        g.xor(edx, edx)
    })
}
