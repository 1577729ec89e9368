//! Exception and interrupt delivery (SDM vol. 3, chapter 6; vol. 2A, INT n).
//!
//! Invariant: delivering an event changes registers only when its whole frame is written; an
//! event that faults on the way leaves the state it found and is followed by what it faulted
//! with, by the double-fault table, in a loop. (A task gate commits at its task switch; faults
//! after that point belong to the new task.)

use x86::{Activity, Cr4, Dr6, Dr7, Exception, Flags, Segment, Vector, segment::attr};

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec, Mode, Stop};
use crate::exec::system::segments::{Blame, DS, ES, FS, GS, is_null, null_segment};
use crate::exec::system::stack::Frame;
use crate::exec::system::task::Switch;
use crate::operand::SS;

/// Where an event comes from: decides privilege checks, EXT and RF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An external interrupt or NMI.
    Interrupt,
    /// An exception the processor detected; `fault` sets RF in the pushed image.
    Exception {
        /// A fault rather than a trap.
        fault: bool,
    },
    /// INT n, INT3, INTO: the gate's DPL is checked, EXT is 0.
    Software,
    /// INT1: as software, without the check of DPL, with EXT.
    Privileged,
}

/// One event to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// IDT index.
    pub vector: u8,
    /// Where it comes from.
    pub origin: Origin,
    /// Error code to push, outside real mode.
    pub error_code: Option<u32>,
}

impl Event {
    /// EXT: 1 unless the program itself asked for the event.
    pub fn external(&self) -> u32 {
        u32::from(self.origin != Origin::Software)
    }

    /// A fault of the gate itself: IDT bit and EXT.
    fn gate_code(&self) -> u32 {
        u32::from(self.vector) << 3 | 2 | self.external()
    }
}

/// An interrupt or trap gate, decoded.
struct Gate {
    selector: u16,
    offset: u64,
    /// Clears IF.
    interrupt: bool,
    /// Bytes per pushed item.
    bytes: u8,
    /// Interrupt stack table index, 0 for none.
    ist: u8,
}

impl<B: Bus> Cpu<B> {
    /// Delivers an exception, and what its delivery faults with. `Err` only with a triple fault.
    pub fn deliver_exception(&mut self, exception: Exception) -> Exec {
        let mut current = exception;
        loop {
            self.note_exception(&current);
            let Err(trap) = self.deliver_event(&exception_event(&current)) else {
                return Ok(());
            };
            let next = self.raised();
            if let Some(next) = combine(current.vector, next) {
                current = next;
            } else {
                self.stop = Stop::TripleFault(next);
                return Err(trap);
            }
        }
    }

    /// Delivers an external interrupt that the controller has acknowledged.
    pub fn deliver_interrupt(&mut self, vector: u8) -> Exec {
        let event = Event { vector, origin: Origin::Interrupt, error_code: None };
        if self.deliver_event(&event).is_ok() {
            return Ok(());
        }
        let exception = self.raised();
        self.deliver_exception(exception)
    }

    /// Delivers an NMI; further ones are blocked until IRET. Whether another is pending is for the
    /// caller, who counts them, to say.
    pub fn deliver_nmi(&mut self) -> Exec {
        self.state.nmi_blocked = true;
        self.deliver_interrupt(Vector::Nmi.number())
    }

    /// Whether an external interrupt may be delivered before the next instruction.
    pub fn interrupts_open(&self) -> bool {
        self.has_flag(Flags::IF) && !self.state.sti_shadow && !self.state.mov_ss_shadow
    }

    /// Whether an NMI may be delivered before the next instruction.
    pub fn nmi_open(&self) -> bool {
        !self.state.nmi_blocked && !self.state.mov_ss_shadow
    }

    /// What the last `Err` was about, taken out of `stop`.
    fn raised(&mut self) -> Exception {
        match core::mem::take(&mut self.stop) {
            Stop::Fault(exception) | Stop::TrapAfter(exception) => exception,
            other => panic!("event delivery stops only by exceptions, not {other:?}"),
        }
    }

