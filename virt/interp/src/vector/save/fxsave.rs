//! FXSAVE and FXRSTOR (SDM vol. 1, 10.5).

use x86::Cr4;
use x86::xsave::{MXCSR_MASK, XMM_OFFSET};

use super::super::gate;
use super::{ST_END, ST_OFFSET, head, put, put_image, registers, set_head, set_registers};
use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec};
use crate::op::Op;

const SIZE: u64 = 512;

pub(super) fn save<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_fxsave(cpu)?;
    let at = aligned(cpu, op, Access::Write)?;
    if let Err(exception) = cpu.bus.probe(at, SIZE, Access::Write) {
        return Err(cpu.memory_fault(exception, op.segment));
    }
    let head = head(&cpu.state.xsave, op.extra != 0);
    put(cpu, op, at, &head)?;
    put_image(cpu, op, at, 24..ST_END)?;
    if cpu.has_cr4(Cr4::OSFXSR) {
        let end = XMM_OFFSET + registers(cpu) * 16;
        put_image(cpu, op, at, XMM_OFFSET..end)?;
    }
    Ok(())
}

pub(super) fn restore<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_fxsave(cpu)?;
    let at = aligned(cpu, op, Access::Read)?;
    let mut image = [0; SIZE as usize];
    if let Err(exception) = cpu.bus.load_bytes(at, &mut image) {
        return Err(cpu.memory_fault(exception, op.segment));
    }
    let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
    let sse = cpu.has_cr4(Cr4::OSFXSR);
    if sse && mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.gp0());
    }
    let end = XMM_OFFSET + registers(cpu) * 16;
    let area = &mut cpu.state.xsave;
    set_head(area, &image[..24], op.extra != 0);
    set_registers(area, &image[ST_OFFSET..ST_END]);
    if sse {
        area.set_mxcsr(mxcsr);
        area.0[XMM_OFFSET..end].copy_from_slice(&image[XMM_OFFSET..end]);
    }
    Ok(())
}

fn aligned<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, access: Access) -> Exec<u64> {
    let at = cpu.linear(op, SIZE, access)?;
    if at & 15 == 0 { Ok(at) } else { Err(cpu.misaligned(op, at)) }
}
