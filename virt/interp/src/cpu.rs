//! One processor while it runs: registers where handlers want them, the rest in `CpuState`.
//!
//! While running, `regs` and `flags` hold what `state.gpr`, `state.rip` and the six status flags
//! of `state.rflags` hold at rest; [`Cpu::export`] and [`Cpu::import`] convert. Everything else
//! lives in `state` all the time. Invariant: whoever changes CR0, CR3, CR4, EFER, CPL, RFLAGS.AC,
//! RFLAGS.VM, CS, DR7, PKRU or PKRS calls [`Cpu::refresh`] before the next memory access.

use x86::{Activity, CpuState, Cr0, Cr4, Dr7, Efer, Exception, Flags, Segment, Vector};

use crate::bus::{Bus, CodeKind, Context};
use crate::flags::LazyFlags;
use crate::op::slot;
use crate::operand::SS;

/// The instruction did not simply finish: the reason is in [`Cpu::stop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap;

/// What handlers return.
pub type Exec<T = ()> = Result<T, Trap>;

/// Why an instruction did not simply finish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// It did.
    #[default]
    None,
    /// A fault: state is as before the instruction, the exception is to be delivered.
    Fault(Exception),
    /// A trap or software interrupt was raised after the instruction (INT3, INTO, INT n are
    /// delivered by their handlers; this is #DB for data breakpoints, task-switch T bit ...).
    TrapAfter(Exception),
    /// A REP string instruction was interrupted between elements: registers are updated, RIP must
    /// go back to the instruction.
    Repeat,
    /// HLT was executed.
    Halt,
    /// A fault while delivering a double fault, with the exception that completed it.
    TripleFault(Exception),
    /// The instruction is architectural, but this interpreter lacks it.
    Unsupported,
}

/// Derived from CS and mode bits: how code is fetched and decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Real mode.
    #[default]
    Real,
    /// Virtual-8086 mode.
    Vm86,
    /// Protected mode (and compatibility mode), 16-bit code segment.
    Protected16,
    /// Protected mode (and compatibility mode), 32-bit code segment.
    Protected32,
    /// 64-bit mode.
    Long,
}

/// One processor over a bus.
pub struct Cpu<B: Bus> {
    /// General registers 0-15, ZERO (16), RIP (17); the rest unused, so that `& 31` is in bounds.
    pub regs: [u64; 32],
    /// The six status flags.
    pub flags: LazyFlags,
    /// Everything else (and stale copies of the above).
    pub state: CpuState,
    /// Derived mode.
    pub mode: Mode,
    /// Derived CPL.
    pub cpl: u8,
    /// Why the last handler returned `Err`.
    pub stop: Stop,
    /// TF was set when the instruction began (set by the run loop); cleared by what swallows the
    /// step (events, SYSCALL with TF masked), taken by [`Cpu::debug_trap`].
    pub stepping: bool,
    /// The world.
    pub bus: B,
}

impl<B: Bus> Cpu<B> {
    /// A processor in a given state.
    pub fn new(state: CpuState, bus: B) -> Self {
        let mut cpu = Self {
            regs: [0; 32],
            flags: LazyFlags::default(),
            state,
            mode: Mode::Real,
            cpl: 0,
            stop: Stop::None,
            stepping: false,
            bus,
        };
        cpu.load_working_registers();
        cpu
    }

    /// Replaces the whole state.
    pub fn import(&mut self, state: &CpuState) {
        self.state = state.clone();
        self.stop = Stop::None;
        self.stepping = false;
        self.load_working_registers();
    }

    fn load_working_registers(&mut self) {
        self.regs[..16].copy_from_slice(&self.state.gpr);
        self.regs[slot::ZERO as usize] = 0;
        self.regs[slot::RIP as usize] = self.state.rip;
        self.flags = LazyFlags::from_bits(self.state.rflags);
        self.bus.set_watchpoints(self.state.dr, self.state.dr7);
        self.refresh();
    }

    /// Writes the working registers back, so that `state` is whole; valid between instructions.
    pub fn export(&mut self) -> &CpuState {
        self.state.gpr.copy_from_slice(&self.regs[..16]);
        self.state.rip = self.rip();
        self.state.rflags = self.rflags();
        &self.state
    }

    /// RIP: while a handler runs, of the next instruction.
    #[inline(always)]
    pub fn rip(&self) -> u64 {
        self.regs[slot::RIP as usize]
    }

    /// Sets RIP.
    #[inline(always)]
    pub fn set_rip(&mut self, rip: u64) {
        self.regs[slot::RIP as usize] = rip;
    }

    /// RFLAGS, whole.
    #[inline]
    pub fn rflags(&self) -> u64 {
        self.state.rflags & !Flags::STATUS.bits() | self.flags.bits() | Flags::FIXED.bits()
    }