    /// Exceptions that leave traces in registers before they are delivered.
    fn note_exception(&mut self, exception: &Exception) {
        match exception.vector {
            Vector::PageFault => self.state.cr2 = exception.address,
            Vector::Debug => {
                let cleared = self.state.dr6 & !0xf;
                self.state.dr6 = cleared | exception.address | Dr6::FIXED;
                if self.state.dr7 & Dr7::GD.bits() != 0 {
                    self.state.dr7 &= !Dr7::GD.bits();
                }
            }
            _ => {}
        }
    }

    /// Delivers one event through the IVT or IDT of the current mode; a fault is left in `stop`
    /// and the state is as before.
    pub fn deliver_event(&mut self, event: &Event) -> Exec {
        self.stop = Stop::None;
        if !self.is_protected() {
            self.deliver_real(event)?;
        } else if self.is_ia32e() {
            self.deliver_long(event)?;
        } else {
            self.deliver_protected(event)?;
        }
        self.stepping = false;
        self.state.sti_shadow = false;
        self.state.mov_ss_shadow = false;
        self.state.activity = Activity::Running;
        Ok(())
    }

    /// RFLAGS as pushed: RF set for faults, else as it is.
    fn flags_image(&self, event: &Event) -> u64 {
        let rf = match event.origin {
            Origin::Exception { fault: true } => Flags::RF.bits(),
            Origin::Software | Origin::Privileged => return self.rflags() & !Flags::RF.bits(),
            _ => 0,
        };
        self.rflags() | rf
    }

    /// Real mode: a vector of four bytes, a frame of FLAGS, CS, IP.
    fn deliver_real(&mut self, event: &Event) -> Exec {
        let at = u64::from(event.vector) * 4;
        if at + 3 > u64::from(self.state.idtr.limit) {
            return Err(self.fault(Exception::gp(event.gate_code())));
        }
        let entry: u32 = self.table_load(self.state.idtr.base.wrapping_add(at))?;
        self.enter_vector(entry, self.flags_image(event) as u16, Flags::IF)
    }

    /// Enters a handler named by an interrupt vector table: pushes FLAGS, CS, IP; clears TF, RF,
    /// AC and `clear`. Real mode, and vm86 with redirection.
    fn enter_vector(&mut self, entry: u32, flags: u16, clear: Flags) -> Exec {
        let mut frame = Frame::current(self, 0);
        let (selector, ip) = (self.segment(1).selector, self.rip() as u16);
        frame.push(self, flags)?;
        frame.push(self, selector)?;
        frame.push(self, ip)?;
        frame.commit(self);
        self.state.rflags &= !(Flags::TF | Flags::RF | Flags::AC | clear).bits();
        let cs = self.real_code((entry >> 16) as u16);
        self.enter_code(cs, u64::from(entry as u16));
        Ok(())
    }

    /// INT n in virtual-8086 mode under CR4.VME with its redirection bit clear: through the
    /// program's own vector table (SDM vol. 3, 20.3.3, methods 4-6). `false` if it is to go
    /// through the IDT.
    pub fn redirect_vm86(&mut self, vector: u8) -> Exec<bool> {
        if !self.has_cr4(Cr4::VME) {
            return self.vm86_needs_iopl();
        }
        let redirected = !self.task_bitmap_bit(Bitmap::Redirection(vector))?;
        if !redirected {
            return self.vm86_needs_iopl();
        }
        let entry: u32 = match self.bus.load(u64::from(vector) * 4) {
            Ok(entry) => entry,
            Err(exception) => return Err(self.fault(exception)),
        };
        let rflags = self.rflags() & !Flags::RF.bits();
        if Flags::from_bits_retain(rflags).iopl() == 3 {
            self.enter_vector(entry, rflags as u16, Flags::IF)?;
        } else {
            let virtual_if = rflags & Flags::VIF.bits() != 0;
            let image = rflags & !Flags::IF.bits() | Flags::IOPL.bits();
            let image = image | if virtual_if { Flags::IF.bits() } else { 0 };
            self.enter_vector(entry, image as u16, Flags::VIF)?;
        }
        self.stepping = false;
        Ok(true)
    }

