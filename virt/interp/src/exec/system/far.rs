//! Far JMP, CALL and RET: direct, through call gates, to tasks (SDM vol. 3, 5.8; vol. 2A, CALL).

use x86::{Segment, Vector, segment::attr};

use super::segments::{Blame, DS, ES, Entry, FS, GS, far_pointer, is_null, null_segment};
use super::stack::Frame;
use super::task::Switch;
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec, Mode};
use crate::op::Op;
use crate::operand::SS;

/// A call gate's contents.
struct CallGate {
    entry: Entry,
    offset: u64,
    /// Parameters to copy to an inner stack.
    count: u8,
    /// Bytes per pushed item.
    bytes: u8,
}

/// JMP ptr16:16, ptr16:32.
pub fn jump_direct<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.jump_far(op.disp as u16, op.imm)
}

/// JMP m16:16, m16:32, m16:64.
pub fn jump_indirect<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (offset, selector) = far_pointer(cpu, op, op.extra)?;
    cpu.jump_far(selector, offset)
}

/// CALL ptr16:16, ptr16:32.
pub fn call_direct<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.call_far(op.disp as u16, op.imm, op.extra)
}

/// CALL m16:16, m16:32, m16:64.
pub fn call_indirect<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (offset, selector) = far_pointer(cpu, op, op.extra)?;
    cpu.call_far(selector, offset, op.extra)
}

/// RETF, RETF imm16.
pub fn return_far<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.return_far(op.extra, op.imm & 0xffff)
}

impl<B: Bus> Cpu<B> {
    /// Whether segments are selectors * 16: real and vm86 mode.
    pub fn has_real_segments(&self) -> bool {
        matches!(self.mode, Mode::Real | Mode::Vm86)
    }

    fn jump_far(&mut self, selector: u16, offset: u64) -> Exec {
        if self.has_real_segments() {
            let cs = self.real_code(selector);
            self.check_target(&cs, offset, 0)?;
            self.enter_code(cs, offset);
            return Ok(());
        }
        let entry = self.transfer_entry(selector)?;
        match (entry.kind(), self.is_ia32e()) {
            (16.., _) => {
                let cs = self.direct_code(entry)?;
                self.check_target(&cs, offset, 0)?;
                self.enter_code(cs, offset);
                Ok(())
            }
            (12, _) | (4, false) => self.jump_gate(entry),
            (1 | 5 | 9, false) => self.transfer_task(entry, Switch::Jump),
            _ => Err(self.selector_fault(Blame::INSTRUCTION, selector)),
        }
    }

    fn call_far(&mut self, selector: u16, offset: u64, bytes: u8) -> Exec {
        if self.has_real_segments() {
            let cs = self.real_code(selector);
            return self.call_same_level(cs, offset, bytes);
        }
        let entry = self.transfer_entry(selector)?;
        match (entry.kind(), self.is_ia32e()) {
            (16.., _) => {
                let cs = self.direct_code(entry)?;
                self.call_same_level(cs, offset, bytes)
            }
            (12, _) | (4, false) => self.call_gate(entry),
            (1 | 5 | 9, false) => self.transfer_task(entry, Switch::Call),
            _ => Err(self.selector_fault(Blame::INSTRUCTION, selector)),
        }
    }

    /// The descriptor a far pointer names.
    fn transfer_entry(&mut self, selector: u16) -> Exec<Entry> {
        if is_null(selector) {
            return Err(self.gp0());
        }
        self.descriptor(selector, Blame::INSTRUCTION)
    }

    /// Checks of a far transfer straight to a code segment: privilege does not change.
    fn direct_code(&mut self, entry: Entry) -> Exec<Segment> {
        let segment = entry.segment();
        let allowed = if segment.attributes & attr::DOWN_CONFORMING != 0 {
            segment.dpl() <= self.cpl
        } else {
            segment.rpl() <= self.cpl && segment.dpl() == self.cpl
        };
        if !allowed {
            return Err(self.selector_fault(Blame::INSTRUCTION, entry.selector));
        }
        self.code_segment(entry, self.cpl, Blame::INSTRUCTION)
    }

    fn call_same_level(&mut self, cs: Segment, target: u64, bytes: u8) -> Exec {
        let mut frame = Frame::current(self, 0);
        let (selector, rip) = (u64::from(self.segment(1).selector), self.rip());
        frame.push_sized(self, bytes, selector)?;
        frame.push_sized(self, bytes, rip)?;
        self.check_target(&cs, target, 0)?;
        frame.commit(self);
        self.enter_code(cs, target);
        Ok(())
    }

