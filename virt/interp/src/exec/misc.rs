//! Flag instructions, no-operations, fences, cache-line writes, RDRAND, BOUND, SALC
//! (SDM vol. 2, by name).

use core::sync::atomic::{Ordering, fence};

use x86::{Exception, Flags, Vector};

use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec};
use crate::flags::LazyFlags;
use crate::op::Op;
use crate::width::Width;

const AL: u8 = 0;
const AH: u8 = crate::op::slot::HIGH_BYTE;

/// NOP in all lengths, PAUSE, ENDBR, prefetches; LFENCE and SFENCE too, for guest accesses happen
/// in order and stores stay ordered.
pub fn nothing<B: Bus>(_: &mut Cpu<B>, _: &Op<B>) -> Exec {
    Ok(())
}

/// MFENCE: also orders earlier stores before later loads, as other processors see them.
pub fn full_fence<B: Bus>(_: &mut Cpu<B>, _: &Op<B>) -> Exec {
    fence(Ordering::SeqCst);
    Ok(())
}

/// CLFLUSH, CLFLUSHOPT, CLWB: the byte must be readable.
pub fn write_back_line<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let at = cpu.linear(op, 1, Access::Read)?;
    match cpu.bus.probe(at, 1, Access::Read) {
        Ok(()) => Ok(()),
        Err(exception) => Err(cpu.memory_fault(exception, op.segment)),
    }
}

/// CLC.
pub fn clear_carry<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.flags = cpu.flags.with_carry(false);
    Ok(())
}

/// STC.
pub fn set_carry<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.flags = cpu.flags.with_carry(true);
    Ok(())
}

/// CMC.
pub fn complement_carry<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.flags = cpu.flags.with_carry(!cpu.flags.carry());
    Ok(())
}

/// CLD.
pub fn clear_direction<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.state.rflags &= !Flags::DF.bits();
    Ok(())
}

/// STD.
pub fn set_direction<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.state.rflags |= Flags::DF.bits();
    Ok(())
}

/// LAHF.
pub fn flags_to_ah<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let bits = cpu.flags.bits() | Flags::FIXED.bits();
    cpu.set_reg(AH, bits as u8);
    Ok(())
}

/// SAHF: all of the six but OF.
pub fn ah_to_flags<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let mask = Flags::STATUS.difference(Flags::OF).bits();
    cpu.flags = cpu.flags.merged(mask, u64::from(cpu.reg::<u8>(AH)));
    Ok(())
}

/// SALC: AL = CF ? 0xff : 0.
pub fn carry_to_al<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let value = if cpu.flags.carry() { 0xff_u8 } else { 0 };
    cpu.set_reg(AL, value);
    Ok(())
}

/// RDRAND, RDSEED: always has a number, so CF = 1.
pub fn random<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = W::from_u64(cpu.bus.random());
    cpu.set_reg(op.dst, value);
    cpu.flags = LazyFlags::from_bits(Flags::CF.bits());
    Ok(())
}

/// BOUND: #BR unless lower <= index <= upper, signed.
pub fn bound<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let lower = cpu.load::<W>(op)?.to_i64();
    let above = cpu.displaced_offset(op, W::BYTES);
    let upper = cpu.load_at::<W>(op, above)?.to_i64();
    if (lower..=upper).contains(&cpu.reg::<W>(op.dst).to_i64()) {
        return Ok(());
    }
    Err(cpu.fault(Exception::new(Vector::BoundRange)))
}
