//! The calls out of translated code: where a check missed, or a window shows nothing, and for INVLPG.

use crate::vcpu::SoftVcpu;

/// `NativeState::miss`: 1 if the TLB now serves the access at `linear`, 0 to leave at `site`.
pub(crate) unsafe extern "sysv64" fn miss(owner: *mut SoftVcpu, linear: u64, site: u64) -> u32 {
    // SAFETY: `owner` is the vCPU that called `enter` on this thread and waits in it, having put
    // its own address there; nothing else uses it meanwhile.
    let vcpu = unsafe { &mut *owner };
    vcpu.fill_missed(linear, site as u32).into()
}

/// `NativeState::invalidate`: 1 if INVLPG of the address is done, 0 to leave at the site.
pub(crate) unsafe extern "sysv64" fn invalidate(owner: *mut SoftVcpu, linear: u64) -> u32 {
    // SAFETY: as in `miss`.
    let vcpu = unsafe { &mut *owner };
    vcpu.invalidate_page(linear).into()
}

/// `NativeState::window_fault`: 1 if the access can be tried again at `resume`, 0 to leave.
pub(crate) unsafe extern "sysv64" fn window_fault(owner: *mut SoftVcpu) -> u32 {
    // SAFETY: as in `miss`.
    let vcpu = unsafe { &mut *owner };
    vcpu.show_missing().into()
}
