//! Opening /dev/kvm: every way it can fail has its own sentence (api.rst, 4.1-4.4).

use std::io::ErrorKind;

use kvm_bindings::{KVM_API_VERSION, KVM_CAP_SET_GUEST_DEBUG2, KVM_GUESTDBG_BLOCKIRQ};
use kvm_ioctls::{Cap, Kvm, VmFd};

use crate::error::{KvmError, refused};

/// Opens /dev/kvm and checks that it has all the engine builds on.
pub(crate) fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| classify_open(error.into()))?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        return Err(KvmError::Version { version });
    }
    for (capability, what) in [
        (Cap::UserMemory, "user memory regions"),
        (Cap::SplitIrqchip, "the split interrupt controller"),
        (Cap::ImmediateExit, "immediate exit"),
        (Cap::SignalMsi, "MSI signalling"),
        (Cap::X2ApicApi, "the x2APIC interface"),
        (Cap::VcpuEvents, "vCPU events"),
        (Cap::MpState, "multiprocessing state"),
        (Cap::Xcrs, "extended control registers"),
        (Cap::SetTssAddr, "a TSS address"),
    ] {
        if !kvm.check_extension(capability) {
            return Err(KvmError::Lacks { what });
        }
    }
    Ok(kvm)
}

fn classify_open(error: std::io::Error) -> KvmError {
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound, _) => KvmError::Missing,
        (ErrorKind::PermissionDenied, _) => KvmError::Denied,
        (_, Some(libc::ENODEV | libc::ENXIO)) => KvmError::NoHardware,
        (_, Some(libc::EBUSY)) => KvmError::Busy,
        _ => KvmError::Host { call: "opening /dev/kvm", source: error },
    }
}

/// KVM_CREATE_VM: a signal may interrupt it, and another hypervisor shows here first.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    loop {
        match kvm.create_vm() {
            Ok(vm) => return Ok(vm),
            Err(error) => match error.errno() {
                libc::EINTR => continue,
                libc::EBUSY => return Err(KvmError::Busy),
                libc::ENODEV | libc::EOPNOTSUPP => return Err(KvmError::NoHardware),
                _ => return Err(refused("KVM_CREATE_VM")(error)),
            },
        }
    }
}

/// Whether single step can hold interrupts back (Linux 5.15 and later).
pub(crate) fn can_block_interrupts_in_step(vm: &VmFd) -> bool {
    vm.check_extension_raw(KVM_CAP_SET_GUEST_DEBUG2.into()) as u32 & KVM_GUESTDBG_BLOCKIRQ != 0
}

/// The host's time-stamp counter.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no precondition on x86-64; CR4.TSD would fault, not misbehave.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_fail_has_its_own_error() {
        let of = |code| classify_open(std::io::Error::from_raw_os_error(code));
        assert!(matches!(of(libc::ENOENT), KvmError::Missing));
        assert!(matches!(of(libc::EACCES), KvmError::Denied));
        assert!(matches!(of(libc::EPERM), KvmError::Denied));
        assert!(matches!(of(libc::ENODEV), KvmError::NoHardware));
        assert!(matches!(of(libc::EBUSY), KvmError::Busy));
        assert!(matches!(of(libc::EMFILE), KvmError::Host { .. }));
    }
}
