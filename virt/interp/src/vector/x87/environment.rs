//! FNSTENV, FLDENV, FNSAVE, FRSTOR in their four layouts (SDM vol. 1, 8.1.10, figures 8-9 ff.).
//!
//! ```text
//! protected 32        protected 16   real 32                         real 16
//! 0  FCW              0  FCW         0  FCW                          0  FCW
//! 4  FSW              2  FSW         4  FSW                          2  FSW
//! 8  FTW              4  FTW         8  FTW                          4  FTW
//! 12 FIP              6  FIP         12 FIP 15:0                     6  FIP 15:0
//! 16 FCS | FOP << 16  8  FCS         16 FOP | FIP 31:16 << 12        8  FOP | FIP 19:16 << 12
//! 20 FDP              10 FDP         20 FDP 15:0                     10 FDP 15:0
//! 24 FDS              12 FDS         24 FDP 31:16 << 12              12 FDP 19:16 << 12
//! ```

use iced_x86::{Code, Instruction};
use x86::XsaveArea;

use super::super::arrange::{ST_OFFSET, load_fcw, quad_at, set_quad_at, summarise, word};
use super::super::gate;
use super::{control, top};
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec, Mode};
use crate::op::{Handler, Op};

/// Ten bytes for each of ST0-ST7.
const REGISTERS: usize = 80;

pub(super) fn lower<B: Bus>(instruction: &Instruction) -> Option<Handler<B>> {
    Some(match instruction.code() {
        Code::Fnstenv_m14byte => fnstenv::<B, 14>,
        Code::Fnstenv_m28byte => fnstenv::<B, 28>,
        Code::Fldenv_m14byte => fldenv::<B, 14>,
        Code::Fldenv_m28byte => fldenv::<B, 28>,
        Code::Fnsave_m94byte => fnsave::<B, 14>,
        Code::Fnsave_m108byte => fnsave::<B, 28>,
        Code::Frstor_m94byte => frstor::<B, 14>,
        Code::Frstor_m108byte => frstor::<B, 28>,
        _ => return None,
    })
}

fn fnstenv<B: Bus, const N: usize>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_x87(cpu)?;
    let image = Environment::of(&cpu.state.xsave).encode::<N>(is_real(cpu));
    cpu.store_operand(op, &image, false)?;
    let area = &mut cpu.state.xsave;
    area.set_fcw(area.fcw() | 0x3f);
    summarise(area);
    Ok(())
}

fn fldenv<B: Bus, const N: usize>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_waiting_x87(cpu)?;
    let mut image = [0; N];
    cpu.load_operand(op, &mut image, false)?;
    Environment::decode(&image, is_real(cpu)).put(&mut cpu.state.xsave);
    Ok(())
}

fn fnsave<B: Bus, const N: usize>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_x87(cpu)?;
    let mut image = [0; 108];
    let area = &cpu.state.xsave;
    image[..N].copy_from_slice(&Environment::of(area).encode::<N>(is_real(cpu)));
    for (place, bytes) in image[N..N + REGISTERS].chunks_exact_mut(10).enumerate() {
        let at = ST_OFFSET + place * 16;
        bytes.copy_from_slice(&area.0[at..at + 10]);
    }
    cpu.store_operand(op, &image[..N + REGISTERS], false)?;
    control::initialise(&mut cpu.state.xsave);
    Ok(())
}

fn frstor<B: Bus, const N: usize>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_waiting_x87(cpu)?;
    let mut image = [0; 108];
    cpu.load_operand(op, &mut image[..N + REGISTERS], false)?;
    let mut head = [0; N];
    head.copy_from_slice(&image[..N]);
    let environment = Environment::decode(&head, is_real(cpu));
    let area = &mut cpu.state.xsave;
    environment.put(area);
    for (place, bytes) in image[N..N + REGISTERS].chunks_exact(10).enumerate() {
        let at = ST_OFFSET + place * 16;
        area.0[at..at + 10].copy_from_slice(bytes);
    }
    Ok(())
}

/// Whether the real-mode layouts apply.
fn is_real<B: Bus>(cpu: &Cpu<B>) -> bool {
    matches!(cpu.mode, Mode::Real | Mode::Vm86)
}

/// Everything of x87 but the registers.
struct Environment {
    fcw: u16,
    fsw: u16,
    /// Two bits per physical register: valid, zero, special, empty.
    ftw: u16,
    fop: u16,
    fip: u64,
    fdp: u64,
}

impl Environment {
    fn of(area: &XsaveArea) -> Self {
        Self {
            fcw: area.fcw(),
            fsw: area.fsw(),
            ftw: full_tags(area),
            fop: word(area, 6) & 0x7ff,
            fip: quad_at(area, 8),
            fdp: quad_at(area, 16),
        }
    }

