//! How a machine ended. Invariant: the first end counts; later ones are dropped.

use std::fmt;
use std::sync::Arc;

use engine::EngineError;
use x86::{CpuState, Exception, Reg};

/// Who reset the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetSource {
    /// The keyboard controller's command 0xfe or output port (ports 0x64, 0x60).
    KeyboardController,
    /// System control port A (0x92).
    PortA,
    /// The reset control register (0xcf9), also the ACPI reset register.
    ResetControl,
}

impl ResetSource {
    /// Its port.
    pub fn port(self) -> u16 {
        match self {
            Self::KeyboardController => 0x64,
            Self::PortA => 0x92,
            Self::ResetControl => 0xcf9,
        }
    }
}

/// How a machine ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The guest powered off (ACPI S5).
    PowerOff,
    /// The guest reset the machine.
    Reset {
        /// How.
        by: ResetSource,
    },
    /// The guest told that it panicked (pvpanic).
    Panic,
    /// A processor shut down after a fault while delivering a double fault.
    TripleFault {
        /// Which processor.
        cpu: u32,
        /// The last exception, where the engine knows it.
        exception: Option<Exception>,
        /// The processor's registers in a few lines.
        summary: String,
    },
    /// The guest wrote the debug exit port; the status is odd.
    DebugExit(u32),
    /// The host stopped it.
    Stopped,
    /// All processors halted with interrupts off: nothing can wake them.
    Halted,
    /// The engine does not implement an instruction the guest needs.
    Unsupported {
        /// Which processor.
        cpu: u32,
        /// Where.
        rip: u64,
        /// The instruction's bytes, as far as they could be read.
        bytes: Vec<u8>,
        /// The processor's registers in a few lines.
        summary: String,
    },
    /// The host failed the engine.
    EngineFailed {
        /// Which processor noticed.
        cpu: u32,
        /// How.
        error: Arc<EngineError>,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(f, "the guest powered off"),
            Self::Reset { by } => write!(f, "the guest reset itself through port {:#x}", by.port()),
            Self::Panic => write!(f, "the guest panicked"),
            Self::TripleFault { cpu, exception: None, .. } => {
                write!(f, "processor {cpu} triple-faulted")
            }
            Self::TripleFault { cpu, exception: Some(e), .. } => {
                let code = e.error_code;
                write!(f, "processor {cpu} triple-faulted after {:?} ({code:#x})", e.vector)
            }
            Self::DebugExit(code) => write!(f, "the guest ended itself with {code}"),
            Self::Stopped => write!(f, "the machine was stopped"),
            Self::Halted => write!(f, "every processor halted with interrupts off"),
            Self::Unsupported { cpu, rip, bytes, .. } => {
                write!(f, "processor {cpu} met an unknown instruction at {rip:#x}:")?;
                bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
            }
            Self::EngineFailed { cpu, error } => {
                write!(f, "the engine failed on processor {cpu}: {error}")
            }
        }
    }
}

/// A processor's registers in a few lines, for people.
pub(crate) fn summary(state: &CpuState) -> String {
    let reg = |reg: Reg| state.gpr[reg as usize];
    let cs = &state.segments[1];
    format!(
        "RIP {:04x}:{:016x} RFLAGS {:08x} {:?}\n\
         RAX {:016x} RBX {:016x} RCX {:016x} RDX {:016x}\n\
         RSI {:016x} RDI {:016x} RBP {:016x} RSP {:016x}\n\
         CR0 {:08x} CR2 {:016x} CR3 {:x} CR4 {:x} EFER {:x}\n\
         GDT {:x}+{:x} IDT {:x}+{:x} TR {:x}",
        cs.selector,
        state.rip,
        state.rflags,
        state.activity,
        reg(Reg::Rax),
        reg(Reg::Rbx),
        reg(Reg::Rcx),
        reg(Reg::Rdx),
        reg(Reg::Rsi),
        reg(Reg::Rdi),
        reg(Reg::Rbp),
        reg(Reg::Rsp),
        state.cr0,
        state.cr2,
        state.cr3,
        state.cr4,
        state.msrs.efer,
        state.gdtr.base,
        state.gdtr.limit,
        state.idtr.base,
        state.idtr.limit,
        state.tr.selector,
    )
}