    fn vm86_needs_iopl(&mut self) -> Exec<bool> {
        if Flags::from_bits_retain(self.rflags()).iopl() < 3 { Err(self.gp0()) } else { Ok(false) }
    }

    /// Protected mode outside IA-32e: task, interrupt and trap gates of 16 and 32 bits.
    fn deliver_protected(&mut self, event: &Event) -> Exec {
        let code = event.gate_code();
        let at = u64::from(event.vector) * 8;
        if at + 7 > u64::from(self.state.idtr.limit) {
            return Err(self.fault(Exception::gp(code)));
        }
        let raw: u64 = self.table_load(self.state.idtr.base.wrapping_add(at))?;
        let kind = (raw >> 40) as u8 & 0x1f;
        self.check_gate(event, raw, matches!(kind, 5 | 6 | 7 | 14 | 15))?;
        let selector = (raw >> 16) as u16;
        if kind == 5 {
            let switch = Switch::Event { error_code: event.error_code };
            return self.task_gate_event(selector, switch, self.flags_image(event), event);
        }
        let wide = kind & 8 != 0;
        let offset = raw & 0xffff | if wide { raw >> 32 & 0xffff_0000 } else { 0 };
        let bytes = if wide { 4 } else { 2 };
        let gate = Gate { selector, offset, interrupt: kind & 1 == 0, bytes, ist: 0 };
        self.enter_gate(event, &gate)
    }

    /// A task gate in the IDT: errors in its selector carry EXT.
    fn task_gate_event(
        &mut self,
        selector: u16,
        switch: Switch,
        image: u64,
        event: &Event,
    ) -> Exec {
        let external = event.external();
        let blame = Blame { external, ..Blame::INSTRUCTION };
        let entry = self.task_gate_target(selector, blame)?;
        self.switch_task(entry, switch, image, external)
    }

    /// Type, DPL for software interrupts, presence.
    fn check_gate(&mut self, event: &Event, raw: u64, valid_kind: bool) -> Exec {
        let code = event.gate_code();
        let dpl = (raw >> 45) as u8 & 3;
        let forbidden = event.origin == Origin::Software && dpl < self.cpl;
        if !valid_kind || forbidden {
            return Err(self.fault(Exception::gp(code)));
        }
        if raw >> 47 & 1 == 0 {
            return Err(self.fault_code(Vector::SegmentNotPresent, code));
        }
        Ok(())
    }

    /// The handler's code segment and the privilege level it runs at.
    fn gate_code_segment(&mut self, gate: &Gate, external: u32) -> Exec<(Segment, u8)> {
        let blame = Blame { external, ..Blame::INSTRUCTION };
        if is_null(gate.selector) {
            return Err(self.fault(Exception::gp(external)));
        }
        let entry = self.descriptor(gate.selector, blame)?;
        let segment = entry.segment();
        let wrong_size = self.is_ia32e() && !segment.is_long();
        if !segment.is_code() || segment.dpl() > self.cpl || wrong_size {
            return Err(self.selector_fault(blame, gate.selector));
        }
        let conforming = segment.attributes & attr::DOWN_CONFORMING != 0;
        let cpl = if conforming { self.cpl } else { segment.dpl() };
        if self.mode == Mode::Vm86 && cpl != 0 {
            return Err(self.selector_fault(blame, gate.selector));
        }
        let cs = self.code_segment(entry, cpl, blame)?;
        Ok((cs, cpl))
    }

