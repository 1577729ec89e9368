//! x87, SSE, AVX, XSAVE: basic results and state (SDM vol. 1, 8-14).

use iced_x86::code_asm::*;

use crate::feature;
use crate::kit::{Assembled, Guest, vector};
use crate::layout;
use crate::payload::{Fact, Payload};

const DATA: u64 = layout::DATA;
const OUT: u64 = layout::DATA + 0x1000;

fn floats(values: [f32; 4]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn doubles(values: [f64; 2]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn halves(bytes: &[u8]) -> [u64; 2] {
    let word = |at: usize| {
        let mut half = [0; 8];
        half.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(half)
    };
    [word(0), word(8)]
}

/// Reports sixteen bytes at `OUT`.
fn report_16(g: &mut Guest, expected: &[u8]) -> Assembled {
    for (index, value) in halves(expected).into_iter().enumerate() {
        g.mov(rbx, qword_ptr(OUT + 8 * index as u64))?;
        g.report64(rbx, value)?;
    }
    Ok(())
}

fn report_xmm(g: &mut Guest, register: AsmRegisterXmm, expected: &[u8]) -> Assembled {
    g.movups(xmmword_ptr(OUT), register)?;
    report_16(g, expected)
}

pub(super) fn x87() -> Payload {
    Guest::long("x87: extended precision, rounding, comparisons, stack faults, environment", |g| {
        let report_tbyte = |g: &mut Guest, mantissa: u64, high: u32| -> Assembled {
            g.fstp(tbyte_ptr(OUT))?;
            g.mov(rbx, qword_ptr(OUT))?;
            g.report64(rbx, mantissa)?;
            g.movzx(eax, word_ptr(OUT + 8))?;
            g.report(high)
        };
        g.fninit()?;
        g.fldpi()?;
        g.fld1()?;
        g.faddp(st1, st0)?;
        report_tbyte(g, 0x8487_ed51_10b4_611a, 0x4001)?;
        g.fld1()?;
        g.fadd_2(st0, st0)?;
        g.fsqrt()?;
        report_tbyte(g, 0xb504_f333_f9de_6484, 0x3fff)?;
        g.fld1()?;
        g.fchs()?;
        report_tbyte(g, 0x8000_0000_0000_0000, 0xbfff)?;
        // 2.5 to an integer in each rounding mode.
        g.place(DATA, &2.5f64.to_le_bytes());
        for (control, expected) in [(0x37f, 2), (0x77f, 2), (0xb7f, 3), (0xf7f, 2)] {
            g.mov(dword_ptr(OUT), control)?;
            g.fldcw(word_ptr(OUT))?;
            g.fld(qword_ptr(DATA))?;
            g.fistp(dword_ptr(OUT))?;
            g.mov(eax, dword_ptr(OUT))?;
            g.report(expected)?;
        }
        g.fninit()?;
        // 1 < 2: FCOMI sets CF; FCOM sets C0; unordered sets all.
        g.fld1()?;
        g.fadd_2(st0, st0)?;
        g.fld1()?;
        g.fcomi(st0, st1)?;
        g.report_flags(0x45, 1)?;
        g.fcom_2(st0, st1)?;
        g.fnstsw(ax)?;
        g.movzx(eax, ax)?;
        g.report(0x3100)?;
        g.fninit()?;
        // Underflow of the stack: IE and SF, the default NaN.
        g.fstp(qword_ptr(OUT))?;
        g.mov(rbx, qword_ptr(OUT))?;
        g.report64(rbx, 0xfff8_0000_0000_0000)?;
        g.fnstsw(ax)?;
        g.movzx(eax, ax)?;
        g.report(0x0841)?;
        g.fnclex()?;
        // FBSTP.
        g.mov(dword_ptr(OUT), 1_234_567)?;
        g.fninit()?;
        g.fild(dword_ptr(OUT))?;
        g.fbstp(tbyte_ptr(OUT))?;
        g.mov(rbx, qword_ptr(OUT))?;
        g.report64(rbx, 0x0123_4567)?;
        // The tag word of one valid register, in FNSTENV's form.
        g.fld1()?;
        g.fnstenv(ptr(OUT))?;
        g.movzx(eax, word_ptr(OUT + 8))?;
        g.report(0x3fff)?;
        g.fninit()
    })
}

pub(super) fn mmx() -> Payload {
    Guest::long("MMX shares the x87 registers; EMMS", |g| {
        g.place_u64(DATA, 0x00ff_7fff_0001_8000);
        g.place_u64(DATA + 8, 0x0001_0001_ffff_ffff);
        g.fninit()?;
        g.movq(mm0, qword_ptr(DATA))?;
        g.paddsw(mm0, qword_ptr(DATA + 8))?;
        g.movq(rbx, mm0)?;
        g.report64(rbx, 0x0100_7fff_0000_8000)?;
        // All abridged tags are valid, and the exponent of what was written is all ones.
        g.fxsave(ptr(OUT + 0x200))?;
        g.movzx(eax, byte_ptr(OUT + 0x204))?;
        g.report(0xff)?;
        g.movzx(eax, word_ptr(OUT + 0x200 + 40))?;
        g.report(0xffff)?;
        g.emms()?;
        g.fxsave(ptr(OUT + 0x200))?;
        g.movzx(eax, byte_ptr(OUT + 0x204))?;
        g.report(0)?;
        g.fninit()
    })
}

pub(super) fn sse() -> Payload {
    Guest::long("SSE and SSE2: arithmetic, conversions, comparisons, MXCSR flags", |g| {
        let (a, b) = ([1.5f32, -2.0, 3.25, 1e30], [0.5f32, 4.0, -1.25, 1e30]);
        g.place(DATA, &floats(a));
        g.place(DATA + 16, &floats(b));
        let pairs = |f: fn(f32, f32) -> f32| floats(std::array::from_fn(|i| f(a[i], b[i])));
        g.movaps(xmm0, xmmword_ptr(DATA))?;
        g.addps(xmm0, xmmword_ptr(DATA + 16))?;
        report_xmm(g, xmm0, &pairs(|x, y| x + y))?;
        g.movaps(xmm1, xmmword_ptr(DATA))?;
        g.mulps(xmm1, xmmword_ptr(DATA + 16))?;
        report_xmm(g, xmm1, &pairs(|x, y| x * y))?;
        g.movaps(xmm2, xmmword_ptr(DATA))?;
        g.maxps(xmm2, xmmword_ptr(DATA + 16))?;
        report_xmm(g, xmm2, &pairs(f32::max))?;
        // Overflow and inexact are flagged: 1e30 * 1e30.
        g.stmxcsr(dword_ptr(OUT))?;
        g.mov(eax, dword_ptr(OUT))?;
        g.report(0x1f80 | 1 << 3 | 1 << 5)?;
        g.mov(dword_ptr(OUT), 0x1f80)?;
        g.ldmxcsr(dword_ptr(OUT))?;
        g.place(DATA + 32, &doubles([2.0, 1e300]));
        g.sqrtpd(xmm3, xmmword_ptr(DATA + 32))?;
        report_xmm(g, xmm3, &doubles([2f64.sqrt(), 1e300f64.sqrt()]))?;
        // NaN and out of range give the integer indefinite; UCOMISS of a NaN is unordered.
        g.mov(eax, 0x7fc0_0000)?;
        g.movd(xmm4, eax)?;
        g.cvttss2si(eax, xmm4)?;
        g.report(0x8000_0000)?;
        g.ucomiss(xmm4, xmm4)?;
        g.report_flags(0x45, 0x45)?;
        g.mov(eax, -7)?;
        g.cvtsi2sd(xmm5, eax)?;
        g.cvttsd2si(rbx, xmm5)?;
        g.report64(rbx, -7i64 as u64)?;
        g.mov(dword_ptr(OUT), 0x1f80)?;
        g.ldmxcsr(dword_ptr(OUT))?;
        // Integers.
        g.place(DATA + 48, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        g.movdqa(xmm6, xmmword_ptr(DATA + 48))?;
        g.paddb(xmm6, xmm6)?;
        report_xmm(g, xmm6, &std::array::from_fn::<u8, 16, _>(|i| 2 * (i as u8 + 1)))?;
        g.pmovmskb(eax, xmm0)?;
        g.pshufd(xmm7, xmmword_ptr(DATA + 48), 0b00_01_10_11)?;
        report_xmm(g, xmm7, &[13, 14, 15, 16, 9, 10, 11, 12, 5, 6, 7, 8, 1, 2, 3, 4])?;
        g.psadbw(xmm7, xmm6)?;
        g.movd(eax, xmm7)?;
        let first = [13u32, 14, 15, 16, 9, 10, 11, 12];
        let sum = (0..8).map(|i| first[i].abs_diff(2 * (i as u32 + 1))).sum();
        g.report(sum)?;
        g.pcmpeqd(xmm15, xmm15)?;
        g.fact(Fact::Xmm { number: 15, value: u128::MAX });
        g.xor(eax, eax)?;
        g.xor(ebx, ebx)
    })
}

pub(super) fn fxsave() -> Payload {
    Guest::long("FXSAVE and FXRSTOR carry x87 and XMM state; alignment; reserved MXCSR bits", |g| {
        let area = DATA + 0x200;
        g.fninit()?;
        g.fldpi()?;
        g.mov(eax, 0x4711)?;
        g.movd(xmm9, eax)?;
        g.fxsave64(ptr(area))?;
        g.movzx(eax, word_ptr(area))?;
        g.report(0x37f)?;
        g.movzx(eax, word_ptr(area + 2))?;
        g.report(0x3800)?;
        g.movzx(eax, byte_ptr(area + 4))?;
        g.report(0x80)?;
        g.mov(eax, dword_ptr(area + 24))?;
        g.report(0x1f80)?;
        g.mov(eax, dword_ptr(area + 160 + 9 * 16))?;
        g.report(0x4711)?;
        g.fninit()?;
        g.xorps(xmm9, xmm9)?;
        g.fxrstor64(ptr(area))?;
        g.movd(eax, xmm9)?;
        g.report(0x4711)?;
        g.fstp(tbyte_ptr(OUT))?;
        g.mov(rbx, qword_ptr(OUT))?;
        g.report64(rbx, 0xc90f_daa2_2168_c235)?;
        g.fault(vector::GP, 0, |g| g.fxsave(ptr(area + 8)))?;
        g.mov(dword_ptr(area + 24), 0x8000_1f80u32 as i32)?;
        g.fault(vector::GP, 0, |g| g.fxrstor(ptr(area)))?;
        g.fninit()
    })
}

/// CR4.OSXSAVE and XCR0.
fn enable_xsave(g: &mut Guest, components: u32) -> Assembled {
    g.mov(rax, cr4)?;
    g.bts(rax, 18)?;
    g.mov(cr4, rax)?;
    g.mov(eax, components)?;
    g.xor(edx, edx)?;
    g.xor(ecx, ecx)?;
    g.xsetbv()
}

pub(super) fn xsave() -> Payload {
    Guest::long("XSETBV, XSAVE and XRSTOR: enabling, component bits, initial states", |g| {
        g.needs(feature::XSAVE);
        let area = DATA + 0x400;
        g.xor(ecx, ecx)?;
        g.fault(vector::UD, 0, |g| g.xgetbv())?;
        g.fault(vector::UD, 0, |g| g.xsetbv())?;
        enable_xsave(g, 3)?;
        g.xor(eax, eax)?;
        g.xgetbv()?;
        g.report(3)?;
        // x87 can't be off, AVX without SSE, no other register.
        for (register, components) in [(0, 0), (0, 2), (0, 5), (1, 3), (0, 1 << 30)] {
            g.mov(ecx, register)?;
            g.mov(eax, components)?;
            g.xor(edx, edx)?;
            g.fault(vector::GP, 0, |g| g.xsetbv())?;
        }
        g.fninit()?;
        g.fld1()?;
        g.mov(eax, 0x1357)?;
        g.movd(xmm3, eax)?;
        g.mov(eax, -1)?;
        g.mov(edx, -1)?;
        g.xsave64(ptr(area))?;
        g.mov(eax, dword_ptr(area + 512))?;
        g.and(eax, 3)?;
        g.report(3)?;
        g.mov(eax, dword_ptr(area + 160 + 3 * 16))?;
        g.report(0x1357)?;
        // Restoring with XSTATE_BV = 1 brings XMM to its initial state.
        g.mov(qword_ptr(area + 512), 1)?;
        g.mov(eax, 3)?;
        g.xor(edx, edx)?;
        g.xrstor64(ptr(area))?;
        g.movd(eax, xmm3)?;
        g.report(0)?;
        // Asked for SSE only: x87 stays.
        g.fninit()?;
        g.mov(qword_ptr(area + 512), 3)?;
        g.mov(eax, 2)?;
        g.xor(edx, edx)?;
        g.xrstor64(ptr(area))?;
        g.movd(eax, xmm3)?;
        g.report(0x1357)?;
        g.fnstsw(ax)?;
        g.movzx(eax, ax)?;
        g.report(0)?;
        g.fault(vector::GP, 0, |g| g.xsave(ptr(area + 16)))?;
        g.mov(qword_ptr(area + 512), 4)?;
        g.fault(vector::GP, 0, |g| g.xrstor(ptr(area)))?;
        g.mov(qword_ptr(area + 512), 3)?;
        g.mov(qword_ptr(area + 520), 1)?;
        g.fault(vector::GP, 0, |g| g.xrstor(ptr(area)))?;
        g.fninit()?;
        g.xorps(xmm3, xmm3)?;
        g.xor(ecx, ecx)?;
        g.xor(edx, edx)
    })
}

pub(super) fn avx() -> Payload {
    Guest::long("AVX: 256-bit results, upper halves of SSE and VEX.128, XCR0", |g| {
        g.needs(feature::XSAVE);
        g.needs(feature::AVX);
        g.place(DATA, &floats([1.0, 2.0, 3.0, 4.0]));
        g.place(DATA + 16, &floats([5.0, 6.0, 7.0, 8.0]));
        enable_xsave(g, 3)?;
        g.fault(vector::UD, 0, |g| g.vmovups(ymm0, ymmword_ptr(DATA)))?;
        enable_xsave(g, 7)?;
        g.vmovups(ymm0, ymmword_ptr(DATA))?;
        g.vaddps(ymm1, ymm0, ymmword_ptr(DATA))?;
        let upper = |g: &mut Guest, register: AsmRegisterYmm, expected: &[u8]| {
            g.vextractf128(xmmword_ptr(OUT), register, 1)?;
            report_16(g, expected)
        };
        upper(g, ymm1, &floats([10.0, 12.0, 14.0, 16.0]))?;
        report_xmm(g, xmm1, &floats([2.0, 4.0, 6.0, 8.0]))?;
        // SSE leaves the upper half, VEX.128 clears it.
        g.addps(xmm1, xmm1)?;
        upper(g, ymm1, &floats([10.0, 12.0, 14.0, 16.0]))?;
        g.vaddps(xmm1, xmm1, xmm1)?;
        upper(g, ymm1, &[0; 16])?;
        // Unaligned operands are fine, but not VMOVAPS's.
        g.vbroadcastss(ymm2, dword_ptr(DATA + 8))?;
        upper(g, ymm2, &floats([3.0; 4]))?;
        g.vaddps(ymm3, ymm2, ymmword_ptr(DATA + 1))?;
        g.fault(vector::GP, 0, |g| g.vmovaps(ymm3, ymmword_ptr(DATA + 16)))?;
        // XSAVE carries the upper halves.
        let area = DATA + 0x400;
        g.vmovups(ymm4, ymmword_ptr(DATA))?;
        g.mov(eax, 7)?;
        g.xor(edx, edx)?;
        g.xsave64(ptr(area))?;
        g.vzeroall()?;
        g.mov(eax, 7)?;
        g.xrstor64(ptr(area))?;
        upper(g, ymm4, &floats([5.0, 6.0, 7.0, 8.0]))?;
        g.vzeroupper()?;
        upper(g, ymm4, &[0; 16])?;
        g.mov(dword_ptr(OUT), 0x1f80)?;
        g.ldmxcsr(dword_ptr(OUT))?;
        g.vzeroall()?;
        g.xor(ecx, ecx)
    })
}

pub(super) fn avx2() -> Payload {
    Guest::long("AVX2: 256-bit integers, gathers, permutations, masked moves", |g| {
        g.needs(feature::XSAVE);
        g.needs(feature::AVX2);
        enable_xsave(g, 7)?;
        let words: Vec<u8> = (0..32u32).flat_map(|n| (n * 0x0101).to_le_bytes()).collect();
        g.place(DATA, &words);
        for (index, n) in [7u32, 6, 5, 4, 3, 2, 1, 0].into_iter().enumerate() {
            g.place(DATA + 0x100 + index as u64 * 4, &n.to_le_bytes());
        }
        let row = |values: [u32; 4]| -> Vec<u8> {
            values.iter().flat_map(|n| (n * 0x0101).to_le_bytes()).collect()
        };
        g.vmovdqu(ymm0, ymmword_ptr(DATA + 0x100))?;
        g.vpermd(ymm1, ymm0, ymmword_ptr(DATA))?;
        report_xmm(g, xmm1, &row([7, 6, 5, 4]))?;
        g.vpaddd(ymm1, ymm1, ymm1)?;
        g.vextracti128(xmmword_ptr(OUT), ymm1, 1)?;
        report_16(g, &row([6, 4, 2, 0]))?;
        // A gather of the doublewords 4 * 7, 4 * 6 ... and the mask it leaves.
        g.vpcmpeqd(ymm2, ymm2, ymm2)?;
        g.mov(eax, DATA as u32)?;
        g.vpslld(ymm3, ymm0, 2)?;
        g.vpgatherdd_3(ymm4, dword_ptr(rax + ymm3 * 4), ymm2)?;
        report_xmm(g, xmm4, &row([28, 24, 20, 16]))?;
        report_xmm(g, xmm2, &[0; 16])?;
        // VPMASKMOVD: elements off the mask are neither read nor fault.
        g.unmap(0x5_1000);
        g.place(0x5_0ff8, &[1, 0, 0, 0, 2, 0, 0, 0]);
        g.place_u64(DATA + 0x200, 0xffff_ffff_ffff_ffff);
        g.vmovdqu(xmm5, xmmword_ptr(DATA + 0x200))?;
        g.vpmaskmovd(xmm6, xmm5, xmmword_ptr(0x5_0ff8u32))?;
        report_xmm(g, xmm6, &[1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        g.vpmaskmovd(xmmword_ptr(0x5_0ff8u32), xmm5, xmm6)?;
        g.vpcmpeqd(xmm5, xmm5, xmm5)?;
        g.page_fault(0, 0x5_1000, |g| g.vpmaskmovd(xmm6, xmm5, xmmword_ptr(0x5_0ff8u32)))?;
        g.vzeroall()?;
        g.xor(ecx, ecx)
    })
}
