//! Software interrupts, HLT, cache control, MONITOR, hypercalls (SDM vol. 2; Linux
//! Documentation/virt/kvm/x86/hypercalls.rst).

use x86::{Activity, Dr6, Reg, Vector};

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec, Mode, Stop, Trap};
use crate::deliver::Origin;
use crate::op::Op;

/// What KVM answers to a hypercall from CPL above 0.
const KVM_EPERM: i64 = -1;

/// INT n.
pub fn int<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let vector = op.imm as u8;
    if cpu.mode == Mode::Vm86 && cpu.redirect_vm86(vector)? {
        return Ok(());
    }
    cpu.software_event(vector, Origin::Software)
}

/// INT3: never redirected, no IOPL check.
pub fn int3<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.software_event(Vector::Breakpoint.number(), Origin::Software)
}

/// INTO.
pub fn into<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    if cpu.flags.overflow() {
        return cpu.software_event(Vector::Overflow.number(), Origin::Software);
    }
    Ok(())
}

/// INT1 (ICEBP): #DB without a check of the gate's DPL. DR6 changes only by data breakpoints that
/// a MOV SS before it delayed: they share this #DB.
pub fn int1<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.software_event(Vector::Debug.number(), Origin::Privileged)?;
    let hits = cpu.bus.take_watch_hits();
    if hits != 0 {
        cpu.state.dr6 = cpu.state.dr6 & !0xf | hits | Dr6::FIXED;
    }
    Ok(())
}

/// HLT.
pub fn hlt<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.require_cpl0()?;
    cpu.state.activity = Activity::Halted;
    cpu.stop = Stop::Halt;
    Err(Trap)
}

/// INVD, WBINVD, WBNOINVD: caches are coherent; only the privilege counts.
pub fn cache_control<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.require_cpl0()
}

/// SERIALIZE: every block boundary serialises.
pub fn serialize<B: Bus>(_: &mut Cpu<B>, _: &Op<B>) -> Exec {
    Ok(())
}

/// MONITOR: nothing is armed, so that MWAIT ends at once, as it may (SDM vol. 2B, MWAIT).
pub fn monitor<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_monitor(cpu)?;
    if cpu.regs[Reg::Rcx as usize] as u32 != 0 {
        return Err(cpu.gp0());
    }
    let offset = cpu.masked(Reg::Rax as u8, op.flags);
    let at = cpu.segment_linear(op.segment, offset, 1, crate::bus::Access::Read)?;
    match cpu.bus.probe(at, 1, crate::bus::Access::Read) {
        Ok(()) => Ok(()),
        Err(exception) => Err(cpu.memory_fault(exception, op.segment)),
    }
}

/// MWAIT.
pub fn mwait<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    require_monitor(cpu)?;
    if cpu.regs[Reg::Rcx as usize] as u32 > 1 {
        return Err(cpu.gp0());
    }
    Ok(())
}

fn require_monitor<B: Bus>(cpu: &mut Cpu<B>) -> Exec {
    if cpu.cpl == 0 { Ok(()) } else { Err(cpu.ud()) }
}

/// VMCALL, VMMCALL: number in RAX, arguments in RBX, RCX, RDX, RSI.
pub fn hypercall<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let wide = cpu.is_long();
    let answer = if cpu.cpl == 0 {
        let [number, arguments @ ..] =
            [Reg::Rax, Reg::Rbx, Reg::Rcx, Reg::Rdx, Reg::Rsi].map(|r| {
                if wide { cpu.reg::<u64>(r as u8) } else { u64::from(cpu.reg::<u32>(r as u8)) }
            });
        cpu.bus.hypercall(number, arguments, wide)
    } else {
        KVM_EPERM
    };
    if wide {
        cpu.set_reg(Reg::Rax as u8, answer as u64);
    } else {
        cpu.set_reg(Reg::Rax as u8, answer as u32);
    }
    Ok(())
}