    /// Interrupt and trap gates of 16 and 32 bits: same and inner privilege, and out of vm86.
    fn enter_gate(&mut self, event: &Event, gate: &Gate) -> Exec {
        let external = event.external();
        let (cs, cpl) = self.gate_code_segment(gate, external)?;
        let image = self.flags_image(event);
        let from_vm86 = self.mode == Mode::Vm86;
        let mut frame = if cpl < self.cpl {
            let mut frame = self.inner_stack(cpl, external)?;
            let bytes = gate.bytes;
            if from_vm86 {
                for index in [GS, FS, DS, ES] {
                    let selector = u64::from(self.segment(index).selector);
                    frame.push_sized(self, bytes, selector)?;
                }
            }
            let (ss, rsp) = (u64::from(self.segment(SS).selector), self.regs[4]);
            frame.push_sized(self, bytes, ss)?;
            frame.push_sized(self, bytes, rsp)?;
            frame
        } else {
            Frame::current(self, external)
        };
        self.push_frame(&mut frame, event, gate.bytes, image)?;
        self.check_target(&cs, gate.offset, external)?;
        frame.commit(self);
        if from_vm86 {
            for index in [GS, FS, DS, ES] {
                self.set_segment(index, null_segment(0));
            }
        }
        self.finish_gate(cs, gate);
        Ok(())
    }

    /// Pushes flags, CS, IP and the error code.
    fn push_frame(&mut self, frame: &mut Frame, event: &Event, bytes: u8, image: u64) -> Exec {
        let (selector, rip) = (u64::from(self.segment(1).selector), self.rip());
        frame.push_sized(self, bytes, image)?;
        frame.push_sized(self, bytes, selector)?;
        frame.push_sized(self, bytes, rip)?;
        if let Some(code) = event.error_code {
            frame.push_sized(self, bytes, u64::from(code))?;
        }
        Ok(())
    }

    /// Clears the flags that gates clear and enters the handler.
    fn finish_gate(&mut self, cs: Segment, gate: &Gate) {
        let mut clear = Flags::TF | Flags::NT | Flags::VM | Flags::RF;
        if gate.interrupt {
            clear |= Flags::IF;
        }
        self.state.rflags &= !clear.bits();
        self.enter_code(cs, gate.offset);
    }

    /// IA-32e mode: 16-byte gates into 64-bit code, always SS:RSP in the frame.
    fn deliver_long(&mut self, event: &Event) -> Exec {
        let code = event.gate_code();
        let at = u64::from(event.vector) * 16;
        if at + 15 > u64::from(self.state.idtr.limit) {
            return Err(self.fault(Exception::gp(code)));
        }
        let base = self.state.idtr.base.wrapping_add(at);
        let low: u64 = self.table_load(base)?;
        let high: u64 = self.table_load(base.wrapping_add(8))?;
        let kind = (low >> 40) as u8 & 0x1f;
        self.check_gate(event, low, matches!(kind, 14 | 15))?;
        let gate = Gate {
            selector: (low >> 16) as u16,
            offset: low & 0xffff | low >> 32 & 0xffff_0000 | high << 32,
            interrupt: kind == 14,
            bytes: 8,
            ist: (low >> 32) as u8 & 7,
        };
        let external = event.external();
        let (cs, cpl) = self.gate_code_segment(&gate, external)?;
        self.enter_long_gate(event, &gate, cs, cpl)
    }