    /// JMP or CALL to a TSS or through a task gate.
    fn transfer_task(&mut self, entry: Entry, switch: Switch) -> Exec {
        let segment = entry.segment();
        if segment.dpl() < self.cpl || segment.dpl() < segment.rpl() {
            return Err(self.selector_fault(Blame::INSTRUCTION, entry.selector));
        }
        let target = if entry.kind() == 5 {
            if !entry.is_present() {
                return Err(self.not_present(Blame::INSTRUCTION, entry.selector));
            }
            self.task_gate_target((entry.raw.0 >> 16) as u16, Blame::INSTRUCTION)?
        } else {
            if entry.selector & 4 != 0 {
                return Err(self.selector_fault(Blame::INSTRUCTION, entry.selector));
            }
            if !entry.is_present() {
                return Err(self.not_present(Blame::INSTRUCTION, entry.selector));
            }
            entry
        };
        let image = self.rflags() & !x86::Flags::RF.bits();
        self.switch_task(target, switch, image, 0)
    }

    /// Reads and checks a call gate and finds its code descriptor.
    fn open_call_gate(&mut self, gate: Entry) -> Exec<CallGate> {
        let blame = Blame::INSTRUCTION;
        let segment = gate.segment();
        if segment.dpl() < self.cpl || segment.dpl() < segment.rpl() {
            return Err(self.selector_fault(blame, gate.selector));
        }
        let raw = gate.raw.0;
        let long = self.is_ia32e();
        let mut offset = raw & 0xffff;
        if gate.kind() == 12 {
            offset |= raw >> 32 & 0xffff_0000;
        }
        if long {
            offset |= self.upper_half(gate, blame)? << 32;
        }
        if !gate.is_present() {
            return Err(self.not_present(blame, gate.selector));
        }
        let selector = (raw >> 16) as u16;
        let entry = self.transfer_entry(selector)?;
        let code = entry.segment();
        let wrong_size = long && (!code.is_long() || code.is_big());
        if !code.is_code() || code.dpl() > self.cpl || wrong_size {
            return Err(self.selector_fault(blame, selector));
        }
        let bytes = match (long, gate.kind()) {
            (true, _) => 8,
            (false, 12) => 4,
            _ => 2,
        };
        Ok(CallGate { entry, offset, count: (raw >> 32) as u8 & 31, bytes })
    }

    fn jump_gate(&mut self, gate: Entry) -> Exec {
        let gate = self.open_call_gate(gate)?;
        let code = gate.entry.segment();
        if code.attributes & attr::DOWN_CONFORMING == 0 && code.dpl() != self.cpl {
            return Err(self.selector_fault(Blame::INSTRUCTION, gate.entry.selector));
        }
        let cs = self.code_segment(gate.entry, self.cpl, Blame::INSTRUCTION)?;
        self.check_target(&cs, gate.offset, 0)?;
        self.enter_code(cs, gate.offset);
        Ok(())
    }

    fn call_gate(&mut self, gate: Entry) -> Exec {
        let gate = self.open_call_gate(gate)?;
        let code = gate.entry.segment();
        let conforming = code.attributes & attr::DOWN_CONFORMING != 0;
        let cpl = if conforming { self.cpl } else { code.dpl() };
        let cs = self.code_segment(gate.entry, cpl, Blame::INSTRUCTION)?;
        if cpl == self.cpl {
            return self.call_same_level_gate(cs, &gate);
        }
        let mut frame = if gate.bytes == 8 {
            let rsp = self.long_stack_pointer(cpl, 0)?;
            Frame::long(Self::null_stack(cpl), rsp, cpl, 0)
        } else {
            self.inner_stack(cpl, 0)?
        };
        let (old_ss, old_rsp) = (u64::from(self.segment(SS).selector), self.regs[4]);
        frame.push_sized(self, gate.bytes, old_ss)?;
        frame.push_sized(self, gate.bytes, old_rsp)?;
        if gate.bytes != 8 {
            for index in (0..u64::from(gate.count)).rev() {
                let value = self.stack_peek(index * u64::from(gate.bytes), gate.bytes)?;
                frame.push_sized(self, gate.bytes, value)?;
            }
        }
        let (selector, rip) = (u64::from(self.segment(1).selector), self.rip());
        frame.push_sized(self, gate.bytes, selector)?;
        frame.push_sized(self, gate.bytes, rip)?;
        self.check_target(&cs, gate.offset, 0)?;
        frame.commit(self);
        self.enter_code(cs, gate.offset);
        Ok(())
    }

