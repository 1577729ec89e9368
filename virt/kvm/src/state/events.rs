//! What is raised but not delivered, and what the vCPU is doing (api.rst, KVM_GET_VCPU_EVENTS,
//! KVM_GET_MP_STATE).
//!
//! KVM is not asked for exception payloads, so CR2 and DR6 are written by the time an exception
//! shows here; the neutral state carries the address too. Software interrupts and INT3/INTO whose
//! delivery was cut short are left out: RIP is still at the instruction, which runs again.

use engine::EngineError;
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW,
    KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI, kvm_mp_state, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;
use x86::{Activity, CpuState, Dr6, Exception, Vector};

use crate::error::failed;

/// What the vCPU is doing; lets a pending INIT or start-up IPI take effect first.
pub(crate) fn activity(fd: &VcpuFd) -> Result<Activity, EngineError> {
    let state = fd.get_mp_state().map_err(failed("KVM_GET_MP_STATE"))?;
    Ok(match state.mp_state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForSipi,
        _ => Activity::Running,
    })
}

/// A shut-down processor stays runnable for KVM; the vCPU does not run it.
pub(super) fn set_activity(fd: &VcpuFd, activity: Activity) -> Result<(), EngineError> {
    let mp_state = match activity {
        Activity::Running | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        // Not UNINITIALIZED: after RESET a start-up IPI alone is enough.
        Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
    };
    fd.set_mp_state(kvm_mp_state { mp_state }).map_err(failed("KVM_SET_MP_STATE"))
}

pub(super) fn save(fd: &VcpuFd, state: &mut CpuState) -> Result<(), EngineError> {
    let events = get(fd)?;
    state.pending_exception = exception(&events, state)?;
    let interrupt = events.interrupt;
    state.pending_interrupt =
        (interrupt.injected != 0 && interrupt.soft == 0).then_some(interrupt.nr);
    let shadow = u32::from(interrupt.shadow);
    state.sti_shadow = shadow & KVM_X86_SHADOW_INT_STI != 0;
    state.mov_ss_shadow = shadow & KVM_X86_SHADOW_INT_MOV_SS != 0;
    // An NMI on its way in has already blocked the next one, but is itself still to come.
    let injected = events.nmi.injected != 0;
    state.nmi_pending = injected || events.nmi.pending != 0;
    state.nmi_blocked = !injected && events.nmi.masked != 0;
    Ok(())
}

fn exception(events: &kvm_vcpu_events, state: &CpuState) -> Result<Option<Exception>, EngineError> {
    let raised = &events.exception;
    if raised.injected == 0 && raised.pending == 0 {
        return Ok(None);
    }
    let vector = match vector(raised.nr) {
        Some(Vector::Breakpoint | Vector::Overflow) => return Ok(None),
        Some(vector) => vector,
        None => {
            let what = "the pending exception's vector";
            return Err(EngineError::Unsupported { engine: "kvm", what });
        }
    };
    let address = match vector {
        Vector::PageFault => state.cr2,
        Vector::Debug => state.dr6 & DR6_CAUSES,
        _ => 0,
    };
    Ok(Some(Exception { vector, error_code: raised.error_code, address }))
}

const DR6_CAUSES: u64 = Dr6::B0
    .union(Dr6::B1)
    .union(Dr6::B2)
    .union(Dr6::B3)
    .union(Dr6::BD)
    .union(Dr6::BS)
    .union(Dr6::BT)
    .bits();

pub(super) fn load(fd: &VcpuFd, state: &CpuState) -> Result<(), EngineError> {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    if let Some(exception) = state.pending_exception {
        events.exception.injected = 1;
        events.exception.nr = exception.vector.number();
        // Real mode pushes no error codes.
        let protected = state.cr0 & x86::Cr0::PE.bits() != 0;
        events.exception.has_error_code = (protected && exception.vector.has_error_code()).into();
        events.exception.error_code = exception.error_code;
        if exception.vector == Vector::Debug {
            let mut debug = fd.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?;
            debug.dr6 |= exception.address & DR6_CAUSES;
            fd.set_debug_regs(&debug).map_err(failed("KVM_SET_DEBUGREGS"))?;
        }
    }
    if let Some(vector) = state.pending_interrupt {
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
    }
    let shadow = |on: bool, bit: u32| if on { bit as u8 } else { 0 };
    events.interrupt.shadow = shadow(state.sti_shadow, KVM_X86_SHADOW_INT_STI)
        | shadow(state.mov_ss_shadow, KVM_X86_SHADOW_INT_MOV_SS);
    events.nmi.pending = state.nmi_pending.into();
    events.nmi.masked = state.nmi_blocked.into();
    fd.set_vcpu_events(&events).map_err(failed("KVM_SET_VCPU_EVENTS"))
}

/// Queues an acknowledged ExtINT vector; false if another event is in the way.
///
/// Not by KVM_INTERRUPT: a vector that KVM keeps there shows in no saved state, and a kick can
/// come before it is delivered. `vector` is asked only once it is certain to be taken.
pub(crate) fn inject_external(
    fd: &VcpuFd,
    vector: impl FnOnce() -> Option<u8>,
) -> Result<bool, EngineError> {
    let mut events = get(fd)?;
    let (exception, interrupt) = (&events.exception, &events.interrupt);
    if exception.injected | exception.pending | interrupt.injected | events.nmi.injected != 0 {
        return Ok(false);
    }
    let Some(vector) = vector() else { return Ok(true) };
    events.interrupt.injected = 1;
    events.interrupt.nr = vector;
    events.interrupt.soft = 0;
    fd.set_vcpu_events(&events).map_err(failed("KVM_SET_VCPU_EVENTS"))?;
    if activity(fd)? == Activity::Halted {
        set_activity(fd, Activity::Running)?;
    }
    Ok(true)
}

fn get(fd: &VcpuFd) -> Result<kvm_vcpu_events, EngineError> {
    fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))
}

fn vector(number: u8) -> Option<Vector> {
    const ALL: [Vector; 20] = [
        Vector::DivideError,
        Vector::Debug,
        Vector::Nmi,
        Vector::Breakpoint,
        Vector::Overflow,
        Vector::BoundRange,
        Vector::InvalidOpcode,
        Vector::DeviceNotAvailable,
        Vector::DoubleFault,
        Vector::InvalidTss,
        Vector::SegmentNotPresent,
        Vector::StackFault,
        Vector::GeneralProtection,
        Vector::PageFault,
        Vector::MathFault,
        Vector::AlignmentCheck,
        Vector::MachineCheck,
        Vector::SimdFault,
        Vector::Virtualization,
        Vector::ControlProtection,
    ];
    ALL.into_iter().find(|vector| vector.number() == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(nr: u8, error_code: u32) -> kvm_vcpu_events {
        let mut events = kvm_vcpu_events::default();
        (events.exception.injected, events.exception.nr) = (1, nr);
        events.exception.error_code = error_code;
        events
    }

    #[test]
    fn a_page_fault_carries_its_address() {
        let state = CpuState { cr2: 0xdead_b000, ..CpuState::reset(0) };
        let fault = exception(&raised(14, 2), &state).unwrap();
        assert_eq!(fault, Some(Exception::page_fault(0xdead_b000, 2)));
    }

    #[test]
    fn an_interrupted_int3_runs_again() {
        assert_eq!(exception(&raised(3, 0), &CpuState::reset(0)).unwrap(), None);
    }

    #[test]
    fn an_unknown_vector_is_an_error_not_a_guess() {
        assert!(exception(&raised(29, 0), &CpuState::reset(0)).is_err());
    }
}