    fn enter_long_gate(&mut self, event: &Event, gate: &Gate, cs: Segment, cpl: u8) -> Exec {
        let external = event.external();
        let (ss, rsp) = if cpl < self.cpl {
            let slot = if gate.ist != 0 { gate.ist + 3 } else { cpl };
            (Self::null_stack(cpl), self.long_stack_pointer(slot, external)?)
        } else {
            let rsp = if gate.ist != 0 {
                self.long_stack_pointer(gate.ist + 3, external)?
            } else {
                self.regs[4]
            };
            (*self.segment(SS), rsp)
        };
        self.check_target(&cs, gate.offset, external)?;
        let mut frame = Frame::long(ss, rsp & !15, cpl, external);
        let (old_ss, old_rsp) = (u64::from(self.segment(SS).selector), self.regs[4]);
        let image = self.flags_image(event);
        frame.push(self, old_ss)?;
        frame.push(self, old_rsp)?;
        self.push_frame(&mut frame, event, 8, image)?;
        frame.commit(self);
        self.finish_gate(cs, gate);
        Ok(())
    }

    /// Reads a bit of the current 32-bit or 64-bit TSS's I/O permission or interrupt redirection
    /// bitmap (SDM vol. 1, 19.5.2; vol. 3, 20.3.3); #GP(0) where the TSS has none.
    pub fn task_bitmap_bit(&mut self, which: Bitmap) -> Exec<bool> {
        let tr = self.state.tr;
        let limit = u64::from(tr.limit);
        if !tr.is_present() || tr.kind() & 0b1101 != 9 || limit < 0x67 {
            return Err(self.gp0());
        }
        let map = u64::from(self.table_load::<u16>(tr.base.wrapping_add(0x66))?);
        let (at, mask) = match which {
            Bitmap::Redirection(vector) => {
                let byte = map.wrapping_sub(32).wrapping_add(u64::from(vector / 8));
                (byte, 1u16 << (vector & 7))
            }
            Bitmap::Ports(port, width) => {
                let bits = (1u16 << width) - 1;
                (map + u64::from(port / 8), bits << (port & 7))
            }
        };
        if let Bitmap::Redirection(_) = which {
            if at > limit {
                return Err(self.gp0());
            }
            let byte: u8 = self.table_load(tr.base.wrapping_add(at))?;
            return Ok(u16::from(byte) & mask != 0);
        }
        // Two bytes are always read, so that a wide port may straddle them.
        if at + 1 > limit {
            return Err(self.gp0());
        }
        let word: u16 = self.table_load(tr.base.wrapping_add(at))?;
        Ok(word & mask != 0)
    }

    /// Raises a software event from an instruction whose successor RIP already is.
    pub fn software_event(&mut self, vector: u8, origin: Origin) -> Exec {
        self.deliver_event(&Event { vector, origin, error_code: None })
    }
}

/// Which bits of a TSS's bitmaps.
#[derive(Clone, Copy, Debug)]
pub enum Bitmap {
    /// A software interrupt's redirection bit.
    Redirection(u8),
    /// A port and the access's width in bytes: any bit set counts.
    Ports(u16, u8),
}

/// The event an exception becomes.
fn exception_event(exception: &Exception) -> Event {
    let vector = exception.vector;
    let fault = match vector {
        // Only general detect is a fault that sets RF; the rest are traps or breakpoints.
        Vector::Debug => exception.address & Dr6::BD.bits() != 0,
        Vector::Breakpoint | Vector::Overflow | Vector::Nmi => false,
        // Aborts leave RF alone; the faults they follow did not complete.
        Vector::DoubleFault | Vector::MachineCheck => false,
        _ => true,
    };
    let error_code = vector.has_error_code().then_some(exception.error_code);
    Event { vector: vector.number(), origin: Origin::Exception { fault }, error_code }
}

/// The double-fault table (SDM vol. 3, table 6-5): what follows when `second` is raised while
/// `first` is delivered; `None` is the triple fault.
fn combine(first: Vector, second: Exception) -> Option<Exception> {
    let serious = second.vector.is_contributory() || second.vector == Vector::PageFault;
    let double = match first {
        Vector::DoubleFault if serious => return None,
        Vector::PageFault => serious,
        _ => first.is_contributory() && second.vector.is_contributory(),
    };
    Some(if double { Exception::with_code(Vector::DoubleFault, 0) } else { second })
}