    fn call_same_level_gate(&mut self, cs: Segment, gate: &CallGate) -> Exec {
        if gate.bytes != 8 || self.is_long() {
            return self.call_same_level(cs, gate.offset, gate.bytes);
        }
        // From compatibility mode into 64-bit code: the stack is flat from here on.
        let rsp = self.stack_pointer(0);
        let mut frame = Frame::long(*self.segment(SS), rsp, self.cpl, 0);
        let (selector, rip) = (u64::from(self.segment(1).selector), self.rip());
        frame.push(self, selector)?;
        frame.push(self, rip)?;
        self.check_target(&cs, gate.offset, 0)?;
        frame.commit(self);
        self.enter_code(cs, gate.offset);
        Ok(())
    }

    fn return_far(&mut self, bytes: u8, release: u64) -> Exec {
        let size = u64::from(bytes);
        let rip = self.stack_peek(0, bytes)?;
        let selector = self.stack_peek(size, bytes)? as u16;
        if self.has_real_segments() {
            let cs = self.real_code(selector);
            self.check_target(&cs, rip, 0)?;
            self.set_stack_pointer(self.stack_pointer((2 * size + release) as i64));
            self.enter_code(cs, rip);
            return Ok(());
        }
        let cs = self.return_code(selector)?;
        if cs.rpl() == self.cpl {
            self.check_target(&cs, rip, 0)?;
            self.set_stack_pointer(self.stack_pointer((2 * size + release) as i64));
            self.enter_code(cs, rip);
            return Ok(());
        }
        let rsp = self.stack_peek(2 * size + release, bytes)?;
        let ss_selector = self.stack_peek(3 * size + release, bytes)? as u16;
        let ss = self.return_stack(ss_selector, &cs)?;
        self.check_target(&cs, rip, 0)?;
        self.enter_outer(cs, rip, ss, rsp.wrapping_add(release));
        Ok(())
    }

    /// Checks of the code segment a RETF or IRET goes to; the result's RPL is the new CPL.
    pub fn return_code(&mut self, selector: u16) -> Exec<Segment> {
        let blame = Blame::INSTRUCTION;
        let entry = self.transfer_entry(selector)?;
        let segment = entry.segment();
        let rpl = segment.rpl();
        let matches = if segment.attributes & attr::DOWN_CONFORMING != 0 {
            segment.dpl() <= rpl
        } else {
            segment.dpl() == rpl
        };
        if rpl < self.cpl || !matches {
            return Err(self.selector_fault(blame, selector));
        }
        self.code_segment(entry, rpl, blame)
    }

    /// Checks of the stack segment a RETF or IRET restores for a code segment.
    pub fn return_stack(&mut self, selector: u16, cs: &Segment) -> Exec<Segment> {
        let cpl = cs.rpl();
        if is_null(selector) && self.is_ia32e() && cs.is_long() && cpl != 3 {
            return Ok(Segment { selector, ..Self::null_stack(cpl) });
        }
        self.stack_segment(selector, cpl, Blame::INSTRUCTION)
    }

    /// Commits a return with a new stack: data segments that the new level may not use go null.
    /// Their bases stay, as on hardware: 64-bit code may go on with FS and GS.
    pub fn enter_outer(&mut self, cs: Segment, rip: u64, ss: Segment, rsp: u64) {
        let cpl = cs.rpl();
        let outer = cpl > self.cpl;
        self.set_segment(SS, ss);
        self.enter_code(cs, rip);
        self.set_stack_pointer(rsp);
        if !outer {
            return;
        }
        for index in [ES, DS, FS, GS] {
            let segment = *self.segment(index);
            let conforming = segment.is_code() && segment.attributes & attr::DOWN_CONFORMING != 0;
            if is_null(segment.selector) {
                self.state.segments[usize::from(index)].selector = 0;
            } else if segment.dpl() < cpl && !conforming {
                self.set_segment(index, Segment { base: segment.base, ..null_segment(0) });
            }
        }
    }

    /// #SS(0): for stacks the instruction itself names.
    pub fn stack_fault(&mut self) -> crate::Trap {
        self.fault_code(Vector::StackFault, 0)
    }
}
