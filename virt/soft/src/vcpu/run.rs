//! The run loop: blocks of ops, with a look around between them.
//!
//! The fast path runs whole blocks. Whatever must be seen at every instruction (single step,
//! breakpoints, interrupt shadows, RF, a nearly spent budget) goes through `step`.

use std::sync::atomic::Ordering;

use engine::{Budget, EventKind, Exit, ShutdownCause};
use interp::op::slot;
use interp::{Op, Stop};
use x86::{Activity, Dr7, Exception, Flags};

use super::SoftVcpu;
use super::code::Code;
use crate::bus::SoftBus;

impl SoftVcpu {
    /// Runs until the machine must decide something.
    pub(super) fn run_until(&mut self, until: Budget) -> Exit {
        let mut left = match until {
            Budget::Unlimited => u64::MAX,
            Budget::Instructions(count) => count,
        };
        if let Some(exit) = self.deliver_loaded() {
            return exit;
        }
        loop {
            if self.own.attention.load(Ordering::Relaxed) != 0
                && let Some(exit) = self.service()
            {
                return exit;
            }
            if self.cpu.state.activity != Activity::Running
                && let Some(exit) = self.wait(left)
            {
                return exit;
            }
            let mut most = left;
            if self.cpu.bus.is_virtual() {
                match self.keep_time() {
                    Ok(room) => most = most.min(room),
                    Err(exit) => return exit,
                }
            } else {
                self.poll_timer();
            }
            if (self.interrupt_ready || self.cpu.state.nmi_pending)
                && let Some(exit) = self.deliver_pending()
            {
                return exit;
            }
            if left == 0 {
                return Exit::BudgetSpent;
            }
            let before = self.cpu.bus.retired;
            self.stop_at = before.saturating_add(most);
            if let Some(exit) = self.advance(most) {
                return exit;
            }
            if left != u64::MAX {
                left = left.saturating_sub(self.cpu.bus.retired - before);
            }
        }
    }

    /// Runs a block, or one instruction where every boundary matters.
    #[inline(always)]
    fn advance(&mut self, left: u64) -> Option<Exit> {
        let state = &self.cpu.state;
        let careful = state.rflags & Self::CAREFUL != 0
            || state.dr7 & Dr7::ANY_ENABLED.bits() != 0
            || state.sti_shadow
            || state.mov_ss_shadow;
        if careful {
            return self.step();
        }
        if self.can_run_native(left)
            && let Some(outcome) = self.run_native(left)
        {
            return outcome;
        }
        match self.code() {
            Ok(Code::Block(index)) => {
                self.runs.note(self.cpu.rip());
                let block = self.cache.get(index);
                if !self.inside_code_segment(block.bytes) || left < block.ops.len() as u64 {
                    return self.step();
                }
                self.run_block(index)
            }
            Ok(Code::Single(_)) => self.step(),
            Err(exception) => self.fetch_fault(exception),
        }
    }

    #[inline(always)]
    fn run_block(&mut self, index: u32) -> Option<Exit> {
        let block = self.cache.get(index);
        let cpu = &mut self.cpu;
        let mut trapped = None;
        for op in &block.ops {
            cpu.regs[slot::RIP as usize] =
                cpu.regs[slot::RIP as usize].wrapping_add(u64::from(op.len));
            if (op.run)(cpu, op).is_err() {
                trapped = Some(op.len);
                break;
            }
            cpu.bus.retired += 1;
            if cpu.bus.cut {
                break;
            }
        }
        if self.cpu.bus.cut {
            self.drop_stale_blocks();
        }
        match trapped {
            None => None,
            Some(len) => self.trapped(len),
        }
    }

    pub(super) fn fetch_fault(&mut self, exception: Exception) -> Option<Exit> {
        self.raise(exception)
    }

    /// Delivers an exception.
    pub(super) fn raise(&mut self, exception: Exception) -> Option<Exit> {
        if self.cpu.bus.is_virtual() {
            self.tell(EventKind::Exception(exception));
            self.cpu.bus.added_ns += 1;
        }
        let delivered = self.cpu.deliver_exception(exception);
        self.after_delivery(delivered)
    }

