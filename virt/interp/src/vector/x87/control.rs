//! x87 instructions that touch control and status only (SDM vol. 1, 8.1; vol. 2).

use iced_x86::{Code, Instruction};
use x86::xsave::FCW_INIT;
use x86::{Cr0, Exception, XsaveArea};

use super::super::arrange::{load_fcw, set_quad_at, summarise};
use super::super::gate;
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::op::{Handler, Op};

pub(super) fn lower<B: Bus>(instruction: &Instruction) -> Option<Handler<B>> {
    Some(match instruction.code() {
        Code::Fninit => fninit::<B>,
        Code::Fnclex => fnclex::<B>,
        Code::Fnstsw_AX => fnstsw_ax::<B>,
        Code::Fnstsw_m2byte => fnstsw::<B>,
        Code::Fnstcw_m2byte => fnstcw::<B>,
        Code::Fldcw_m2byte => fldcw::<B>,
        Code::Fneni | Code::Fndisi | Code::Fnsetpm => nothing::<B>,
        _ => return None,
    })
}

/// WAIT: #NM when MP and TS are set, #MF when an exception is pending.
pub(super) fn fwait<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    if cpu.has_cr0(Cr0::MP) && cpu.has_cr0(Cr0::TS) {
        return Err(cpu.fault(Exception::NM));
    }
    gate::wait(cpu)
}

fn fninit<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    gate::pass_x87(cpu)?;
    initialise(&mut cpu.state.xsave);
    Ok(())
}

/// FNINIT: control, status, tags and pointers; the registers' bytes stay.
pub(super) fn initialise(area: &mut XsaveArea) {
    // The image keeps registers by their place from TOP, and TOP becomes 0.
    super::mmx_begin(area);
    area.set_fcw(FCW_INIT);
    area.set_fsw(0);
    area.0[4..8].fill(0);
    set_quad_at(area, 8, 0);
    set_quad_at(area, 16, 0);
}

fn fnclex<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    gate::pass_x87(cpu)?;
    let area = &mut cpu.state.xsave;
    area.set_fsw(area.fsw() & 0x7f00);
    summarise(area);
    Ok(())
}

fn fnstsw_ax<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    gate::pass_x87(cpu)?;
    let value = cpu.state.xsave.fsw();
    cpu.set_reg(0, value);
    Ok(())
}

fn fnstsw<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_x87(cpu)?;
    let value = cpu.state.xsave.fsw();
    cpu.store(op, value)
}

fn fnstcw<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_x87(cpu)?;
    let value = cpu.state.xsave.fcw();
    cpu.store(op, value)
}

fn fldcw<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_waiting_x87(cpu)?;
    let value: u16 = cpu.load(op)?;
    load_fcw(&mut cpu.state.xsave, value);
    Ok(())
}

/// FNENI, FNDISI, FNSETPM: no operation since the 80387.
fn nothing<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    gate::pass_x87(cpu)
}
