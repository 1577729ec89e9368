//! The run loop: KVM_RUN and what to do about each of its exits (api.rst, 5).
//!
//! A port or MMIO access is finished by the *next* KVM_RUN. Since a kick sets `immediate_exit`,
//! which ends that KVM_RUN only after it has finished the access, -EINTR is always an instruction
//! boundary (or one between the repetitions of a string instruction): `run` returns a kick there
//! and nowhere else.
//!
//! ExtINT: while the 8259 pair's output is high, vCPU 0 asks KVM for the moment it would take an
//! external interrupt (the kernel looks at IF, the shadow and LINT0's mode), acknowledges the
//! vector then and queues it.

use std::sync::atomic::Ordering;

use engine::{EngineError, Exit, GuestIo, ShutdownCause};
use kvm_bindings::{
    KVM_EXIT_IO_IN, KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP,
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_guest_debug, kvm_run,
};
use kvm_ioctls::VcpuExit;
use x86::{Activity, Flags, GuestPhys};

use crate::error::failed;
use crate::kick::{self, Answering};
use crate::state::{activity, inject_external};
use crate::vcpu::KvmVcpu;

/// What one KVM_RUN came to.
enum Outcome {
    /// Handled; run on.
    Continue,
    /// A signal or `immediate_exit`: an instruction boundary.
    Boundary,
    /// One instruction was stepped.
    Stepped,
    /// A port or MMIO access was done; the instruction is not finished yet.
    Accessed,
    /// The machine must decide.
    Exit(Exit),
}

impl KvmVcpu {
    /// Runs until something happens.
    pub(crate) fn run_freely(&mut self, io: &mut dyn GuestIo) -> Result<Exit, EngineError> {
        self.in_run(|vcpu, answering| {
            loop {
                vcpu.prepare(io, answering)?;
                match vcpu.enter(io)? {
                    Outcome::Continue | Outcome::Accessed | Outcome::Stepped => {}
                    Outcome::Boundary => {
                        if let Some(exit) = vcpu.at_boundary()? {
                            return Ok(exit);
                        }
                    }
                    Outcome::Exit(exit) => return Ok(exit),
                }
            }
        })
    }

    /// Runs one instruction by the trap flag, which KVM hides from the guest.
    pub(crate) fn run_one(&mut self, io: &mut dyn GuestIo) -> Result<Exit, EngineError> {
        let mut control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        if self.shared.step_blocks_interrupts {
            // Without it an interrupt's delivery clears TF and the step ends at its IRET.
            control |= KVM_GUESTDBG_BLOCKIRQ;
        }
        self.set_debug(control)?;
        let result = self.in_run(|vcpu, answering| vcpu.step(io, answering));
        self.set_debug(0)?;
        result
    }

    fn step(&mut self, io: &mut dyn GuestIo, answering: &Answering) -> Result<Exit, EngineError> {
        let mut accessed = false;
        loop {
            // No 8259 here: a vector queued now would be delivered despite the block.
            answering.rearm();
            if accessed {
                answering.exit_at_once();
            }
            match self.enter(io)? {
                Outcome::Continue => {}
                Outcome::Accessed => accessed = true,
                Outcome::Stepped => return Ok(Exit::BudgetSpent),
                // The access is finished, and so is the instruction, whatever KVM says of it.
                Outcome::Boundary if accessed => return Ok(Exit::BudgetSpent),
                Outcome::Boundary => {
                    if let Some(exit) = self.at_boundary()? {
                        return Ok(exit);
                    }
                }
                Outcome::Exit(exit) => return Ok(exit),
            }
        }
    }

    fn set_debug(&self, control: u32) -> Result<(), EngineError> {
        let debug = kvm_guest_debug { control, ..Default::default() };
        self.fd.set_guest_debug(&debug).map_err(failed("KVM_SET_GUEST_DEBUG"))
    }

    /// Surrounds a run: reachable by other threads, watched for a dead halt.
    fn in_run(
        &mut self,
        body: impl FnOnce(&mut Self, &Answering) -> Result<Exit, EngineError>,
    ) -> Result<Exit, EngineError> {
        kick::prepare_thread();
        if self.index == 0 {
            self.watch.start()?;
        }
        let doorbell = self.doorbell.clone();
        let answering = doorbell.answer(&mut self.fd);
        let result = body(self, &answering);
        drop(answering);
        if self.index == 0 {
            self.watch.stop();
        }
        self.shared.roll.report(self.index, false);
        result
    }

    /// Before each KVM_RUN: the flag and the 8259 pair.
    fn prepare(&mut self, io: &mut dyn GuestIo, answering: &Answering) -> Result<(), EngineError> {
        answering.rearm();
        if self.index != 0 {
            return Ok(());
        }
        let mut want_window = false;
        if self.shared.pic_output.load(Ordering::SeqCst) {
            match self.ready {
                // One look inside tells.
                None => answering.exit_at_once(),
                Some(false) => want_window = true,
                Some(true) => {
                    inject_external(&self.fd, || io.acknowledge_pic())?;
                    self.ready = Some(false);
                    want_window = self.shared.pic_output.load(Ordering::SeqCst);
                }
            }
        }
        self.fd.get_kvm_run().request_interrupt_window = want_window.into();
        Ok(())
    }

