//! The unit itself: what a routine leaves behind, and what it does with exceptions.

use iced_x86::{Decoder, DecoderOptions, Instruction};
use interp::vector::{Exchange, VectorUnit};
use x86::XsaveArea;

use super::HostVectors;

fn decode(bytes: &[u8]) -> Instruction {
    Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode()
}

fn unit() -> HostVectors {
    HostVectors::new().expect("the host lends code memory")
}

/// Executes one instruction.
fn run(bytes: &[u8], area: &mut XsaveArea, exchange: &mut Exchange) {
    let mut unit = unit();
    let handle = unit.prepare(&decode(bytes)).expect("encodable");
    unit.execute(handle, area, exchange);
}

const ADDPS: &[u8] = &[0x0f, 0x58, 0xc1]; // addps xmm0, xmm1
const DIVSS: &[u8] = &[0xf3, 0x0f, 0x5e, 0xc1]; // divss xmm0, xmm1
const FDIV: &[u8] = &[0xd8, 0xf1]; // fdiv st, st(1)

#[test]
fn forms_that_differ_only_in_address_share_a_routine() {
    let mut unit = unit();
    let near = unit.prepare(&decode(&[0x0f, 0x58, 0x07])); // addps xmm0, [rdi]
    let far = unit.prepare(&decode(&[0x0f, 0x58, 0x44, 0x8b, 0x10])); // addps xmm0, [rbx+rcx*4+16]
    assert!(near.is_some());
    assert_eq!(near, far);
    assert_ne!(near, unit.prepare(&decode(&[0x0f, 0x58, 0x0f]))); // addps xmm1, [rdi]
}

#[test]
fn legacy_forms_keep_the_high_half_and_vex_forms_clear_it() {
    for (bytes, high) in [(ADDPS, 7), (&[0xc5, 0xf8, 0x58, 0xc1][..], 0)] {
        if bytes[0] == 0xc5 && !std::is_x86_feature_detected!("avx") {
            continue;
        }
        let mut area = XsaveArea::default();
        area.set_ymm_hi(0, 7);
        area.set_xmm(0, u128::from(1f32.to_bits()));
        area.set_xmm(1, u128::from(2f32.to_bits()));
        run(bytes, &mut area, &mut Exchange::default());
        assert_eq!(area.xmm(0), u128::from(3f32.to_bits()));
        assert_eq!(area.ymm_hi(0), high);
    }
}

#[test]
fn an_unmasked_simd_exception_leaves_the_image_alone() {
    let mut area = XsaveArea::default();
    area.set_xmm(0, u128::from(1f32.to_bits()));
    area.set_mxcsr(0x1f80 & !(1 << 9)); // divide by zero not masked
    let before = area.clone();
    let mut exchange = Exchange::default();
    run(DIVSS, &mut area, &mut exchange);
    assert_eq!((exchange.unmasked, exchange.raised), (4, 4));
    assert_eq!(area, before);
    // Masked, the same gives infinity and the sticky flag.
    area.set_mxcsr(0x1f80);
    run(DIVSS, &mut area, &mut Exchange::default());
    assert_eq!(area.xmm(0), u128::from(f32::INFINITY.to_bits()));
    assert_eq!(area.mxcsr(), 0x1f84);
}

#[test]
fn the_guests_rounding_is_used_and_the_hosts_comes_back() {
    let mut area = XsaveArea::default();
    area.set_mxcsr(0x1f80 | 2 << 13); // up
    area.set_xmm(0, u128::from(1f32.to_bits()));
    area.set_xmm(1, u128::from(1e-20f32.to_bits()));
    run(ADDPS, &mut area, &mut Exchange::default());
    assert_eq!(area.xmm(0), u128::from(1f32.to_bits() + 1));
    let one = std::hint::black_box(1f32);
    assert_eq!((one + std::hint::black_box(1e-20)).to_bits(), one.to_bits());
}

#[test]
fn an_unmasked_x87_exception_stays_pending_in_the_image_only() {
    let mut area = XsaveArea::default();
    area.set_fcw(0x37f & !4);
    area.0[4] = 3;
    area.0[32 + 7] = 0x80;
    area.0[32 + 8..32 + 10].copy_from_slice(&0x3fffu16.to_le_bytes());
    area.0[8] = 0x55;
    run(FDIV, &mut area, &mut Exchange::default());
    assert_eq!(area.fsw() & 0x8084, 0x8084, "1 / 0: ZE, ES, B");
    assert_eq!(area.0[8], 0x55, "FIP is the interpreter's");
    // Were it pending on the host, this would kill us.
    run(&[0xd9, 0xe8], &mut XsaveArea::default(), &mut Exchange::default());
}

#[test]
fn bad_mxcsr_bits_in_an_image_do_not_reach_the_host() {
    for bytes in [ADDPS, FDIV] {
        let mut area = XsaveArea::default();
        area.set_mxcsr(0xffff_1f80);
        run(bytes, &mut area, &mut Exchange::default());
    }
}

#[test]
fn features_the_guest_is_not_shown_are_refused() {
    let unit = unit();
    assert!(unit.supports(&decode(ADDPS)));
    let refused: [&[u8]; 3] = [
        &[0x0f, 0x0f, 0xc1, 0x9e],             // pfadd mm0, mm1: 3DNow!
        &[0xf2, 0x0f, 0x79, 0xc1],             // insertq xmm0, xmm1: SSE4A
        &[0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1], // vaddps zmm0, zmm0, zmm1
    ];
    for bytes in refused {
        assert!(!unit.supports(&decode(bytes)), "{bytes:x?}");
    }
}

#[test]
fn a_full_unit_starts_over() {
    if !std::is_x86_feature_detected!("avx") {
        return;
    }
    let mut unit = unit();
    let mut count = 0u32;
    'fill: for code in 0..=255u8 {
        for immediate in 0..=255u8 {
            for registers in 0xc0..=0xff {
                // vshufps and vshufpd: three registers and an immediate.
                let bytes = [0xc5, code, 0xc6, registers, immediate];
                let instruction = decode(&bytes);
                if instruction.is_invalid() || !unit.supports(&instruction) {
                    continue;
                }
                assert!(unit.prepare(&instruction).is_some());
                count += 1;
                if unit.is_nearly_full() {
                    break 'fill;
                }
            }
        }
    }
    assert!(unit.is_nearly_full(), "after {count}");
    unit.clear();
    let mut area = XsaveArea::default();
    area.set_xmm(1, 7);
    let handle = unit.prepare(&decode(&[0x66, 0x0f, 0xfe, 0xc1])).expect("paddd xmm0, xmm1");
    unit.execute(handle, &mut area, &mut Exchange::default());
    assert_eq!(area.xmm(0), 7);
}
