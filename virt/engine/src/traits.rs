//! The traits every engine implements. An optional ability is a value in [`Capabilities`].

use std::sync::Arc;

use memory::GuestMemory;
use x86::CpuState;
use x86::cpuid::CpuidEntry;

use crate::exit::{Budget, EngineError, Exit};
use crate::io::{GuestIo, MsiMessage};
use crate::paths::KernelPaths;

/// What a VM is made of, as far as an engine must know.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// Guest RAM; engines map its regions at their guest-physical addresses.
    pub memory: Arc<GuestMemory>,
    /// Number of vCPUs, 1-255; APIC ids are 0..cpus.
    pub cpus: u32,
}

/// What an engine can do, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Short name: "soft" or "kvm".
    pub name: &'static str,
    /// The guest TSC's frequency in kHz.
    pub tsc_khz: u32,
    /// `Budget::Instructions(n)` works for every n.
    pub instruction_budget: bool,
}

/// One VM on one engine. Shared between threads.
pub trait Engine: Send + Sync {
    /// What this engine can do.
    fn capabilities(&self) -> &Capabilities;

    /// The CPUID table that guests see on vCPU 0 (APIC ids are patched per vCPU).
    fn cpuid(&self) -> &[CpuidEntry];

    /// Creates the vCPU with this index (= APIC id), in its reset state. Each index once; the
    /// vCPU may then be moved to the thread that runs it.
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, EngineError>;

    /// Delivers an MSI: from IOAPIC, device, or anything that writes 0xFEEx_xxxx.
    fn signal_msi(&self, message: MsiMessage) -> Result<(), EngineError>;

    /// Sets the level of the 8259 pair's INTR output, wired to LINT0 of vCPU 0. While high the
    /// engine fetches vectors by [`GuestIo::acknowledge_pic`].
    fn set_pic_output(&self, high: bool);

    /// Delivers an NMI to one vCPU.
    fn inject_nmi(&self, index: u32) -> Result<(), EngineError>;

    /// Ways for doorbells and messages through the host's kernel alone; `None`: this engine has none.
    fn kernel_paths(&self) -> Option<&dyn KernelPaths> {
        None
    }
}

/// Stops a running vCPU from another thread: its `run` returns `Exit::Interrupted` soon, or at
/// once the next time it is called.
pub trait Kick: Send + Sync {
    /// Kicks.
    fn kick(&self);
}

/// One processor. `run` is called from one thread at a time.
pub trait Vcpu: Send {
    /// Runs until the machine must decide something. Waits inside for interrupts after HLT and
    /// for the start-up IPI of an application processor; a kick ends every wait.
    fn run(&mut self, io: &mut dyn GuestIo, until: Budget) -> Result<Exit, EngineError>;

    /// The whole state, valid because `run` returns only at instruction boundaries.
    fn state(&mut self) -> Result<CpuState, EngineError>;

    /// Replaces the whole state.
    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError>;

    /// Instructions retired since creation, counted as the crate's documentation says; `None`:
    /// this engine does not count. Not part of the state, which is the guest's.
    fn retired(&self) -> Option<u64>;

    /// A handle that stops this vCPU from other threads.
    fn kicker(&self) -> Arc<dyn Kick>;
}