    /// One KVM_RUN.
    fn enter(&mut self, io: &mut dyn GuestIo) -> Result<Outcome, EngineError> {
        let outcome = match self.fd.run() {
            Ok(VcpuExit::MmioRead(address, data)) => {
                io.mmio_read(GuestPhys(address), data);
                Outcome::Accessed
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                io.mmio_write(GuestPhys(address), data);
                Outcome::Accessed
            }
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
                port_access(self.fd.get_kvm_run(), io);
                Outcome::Accessed
            }
            Ok(VcpuExit::IoapicEoi(vector)) => {
                io.end_of_interrupt(vector);
                Outcome::Continue
            }
            Ok(VcpuExit::IrqWindowOpen) => Outcome::Continue,
            Ok(VcpuExit::Intr) => Outcome::Boundary,
            Ok(VcpuExit::Debug(_)) => Outcome::Stepped,
            Ok(VcpuExit::Hlt) => Outcome::Exit(Exit::Halted),
            Ok(VcpuExit::Shutdown) => {
                self.shut_down = true;
                Outcome::Exit(Exit::Shutdown(ShutdownCause::TripleFault(None)))
            }
            Ok(VcpuExit::InternalError) => {
                let reason = internal_error(self.fd.get_kvm_run());
                return Err(self.internal(reason));
            }
            Ok(VcpuExit::FailEntry(hardware, cpu)) => {
                let reason =
                    format!("VM entry refused, hardware reason {hardware:#x} on cpu {cpu}");
                return Err(self.internal(reason));
            }
            Ok(VcpuExit::SystemEvent(kind, data)) => {
                let reason = format!("unexpected system event {kind} {data:x?}");
                return Err(self.internal(reason));
            }
            Ok(VcpuExit::MemoryFault { gpa, size, .. }) => {
                let reason = format!("memory fault at guest-physical {gpa:#x}..+{size:#x}");
                return Err(self.internal(reason));
            }
            Ok(other) => {
                let reason = format!("unexpected exit {other:?}");
                return Err(self.internal(reason));
            }
            Err(error) if error.errno() == libc::EINTR => Outcome::Boundary,
            // A processor that waits for its start-up IPI looked up, or has just got it.
            Err(error) if error.errno() == libc::EAGAIN => Outcome::Continue,
            Err(error) => return Err(failed("KVM_RUN")(error)),
        };
        self.ready = Some(self.fd.get_kvm_run().ready_for_interrupt_injection != 0);
        Ok(outcome)
    }

    /// After a signal: a kick, a nudge or the watch's timer.
    fn at_boundary(&mut self) -> Result<Option<Exit>, EngineError> {
        if self.doorbell.take_kick() {
            return Ok(Some(Exit::Interrupted));
        }
        let nudged = self.doorbell.take_nudge();
        let dead = self.is_dead()?;
        let (index, shared) = (self.index, &self.shared);
        if index != 0 {
            shared.roll.report(index, dead);
            return Ok(None);
        }
        if !dead {
            shared.roll.report(index, false);
            if !nudged {
                self.watch.again(false);
            }
            return Ok(None);
        }
        let others = &shared.doorbells[1..];
        if others.is_empty() || shared.roll.all_dead() {
            return Ok(Some(Exit::Halted));
        }
        shared.roll.begin_round();
        shared.roll.report(index, true);
        others.iter().for_each(|doorbell| doorbell.nudge());
        self.watch.again(true);
        Ok(None)
    }

    /// Halted with interrupts off and no NMI, or waiting for a start-up IPI.
    fn is_dead(&self) -> Result<bool, EngineError> {
        Ok(match activity(&self.fd)? {
            Activity::WaitForSipi => true,
            Activity::Halted => {
                let regs = self.fd.get_regs().map_err(failed("KVM_GET_REGS"))?;
                let events = self.fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
                let nmi = events.nmi.pending | events.nmi.injected;
                regs.rflags & Flags::IF.bits() == 0 && nmi == 0
            }
            Activity::Running | Activity::Shutdown => false,
        })
    }

    fn internal(&self, reason: String) -> EngineError {
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        EngineError::Internal { rip, reason }
    }
}

/// Does the port accesses of one exit: a string instruction batches many of the same width.
fn port_access(run: &mut kvm_run, io: &mut dyn GuestIo) {
    // SAFETY: the caller saw KVM_EXIT_IO, whose member of the union this is.
    let access = unsafe { run.__bindgen_anon_1.io };
    let (width, count) = (usize::from(access.size), access.count as usize);
    let base = std::ptr::from_mut(run).cast::<u8>();
    // SAFETY: data_offset and the length lie in the mapping that starts with kvm_run, as the
    // kernel promises for KVM_EXIT_IO; nothing else refers to those bytes meanwhile.
    let data = unsafe {
        std::slice::from_raw_parts_mut(base.add(access.data_offset as usize), width * count)
    };
    let input = u32::from(access.direction) == KVM_EXIT_IO_IN;
    for piece in data.chunks_exact_mut(width.max(1)) {
        if input {
            io.port_in(access.port, piece);
        } else {
            io.port_out(access.port, piece);
        }
    }
}

/// KVM_EXIT_INTERNAL_ERROR in words.
fn internal_error(run: &kvm_run) -> String {
    // SAFETY: the caller saw KVM_EXIT_INTERNAL_ERROR, whose members of the union these are; all
    // of their bits are plain integers.
    let (error, failure) =
        unsafe { (run.__bindgen_anon_1.internal, run.__bindgen_anon_1.emulation_failure) };
    let what = match error.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "it cannot emulate the instruction",
        KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions at once",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while delivering an event",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit it does not expect",
        other => return format!("internal error {other}"),
    };
    let has_bytes =
        failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if error.suberror == KVM_INTERNAL_ERROR_EMULATION && failure.ndata >= 3 && has_bytes {
        // SAFETY: the flag says that this member of the inner union is the one filled in.
        let bytes = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        let length = usize::from(bytes.insn_size).min(bytes.insn_bytes.len());
        return format!("{what} {:02x?}", &bytes.insn_bytes[..length]);
    }
    let data = &error.data[..(error.ndata as usize).min(error.data.len())];
    format!("{what} {data:x?}")
}