    /// Writes it into the image. The registers keep their physical places, which the image gives
    /// relative to TOP.
    fn put(self, area: &mut XsaveArea) {
        let old = top(area);
        area.set_fsw(self.fsw);
        let by = (8 + old - top(area)) & 7;
        area.0[ST_OFFSET..ST_OFFSET + 128].rotate_right(by * 16);
        let tags = (0..8).filter(|r| self.ftw >> (2 * r) & 3 != 3).fold(0, |t, r| t | 1 << r);
        area.0[4] = tags;
        area.0[5] = 0;
        area.0[6..8].copy_from_slice(&(self.fop & 0x7ff).to_le_bytes());
        set_quad_at(area, 8, self.fip);
        set_quad_at(area, 16, self.fdp);
        load_fcw(area, self.fcw);
    }

    fn encode<const N: usize>(&self, real: bool) -> [u8; N] {
        let mut image = [0; N];
        let (fip, fdp) = (self.fip as u32, self.fdp as u32);
        let words = if real {
            let high = |pointer: u32| pointer >> 16 << 12;
            [fip & 0xffff, u32::from(self.fop) | high(fip), fdp & 0xffff, high(fdp)]
        } else {
            [fip, u32::from(self.fop) << 16, fdp, 0]
        };
        let head = [self.fcw, self.fsw, self.ftw].map(u32::from);
        for (place, word) in head.into_iter().chain(words).enumerate() {
            if N == 28 {
                // Unused high halves are stored as ones.
                let ones = match (place, real) {
                    (0..3, _) | (3 | 5, true) | (6, false) => 0xffff_0000,
                    _ => 0,
                };
                image[place * 4..place * 4 + 4].copy_from_slice(&(word | ones).to_le_bytes());
            } else {
                let word = word as u16;
                image[place * 2..place * 2 + 2].copy_from_slice(&word.to_le_bytes());
            }
        }
        image
    }

    fn decode<const N: usize>(image: &[u8; N], real: bool) -> Self {
        let word = |place: usize| -> u32 {
            if N == 28 {
                let at = place * 4;
                u32::from_le_bytes([image[at], image[at + 1], image[at + 2], image[at + 3]])
            } else {
                u32::from(u16::from_le_bytes([image[place * 2], image[place * 2 + 1]]))
            }
        };
        let (fop, fip, fdp) = if real {
            let high = |word: u32| word >> 12 << 16;
            let fip = word(3) & 0xffff | high(word(4));
            (word(4) as u16 & 0x7ff, fip, word(5) & 0xffff | high(word(6)))
        } else if N == 28 {
            ((word(4) >> 16) as u16 & 0x7ff, word(3), word(5))
        } else {
            (0, word(3), word(5))
        };
        Self {
            fcw: word(0) as u16,
            fsw: word(1) as u16,
            ftw: word(2) as u16,
            fop,
            fip: u64::from(fip),
            fdp: u64::from(fdp),
        }
    }
}

/// The full tag word from the abridged one and the registers (SDM vol. 1, 10.5.1.1).
fn full_tags(area: &XsaveArea) -> u16 {
    let mut tags = 0;
    for physical in 0..8 {
        let place = (physical + 8 - top(area)) & 7;
        let at = ST_OFFSET + place * 16;
        let tag = if area.0[4] >> physical & 1 == 0 {
            3
        } else {
            classify(quad_at(area, at), word(area, at + 8) & 0x7fff)
        };
        tags |= tag << (2 * physical);
    }
    tags
}

/// 0 valid, 1 zero, 2 special: infinity, NaN, denormal, unsupported.
fn classify(significand: u64, exponent: u16) -> u16 {
    match exponent {
        0 if significand == 0 => 1,
        0 | 0x7fff => 2,
        _ if significand >> 63 == 0 => 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Environment {
        Environment {
            fcw: 0x27f,
            fsw: 0x3800,
            ftw: 0xfffc,
            fop: 0x5d9,
            fip: 0xa_1234,
            fdp: 0xb_5678,
        }
    }

    fn round_trip<const N: usize>(real: bool, keeps_fop: bool, keeps_high: bool) {
        let before = sample();
        let after = Environment::decode(&before.encode::<N>(real), real);
        assert_eq!((after.fcw, after.fsw, after.ftw), (before.fcw, before.fsw, before.ftw));
        assert_eq!(after.fop, if keeps_fop { before.fop } else { 0 });
        let mask = if keeps_high { !0 } else { 0xffff };
        assert_eq!((after.fip, after.fdp), (before.fip & mask, before.fdp & mask));
    }

    #[test]
    fn every_layout_round_trips() {
        round_trip::<28>(false, true, true);
        round_trip::<28>(true, true, true);
        round_trip::<14>(true, true, true);
        round_trip::<14>(false, false, false);
    }

    #[test]
    fn tags_follow_the_registers() {
        let mut area = XsaveArea::default();
        area.0[4] = 0b11;
        // TOP 0: ST0 = 1.0, ST1 = 0.0
        area.0[ST_OFFSET + 7] = 0x80;
        area.0[ST_OFFSET + 8..ST_OFFSET + 10].copy_from_slice(&0x3fffu16.to_le_bytes());
        assert_eq!(full_tags(&area), 0b11_11_11_11_11_11_01_00);
    }
}
