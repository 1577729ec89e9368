//! Decimal adjustment, not in 64-bit mode (SDM vol. 2, AAA, AAD, AAM, AAS, DAA, DAS). Undefined
//! flags are what the same steps on an ALU leave.

use x86::{Exception, Flags, Vector};

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::flags::LazyFlags;
use crate::op::Op;

const AL: u8 = 0;
const AX: u8 = 0;

/// Result flags of AL with CF and AF as given; OF clear.
fn adjusted(al: u8, carry: bool, adjust: bool) -> LazyFlags {
    let bits = if adjust { Flags::AF.bits() } else { 0 };
    LazyFlags::with_carry_overflow(al, carry, false).merged(Flags::AF.bits(), bits)
}

/// DAA.
pub fn daa<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    decimal(cpu, |al, step| al.wrapping_add(step));
    Ok(())
}

/// DAS.
pub fn das<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let (old, carry) = (cpu.reg::<u8>(AL), cpu.flags.carry());
    let low = old & 15 > 9 || cpu.flags.adjust();
    // The low step's own borrow counts too.
    let borrowed = low && old < 6;
    decimal(cpu, |al, step| al.wrapping_sub(step));
    cpu.flags = cpu.flags.with_carry(old > 0x99 || carry || borrowed);
    Ok(())
}

fn decimal<B: Bus>(cpu: &mut Cpu<B>, change: impl Fn(u8, u8) -> u8) {
    let old: u8 = cpu.reg(AL);
    let low = old & 15 > 9 || cpu.flags.adjust();
    let high = old > 0x99 || cpu.flags.carry();
    let step = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let al = change(old, step);
    cpu.set_reg(AL, al);
    cpu.flags = adjusted(al, high, low);
}

/// AAA.
pub fn aaa<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    ascii(cpu, |ax| ax.wrapping_add(0x106));
    Ok(())
}

/// AAS: AX minus 6, then AH minus 1.
pub fn aas<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    ascii(cpu, |ax| ax.wrapping_sub(0x106));
    Ok(())
}

fn ascii<B: Bus>(cpu: &mut Cpu<B>, change: impl Fn(u16) -> u16) {
    let old: u16 = cpu.reg(AX);
    let adjust = old & 15 > 9 || cpu.flags.adjust();
    let ax = if adjust { change(old) } else { old } & 0xff0f;
    cpu.set_reg(AX, ax);
    cpu.flags = adjusted(ax as u8, adjust, adjust);
}

/// AAM: #DE when the base is 0.
pub fn aam<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (al, base) = (cpu.reg::<u8>(AL), op.imm as u8);
    let Some(tens) = al.checked_div(base) else {
        return Err(cpu.fault(Exception::new(Vector::DivideError)));
    };
    let ones = al % base;
    cpu.set_reg(AX, u16::from(tens) << 8 | u16::from(ones));
    cpu.flags = LazyFlags::logic(ones);
    Ok(())
}

/// AAD.
pub fn aad<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let [al, ah] = cpu.reg::<u16>(AX).to_le_bytes();
    let al = al.wrapping_add(ah.wrapping_mul(op.imm as u8));
    cpu.set_reg(AX, u16::from(al));
    cpu.flags = LazyFlags::logic(al);
    Ok(())
}
