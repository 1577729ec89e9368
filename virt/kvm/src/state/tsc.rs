//! The guest's TSC as an offset from the host's (Linux Documentation/virt/kvm/devices/vcpu.rst,
//! KVM_VCPU_TSC_CTRL).
//!
//! Since Linux 5.16 KVM says and takes the offset itself; before, it is measured against the MSR,
//! exact to the time between two instructions.

use std::os::fd::AsRawFd;

use engine::EngineError;
use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use x86::msr;

use super::msrs;
use crate::host::rdtsc;

/// _IOW(KVMIO, 0xe1..=0xe3, struct kvm_device_attr), which kvm-ioctls has on other
/// architectures' vCPUs only.
const KVM_SET_DEVICE_ATTR: libc::Ioctl = 0x4018_aee1;
const KVM_GET_DEVICE_ATTR: libc::Ioctl = 0x4018_aee2;
const KVM_HAS_DEVICE_ATTR: libc::Ioctl = 0x4018_aee3;

/// How this host moves the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TscOffset {
    /// By the vCPU attribute.
    Attribute,
    /// By the MSR.
    Register,
}

/// The guest TSC now.
pub(super) fn guest_now(offset: u64) -> u64 {
    rdtsc().wrapping_add(offset)
}

impl TscOffset {
    pub(super) fn of(fd: &VcpuFd) -> Self {
        let known = attribute(fd, KVM_HAS_DEVICE_ATTR, "KVM_HAS_DEVICE_ATTR", &mut 0).is_ok();
        if known { Self::Attribute } else { Self::Register }
    }

    pub(super) fn get(self, fd: &VcpuFd) -> Result<u64, EngineError> {
        match self {
            Self::Attribute => {
                let mut offset = 0;
                attribute(fd, KVM_GET_DEVICE_ATTR, "reading the TSC offset", &mut offset)?;
                Ok(offset)
            }
            Self::Register => {
                let guest = msrs::read(fd, &[msr::TSC])?.first().copied().unwrap_or(0);
                Ok(guest.wrapping_sub(rdtsc()))
            }
        }
    }

    pub(super) fn set(self, fd: &VcpuFd, offset: u64) -> Result<(), EngineError> {
        match self {
            Self::Attribute => {
                attribute(fd, KVM_SET_DEVICE_ATTR, "setting the TSC offset", &mut offset.clone())
            }
            Self::Register => msrs::write(fd, &[(msr::TSC, guest_now(offset))]).map(drop),
        }
    }
}

/// One of the three calls, on the offset at `value`.
fn attribute(
    fd: &VcpuFd,
    request: libc::Ioctl,
    call: &'static str,
    value: &mut u64,
) -> Result<(), EngineError> {
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: &raw mut *value as u64,
    };
    // SAFETY: the descriptor is a vCPU's; the kernel reads the attribute, and reads or writes the
    // one u64 it points to, which `value` borrows for the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, &attribute) };
    if result == 0 { Ok(()) } else { Err(EngineError::last_os(call)) }
}