    /// Replaces RFLAGS, whole, and refreshes what derives from it.
    pub fn set_rflags(&mut self, rflags: u64) {
        let changed = self.state.rflags ^ rflags;
        self.state.rflags = rflags | Flags::FIXED.bits();
        self.flags = LazyFlags::from_bits(rflags);
        if changed & (Flags::AC | Flags::VM).bits() != 0 {
            self.refresh();
        }
    }

    /// Whether a flag outside the six is set.
    #[inline(always)]
    pub fn has_flag(&self, flag: Flags) -> bool {
        debug_assert!(!Flags::STATUS.intersects(flag), "status flags are in `flags`");
        self.state.rflags & flag.bits() != 0
    }

    /// Whether CR0.PE is set.
    #[inline]
    pub fn is_protected(&self) -> bool {
        self.state.cr0 & Cr0::PE.bits() != 0
    }

    /// Whether IA-32e mode is active (64-bit or compatibility).
    #[inline]
    pub fn is_ia32e(&self) -> bool {
        self.state.msrs.efer & Efer::LMA.bits() != 0
    }

    /// Whether the code segment is 64-bit.
    #[inline(always)]
    pub fn is_long(&self) -> bool {
        self.mode == Mode::Long
    }

    /// A segment register by encoding order.
    #[inline(always)]
    pub fn segment(&self, index: u8) -> &Segment {
        &self.state.segments[(index as usize).min(5)]
    }

    /// Recomputes mode, CPL and the bus's context after a change of what they derive from.
    pub fn refresh(&mut self) {
        let state = &self.state;
        let cs = &state.segments[1];
        let vm = state.rflags & Flags::VM.bits() != 0;
        self.mode = if state.cr0 & Cr0::PE.bits() == 0 {
            Mode::Real
        } else if vm {
            Mode::Vm86
        } else if state.msrs.efer & Efer::LMA.bits() != 0 && cs.is_long() {
            Mode::Long
        } else if cs.is_big() {
            Mode::Protected32
        } else {
            Mode::Protected16
        };
        self.cpl = match self.mode {
            Mode::Real => 0,
            Mode::Vm86 => 3,
            _ => state.cpl(),
        };
        let user = self.cpl == 3;
        let ac = state.rflags & Flags::AC.bits() != 0;
        let keys = |bit: Cr4, rights: u32| if state.cr4 & bit.bits() != 0 { rights } else { 0 };
        self.bus.set_context(Context {
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.msrs.efer,
            user,
            ac,
            pkru: keys(Cr4::PKE, state.pkru),
            pkrs: keys(Cr4::PKS, state.msrs.pkrs as u32),
            align_check: user && ac && state.cr0 & Cr0::AM.bits() != 0,
            watch: state.dr7 & Dr7::ANY_ENABLED.bits() != 0,
            code: self.code_kind(),
        });
    }

    /// What can be taken for granted of the code that runs, the segment registers being as they are.
    pub fn code_kind(&self) -> CodeKind {
        let whole = |index: u8| self.segment(index).is_whole();
        let flat = |index: u8| whole(index) && self.segment(index).base == 0;
        let cs = self.segment(1);
        match self.mode {
            Mode::Long => CodeKind::Long,
            Mode::Protected32
                if cs.base == 0
                    && cs.limit == u32::MAX
                    && [0, SS, 3].into_iter().all(flat)
                    && self.segment(SS).is_big() =>
            {
                CodeKind::Flat { fs: whole(4), gs: whole(5) }
            }
            _ => CodeKind::Other,
        }
    }

    /// Whether CR4 has a bit.
    #[inline]
    pub fn has_cr4(&self, bit: Cr4) -> bool {
        self.state.cr4 & bit.bits() != 0
    }

    /// Whether CR0 has a bit.
    #[inline]
    pub fn has_cr0(&self, bit: Cr0) -> bool {
        self.state.cr0 & bit.bits() != 0
    }

    /// Whether the processor executes.
    pub fn is_running(&self) -> bool {
        self.state.activity == Activity::Running
    }

    /// Stops the current instruction with a fault.
    #[cold]
    pub fn fault(&mut self, exception: Exception) -> Trap {
        self.stop = Stop::Fault(exception);
        Trap
    }

    /// Stops the current instruction with #GP(0).
    #[cold]
    pub fn gp0(&mut self) -> Trap {
        self.fault(Exception::GP0)
    }

    /// Stops the current instruction with #UD.
    #[cold]
    pub fn ud(&mut self) -> Trap {
        self.fault(Exception::UD)
    }

    /// Stops the current instruction with an exception that has an error code.
    #[cold]
    pub fn fault_code(&mut self, vector: Vector, code: u32) -> Trap {
        self.fault(Exception::with_code(vector, code))
    }

    /// #GP(0) unless CPL is 0.
    #[inline]
    pub fn require_cpl0(&mut self) -> Exec {
        if self.cpl == 0 { Ok(()) } else { Err(self.gp0()) }
    }
}
