//! The call out of translated code where a check missed.

use crate::vcpu::SoftVcpu;

/// `NativeState::miss`: host address of the data at `linear`, or 0 to leave the block at `site`.
pub(crate) unsafe extern "sysv64" fn miss(owner: *mut SoftVcpu, linear: u64, site: u64) -> u64 {
    // SAFETY: `owner` is the vCPU that called `enter` on this thread and waits in it, having put
    // its own address there; nothing else uses it meanwhile.
    let vcpu = unsafe { &mut *owner };
    vcpu.fill_missed(linear, site as u32).unwrap_or(0)
}
