//! Debug registers and the conditions that raise #DB (SDM vol. 3, 17.2-17.3).
//!
//! The run loop asks for instruction breakpoints before an instruction and for [`Cpu::debug_trap`]
//! after it; data breakpoints are watched by the bus, I/O breakpoints by the port instructions.

use x86::{Cr4, Dr6, Dr7, Exception, Flags};

use super::cpuid::is_amd;
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec, Stop, Trap};
use crate::op::Op;

/// DR7.R/W of a breakpoint on I/O.
const ON_PORT: u64 = 2;

/// Checks common to MOV to and from debug registers; returns the number with DR4/DR5 resolved.
fn debug_register<B: Bus>(cpu: &mut Cpu<B>, number: u8) -> Exec<u8> {
    let aliased = matches!(number, 4 | 5);
    if number > 7 || aliased && cpu.has_cr4(Cr4::DE) {
        return Err(cpu.ud());
    }
    cpu.require_cpl0()?;
    if cpu.state.dr7 & Dr7::GD.bits() != 0 {
        return Err(cpu.fault(Exception::debug(Dr6::BD.bits())));
    }
    Ok(if aliased { number + 2 } else { number })
}

/// MOV r, DRn.
pub fn mov_from_debug<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = match debug_register(cpu, op.src)? {
        6 => cpu.state.dr6,
        7 => cpu.state.dr7,
        n => cpu.state.dr[usize::from(n & 3)],
    };
    if op.extra == 4 {
        cpu.set_reg(op.dst, value as u32);
    } else {
        cpu.set_reg(op.dst, value);
    }
    Ok(())
}

/// MOV DRn, r.
pub fn mov_to_debug<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let number = debug_register(cpu, op.dst)?;
    let value =
        if op.extra == 4 { u64::from(cpu.reg::<u32>(op.src)) } else { cpu.reg::<u64>(op.src) };
    if number >= 6 && value >> 32 != 0 {
        return Err(cpu.gp0());
    }
    match number {
        6 => {
            let mask = 0xf | (Dr6::BD | Dr6::BS | Dr6::BT).bits();
            cpu.state.dr6 = value & mask | Dr6::FIXED;
        }
        7 => cpu.state.dr7 = value & 0xffff_23ff | Dr7::FIXED,
        n => cpu.state.dr[usize::from(n & 3)] = value,
    }
    cpu.bus.set_watchpoints(cpu.state.dr, cpu.state.dr7);
    cpu.refresh();
    Ok(())
}

impl<B: Bus> Cpu<B> {
    /// Enabled breakpoints of one kind: number, address and length in bytes.
    fn breakpoints(&self, kind: u64) -> impl Iterator<Item = (usize, u64, u64)> {
        let (dr, dr7) = (self.state.dr, self.state.dr7);
        (0..4).filter_map(move |n| {
            let control = dr7 >> (16 + 4 * n);
            let enabled = dr7 >> (2 * n) & 3 != 0 && control & 3 == kind;
            let length = [1, 2, 8, 4][(control >> 2 & 3) as usize];
            enabled.then_some((n, dr[n], length))
        })
    }

    /// DR6 bits of the instruction breakpoints at a linear address; none under RFLAGS.RF. Behind MOV
    /// or POP SS Intel's processors pass over them (SDM vol. 3, 6.8.3), AMD's do not.
    pub fn instruction_breakpoints(&mut self, linear_rip: u64, after_mov_ss: bool) -> u64 {
        if self.state.dr7 & Dr7::ANY_ENABLED.bits() == 0 || self.has_flag(Flags::RF) {
            return 0;
        }
        if after_mov_ss && !is_amd(&mut self.bus) {
            return 0;
        }
        self.breakpoints(0).filter(|hit| hit.1 == linear_rip).fold(0, |hits, b| hits | 1 << b.0)
    }

    /// DR6 bits of the I/O breakpoints that an access touches.
    pub fn port_breakpoints(&self, port: u16, width: u8) -> u64 {
        if self.state.dr7 & Dr7::ANY_ENABLED.bits() == 0 || !self.has_cr4(Cr4::DE) {
            return 0;
        }
        let (first, last) = (u64::from(port), u64::from(port) + u64::from(width) - 1);
        self.breakpoints(ON_PORT)
            .filter(|&(_, at, length)| {
                let at = at & 0xffff & !(length - 1);
                first < at + length && at <= last
            })
            .fold(0, |hits, b| hits | 1 << b.0)
    }

    /// The #DB that follows an instruction: single step if TF was set when it began
    /// ([`Cpu::stepping`]), and data breakpoints. An open MOV SS shadow suppresses the step and
    /// delays the rest by one instruction, so the run loop closes the previous instruction's shadows
    /// before it executes one.
    pub fn debug_trap(&mut self) -> Option<Exception> {
        let stepping = core::mem::take(&mut self.stepping);
        if self.state.mov_ss_shadow {
            return None;
        }
        let mut bits = if stepping { Dr6::BS.bits() } else { 0 };
        if self.state.dr7 & Dr7::ANY_ENABLED.bits() != 0 {
            bits |= self.bus.take_watch_hits();
        }
        (bits != 0).then(|| Exception::debug(bits))
    }

    /// Ends a port instruction: a trap if it touched an I/O breakpoint, one together with what else
    /// is due behind the instruction.
    pub fn finish_port(&mut self, port: u16, width: u8) -> Exec {
        let hits = self.port_breakpoints(port, width);
        if hits == 0 {
            return Ok(());
        }
        let others = self.debug_trap().map_or(0, |exception| exception.address);
        self.stop = Stop::TrapAfter(Exception::debug(hits | others));
        Err(Trap)
    }
}
