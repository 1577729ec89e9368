//! Instructions on control and status words that compute nothing: LDMXCSR, STMXCSR, EMMS,
//! VZEROUPPER, VZEROALL (SDM vol. 1, 10.2.3; vol. 2).

use iced_x86::{Code, Instruction};
use x86::xsave::{MXCSR_MASK, XMM_OFFSET, YMM_HI_OFFSET};

use super::gate::{self, AVX, MMX, SSE};
use super::x87::mmx_begin;
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::op::{Handler, Op};

/// Names the handler of such an instruction.
pub(super) fn lower<B: Bus>(instruction: &Instruction, _: &mut Op<B>) -> Option<Handler<B>> {
    Some(match instruction.code() {
        Code::Ldmxcsr_m32 => ldmxcsr::<B, SSE>,
        Code::VEX_Vldmxcsr_m32 => ldmxcsr::<B, AVX>,
        Code::Stmxcsr_m32 => stmxcsr::<B, SSE>,
        Code::VEX_Vstmxcsr_m32 => stmxcsr::<B, AVX>,
        Code::Emms => emms::<B>,
        Code::VEX_Vzeroupper => vzeroupper::<B>,
        Code::VEX_Vzeroall => vzeroall::<B>,
        _ => return None,
    })
}

fn ldmxcsr<B: Bus, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let value: u32 = cpu.load(op)?;
    if value & !MXCSR_MASK != 0 {
        return Err(cpu.gp0());
    }
    cpu.state.xsave.set_mxcsr(value);
    Ok(())
}

fn stmxcsr<B: Bus, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let value = cpu.state.xsave.mxcsr();
    cpu.store(op, value)
}

fn emms<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    gate::pass::<B, MMX>(cpu)?;
    // TOP 0 as after every MMX instruction, and every tag empty.
    mmx_begin(&mut cpu.state.xsave);
    cpu.state.xsave.0[4] = 0;
    Ok(())
}

/// Registers 8-15 exist in 64-bit mode only.
fn registers<B: Bus>(cpu: &Cpu<B>) -> usize {
    if cpu.is_long() { 16 } else { 8 }
}

fn vzeroupper<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    gate::pass::<B, AVX>(cpu)?;
    let length = registers(cpu) * 16;
    cpu.state.xsave.0[YMM_HI_OFFSET..YMM_HI_OFFSET + length].fill(0);
    Ok(())
}

fn vzeroall<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    vzeroupper(cpu, op)?;
    let length = registers(cpu) * 16;
    cpu.state.xsave.0[XMM_OFFSET..XMM_OFFSET + length].fill(0);
    Ok(())
}
