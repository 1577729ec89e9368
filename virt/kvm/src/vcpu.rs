//! One processor on KVM behind the engine seam.
//!
//! Invariant: outside `run` no port or MMIO access is half done and no debug control is set, so
//! KVM's registers are the state at an instruction boundary.

use std::sync::Arc;

use engine::{Budget, EngineError, Exit, GuestIo, Kick, MsiMessage, ShutdownCause, Vcpu};
use kvm_ioctls::VcpuFd;
use x86::{Activity, CpuState};

use crate::engine::Shared;
use crate::halt::Watch;
use crate::kick::Doorbell;
use crate::routes::LEVEL;
use crate::state;

/// A vCPU. Its file descriptor is dropped before the memory it runs on.
pub(crate) struct KvmVcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) index: u32,
    pub(crate) doorbell: Arc<Doorbell>,
    pub(crate) watch: Watch,
    /// Whether KVM would take an external interrupt now; unknown after the state was replaced.
    pub(crate) ready: Option<bool>,
    /// A triple fault ended it: KVM may have reset the registers, only a new state helps.
    pub(crate) shut_down: bool,
    pub(crate) shared: Arc<Shared>,
}

impl KvmVcpu {
    pub(crate) fn new(shared: Arc<Shared>, fd: VcpuFd, index: u32) -> Self {
        let doorbell = shared.doorbells[index as usize].clone();
        let watch = Watch::new();
        Self { fd, index, doorbell, watch, ready: None, shut_down: false, shared }
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, io: &mut dyn GuestIo, until: Budget) -> Result<Exit, EngineError> {
        if self.shut_down {
            return Ok(Exit::Shutdown(ShutdownCause::TripleFault(None)));
        }
        match until {
            Budget::Unlimited => self.run_freely(io),
            Budget::Instructions(0) => Ok(Exit::BudgetSpent),
            Budget::Instructions(1) => self.run_one(io),
            Budget::Instructions(_) => {
                let what = "a budget of more than one instruction";
                Err(EngineError::Unsupported { engine: "kvm", what })
            }
        }
    }

    fn state(&mut self) -> Result<CpuState, EngineError> {
        let mut state = self.shared.layout.save(&self.fd, self.index)?;
        if self.shut_down {
            state.activity = Activity::Shutdown;
        }
        Ok(state)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        let shared = &self.shared;
        // Ends of interrupts that another engine or host has begun are awaited here.
        for vector in state::level_vectors(state) {
            let address = 0xfee0_0000 | u64::from(self.index) << 12;
            let message = MsiMessage { address, data: u32::from(vector) | LEVEL };
            shared.routes.expect(&shared.vm, message)?;
        }
        let tsc_khz = shared.capabilities.tsc_khz;
        shared.layout.load(&shared.vm, &self.fd, self.index, state, tsc_khz)?;
        self.ready = None;
        self.shut_down = state.activity == Activity::Shutdown;
        Ok(())
    }

    fn retired(&self) -> Option<u64> {
        None
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.doorbell.clone()
    }
}
