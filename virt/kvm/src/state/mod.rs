//! The neutral `CpuState` in and out of one KVM vCPU, in the order KVM wants (api.rst, 4.11-4.144).
//!
//! Order matters in both directions. Out: KVM_GET_MP_STATE first, because it lets a pending INIT
//! or start-up IPI take effect, which changes everything else. In: control registers and APIC base
//! before what depends on the mode; the TSC before whatever counts by it; the local APIC before
//! its TSC deadline; events last, because setting registers drops them.
//! Invariant: what is saved here loads in any engine, and the other way round.

mod events;
mod lapic;
mod msrs;
mod regs;
mod tsc;
mod xsave;

use engine::EngineError;
use kvm_ioctls::{VcpuFd, VmFd};
use x86::CpuState;
use x86::cpuid::CpuidEntry;
use x86::lapic::reg;

pub(crate) use events::{activity, inject_external};

use crate::error::failed;
use msrs::MsrList;
use tsc::TscOffset;
use xsave::XsaveLayout;

/// What this host can move, found once per VM.
pub(crate) struct StateLayout {
    msrs: MsrList,
    xsave: XsaveLayout,
    tsc: TscOffset,
}

impl StateLayout {
    /// Asks a vCPU whose CPUID is set.
    pub(crate) fn of(fd: &VcpuFd, cpuid: &[CpuidEntry]) -> Self {
        Self { msrs: MsrList::of(fd), xsave: XsaveLayout::of(cpuid), tsc: TscOffset::of(fd) }
    }

    /// Reads the whole state.
    pub(crate) fn save(&self, fd: &VcpuFd, index: u32) -> Result<CpuState, EngineError> {
        let mut state = CpuState::reset(index);
        state.activity = events::activity(fd)?;
        regs::save(fd, &mut state)?;
        state.xcr0 = xsave::save_xcr0(fd)?;
        (state.xsave, state.pkru) = self.xsave.save(fd)?;
        self.msrs.save(fd, &mut state.msrs)?;
        state.msrs.tsc_offset = self.tsc.get(fd)?;
        state.lapic = lapic::save(fd)?;
        state.lapic.tsc_deadline = msrs::tsc_deadline(fd)?;
        events::save(fd, &mut state)?;
        Ok(state)
    }

    /// Replaces the whole state. vCPU 0 also sets the VM's clock.
    pub(crate) fn load(
        &self,
        vm: &VmFd,
        fd: &VcpuFd,
        index: u32,
        state: &CpuState,
        tsc_khz: u32,
    ) -> Result<(), EngineError> {
        regs::load_special(fd, state)?;
        xsave::load_xcr0(fd, state.xcr0)?;
        self.xsave.load(fd, &state.xsave, state.pkru)?;
        regs::load_general(fd, state)?;
        self.tsc.set(fd, state.msrs.tsc_offset)?;
        if index == 0 {
            set_clock(vm, tsc::guest_now(state.msrs.tsc_offset), tsc_khz)?;
        }
        self.msrs.load(fd, &state.msrs)?;
        lapic::load(fd, &state.lapic)?;
        msrs::set_tsc_deadline(fd, state.lapic.tsc_deadline)?;
        events::set_activity(fd, state.activity)?;
        events::load(fd, state)
    }
}

/// Level-triggered vectors requested or in service: their ends are still to be reported.
pub(crate) fn level_vectors(state: &CpuState) -> impl Iterator<Item = u8> + '_ {
    let bit = |bank: usize, vector: usize| {
        state.lapic.registers[bank + vector / 32] >> (vector % 32) & 1 != 0
    };
    (0..256usize)
        .filter(move |&v| bit(reg::TMR, v) && (bit(reg::ISR, v) || bit(reg::IRR, v)))
        .map(|v| v as u8)
}

/// kvmclock counts nanoseconds of vCPU 0's guest TSC, so that it goes on where it was on whatever
/// host or engine the state came from.
fn set_clock(vm: &VmFd, guest_tsc: u64, tsc_khz: u32) -> Result<(), EngineError> {
    let ns = u128::from(guest_tsc) * 1_000_000 / u128::from(tsc_khz.max(1));
    let clock = kvm_bindings::kvm_clock_data { clock: ns as u64, ..Default::default() };
    vm.set_clock(&clock).map_err(failed("KVM_SET_CLOCK"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_level_vectors_under_way_are_expected() {
        let mut state = CpuState::reset(0);
        state.lapic.registers[reg::TMR + 1] = 0b111;
        state.lapic.registers[reg::ISR + 1] = 0b001;
        state.lapic.registers[reg::IRR + 1] = 0b1010;
        assert_eq!(level_vectors(&state).collect::<Vec<_>>(), [32, 33]);
    }
}
