//! IN, OUT, INS, OUTS: I/O permission, breakpoints, restartable repetition
//! (SDM vol. 1, chapter 19; vol. 2).

use x86::{Flags, Reg};

use super::segments::ES;
use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec, Mode, Stop, Trap};
use crate::deliver::Bitmap;
use crate::op::{Op, OpFlags};
use crate::width::Width;

impl<B: Bus> Cpu<B> {
    /// IOPL, then the TSS's I/O permission bitmap; always the bitmap in vm86 mode.
    pub fn require_port(&mut self, port: u16, width: u8) -> Exec {
        let limited = self.mode == Mode::Vm86 || self.cpl > self.iopl();
        if limited && self.is_protected() && self.task_bitmap_bit(Bitmap::Ports(port, width))? {
            return Err(self.gp0());
        }
        Ok(())
    }

    fn input<W: Width>(&mut self, port: u16) -> Exec {
        let width = W::BYTES as u8;
        self.require_port(port, width)?;
        let value = self.bus.port_in(port, width);
        self.set_reg(Reg::Rax as u8, W::from_u64(u64::from(value)));
        self.finish_port(port, width)
    }

    fn output<W: Width>(&mut self, port: u16) -> Exec {
        let width = W::BYTES as u8;
        self.require_port(port, width)?;
        let value = self.reg::<W>(Reg::Rax as u8).to_u64() as u32;
        self.bus.port_out(port, width, value);
        self.finish_port(port, width)
    }

    fn port_number(&self) -> u16 {
        self.reg(Reg::Rdx as u8)
    }
}

/// IN AL/AX/EAX, imm8.
pub fn in_immediate<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.input::<W>(op.imm as u16 & 0xff)
}

/// IN AL/AX/EAX, DX.
pub fn in_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.input::<W>(cpu.port_number())
}

/// OUT imm8, AL/AX/EAX.
pub fn out_immediate<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.output::<W>(op.imm as u16 & 0xff)
}

/// OUT DX, AL/AX/EAX.
pub fn out_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.output::<W>(cpu.port_number())
}

/// One element of INS: the destination is known writable before the port is read.
fn input_element<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, port: u16) -> Exec {
    let offset = cpu.masked(Reg::Rdi as u8, op.flags);
    let at = cpu.segment_linear(ES, offset, W::BYTES, Access::Write)?;
    if let Err(exception) = cpu.bus.probe(at, W::BYTES, Access::Write) {
        return Err(cpu.fault(exception));
    }
    let value = cpu.bus.port_in(port, W::BYTES as u8);
    if let Err(exception) = cpu.bus.store(at, W::from_u64(u64::from(value))) {
        return Err(cpu.fault(exception));
    }
    let next = offset.wrapping_add(string_step::<B, W>(cpu));
    cpu.set_masked(Reg::Rdi as u8, op.flags, next);
    Ok(())
}

/// One element of OUTS.
fn output_element<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, port: u16) -> Exec {
    let offset = cpu.masked(Reg::Rsi as u8, op.flags);
    let at = cpu.segment_linear(op.segment, offset, W::BYTES, Access::Read)?;
    let value = match cpu.bus.load::<W>(at) {
        Ok(value) => value,
        Err(exception) => return Err(cpu.memory_fault(exception, op.segment)),
    };
    cpu.bus.port_out(port, W::BYTES as u8, value.to_u64() as u32);
    let next = offset.wrapping_add(string_step::<B, W>(cpu));
    cpu.set_masked(Reg::Rsi as u8, op.flags, next);
    Ok(())
}

fn string_step<B: Bus, W: Width>(cpu: &Cpu<B>) -> u64 {
    if cpu.has_flag(Flags::DF) { W::BYTES.wrapping_neg() } else { W::BYTES }
}

/// Repeats `element` by (E/R)CX under a REP prefix; gives way between elements.
fn repeat<B: Bus>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    width: u8,
    element: fn(&mut Cpu<B>, &Op<B>, u16) -> Exec,
) -> Exec {
    let port = cpu.port_number();
    if !op.flags.intersects(OpFlags::REP | OpFlags::REPNE) {
        cpu.require_port(port, width)?;
        element(cpu, op, port)?;
        return cpu.finish_port(port, width);
    }
    let mut count = cpu.masked(Reg::Rcx as u8, op.flags);
    if count == 0 {
        return Ok(());
    }
    cpu.require_port(port, width)?;
    loop {
        element(cpu, op, port)?;
        count -= 1;
        cpu.set_masked(Reg::Rcx as u8, op.flags, count);
        if count == 0 {
            return cpu.finish_port(port, width);
        }
        if cpu.port_breakpoints(port, width) != 0 {
            // The trap between elements leaves RIP at the instruction.
            let rip = cpu.rip().wrapping_sub(u64::from(op.len));
            cpu.set_rip(rip);
            return cpu.finish_port(port, width);
        }
        if cpu.has_flag(Flags::TF) || cpu.bus.attention() {
            cpu.stop = Stop::Repeat;
            return Err(Trap);
        }
    }
}

/// INSB, INSW, INSD.
pub fn ins<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    repeat(cpu, op, W::BYTES as u8, input_element::<B, W>)
}

/// OUTSB, OUTSW, OUTSD.
pub fn outs<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    repeat(cpu, op, W::BYTES as u8, output_element::<B, W>)
}