    /// An op returned `Err`: RIP is past it.
    #[cold]
    pub(super) fn trapped(&mut self, len: u8) -> Option<Exit> {
        let back = |vcpu: &mut Self| {
            let rip = vcpu.cpu.rip().wrapping_sub(u64::from(len));
            vcpu.cpu.set_rip(rip);
        };
        match std::mem::take(&mut self.cpu.stop) {
            Stop::None => unreachable!("a handler that returns Err sets the reason"),
            Stop::Fault(exception) => {
                back(self);
                self.raise(exception)
            }
            Stop::TrapAfter(exception) => {
                self.cpu.bus.retired += 1;
                self.raise(exception)
            }
            Stop::Repeat => {
                back(self);
                None
            }
            Stop::Halt => {
                self.cpu.bus.retired += 1;
                self.cpu.state.activity = Activity::Halted;
                None
            }
            Stop::TripleFault(exception) => {
                self.cpu.state.activity = Activity::Shutdown;
                Some(Exit::Shutdown(ShutdownCause::TripleFault(Some(exception))))
            }
            Stop::Unsupported => {
                back(self);
                Some(self.unsupported())
            }
        }
    }

    fn unsupported(&mut self) -> Exit {
        let rip = self.cpu.rip();
        let mut bytes = [0; 15];
        let linear = self.linear_rip();
        let mut length = 0;
        for (index, byte) in bytes.iter_mut().enumerate() {
            let read = interp::LinearMemory::load::<u8>(
                &mut self.cpu.bus,
                linear.wrapping_add(index as u64),
            );
            let Ok(value) = read else { break };
            *byte = value;
            length = index as u8 + 1;
        }
        Exit::Unsupported { rip, bytes, length }
    }

    /// Exactly one instruction, with everything that can happen around it.
    #[cold]
    pub(super) fn step(&mut self) -> Option<Exit> {
        let state = &mut self.cpu.state;
        let resume = state.rflags & Flags::RF.bits() != 0;
        self.cpu.stepping = state.rflags & Flags::TF.bits() != 0;
        let after_mov_ss = state.mov_ss_shadow;
        state.sti_shadow = false;
        state.mov_ss_shadow = false;
        if !resume && state.dr7 & Dr7::ANY_ENABLED.bits() != 0 {
            let hits = self.cpu.instruction_breakpoints(self.linear_rip(), after_mov_ss);
            if hits != 0 {
                return self.fetch_fault(Exception::debug(hits));
            }
        }
        let op = match self.one_op() {
            Ok(op) => op,
            Err(exception) => return self.fetch_fault(exception),
        };
        self.cpu.state.rflags &= !Flags::RF.bits();
        let rip = self.cpu.rip().wrapping_add(u64::from(op.len));
        self.cpu.set_rip(rip);
        let outcome = (op.run)(&mut self.cpu, &op);
        if self.cpu.bus.cut {
            self.drop_stale_blocks();
        }
        match outcome {
            Ok(()) => {
                self.cpu.bus.retired += 1;
                self.debug_traps()
            }
            Err(_) => {
                if self.cpu.stop == Stop::Repeat && resume {
                    self.cpu.state.rflags |= Flags::RF.bits();
                }
                let repeated = self.cpu.stop == Stop::Repeat;
                let halted = self.cpu.stop == Stop::Halt;
                if matches!(self.cpu.stop, Stop::Fault(_)) {
                    // An instruction that faults has met no data breakpoint.
                    interp::Translation::take_watch_hits(&mut self.cpu.bus);
                }
                let exit = self.trapped(op.len);
                if exit.is_none() && (repeated || halted) {
                    return self.debug_traps();
                }
                exit
            }
        }
    }

    /// #DB traps due after an instruction: data breakpoints, single step.
    fn debug_traps(&mut self) -> Option<Exit> {
        let exception = self.cpu.debug_trap()?;
        self.cpu.state.activity = Activity::Running;
        self.raise(exception)
    }

    /// The single op at RIP.
    pub(super) fn one_op(&mut self) -> Result<Op<SoftBus>, Exception> {
        let op = match self.code()? {
            Code::Single(op) => op,
            Code::Block(index) => self.cache.get(index).ops[0],
        };
        if self.inside_code_segment(u32::from(op.len)) { Ok(op) } else { Err(Self::BEYOND_LIMIT) }
    }
}
