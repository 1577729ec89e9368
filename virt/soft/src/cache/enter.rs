//! The call into translated code.
//!
//! Invariant: while it runs, GS is this vCPU's; on return every host register the ABI promises is
//! as before, MXCSR is the host's and the x87 stack is empty (see `translate::stubs`).

/// Runs translated code until it leaves; returns the site.
///
/// `code` is the address of the shared `enter` code, `gs_base` the current context's area.
pub(crate) fn enter(code: u64, gs_base: u64) -> u32 {
    type Enter = unsafe extern "sysv64" fn(u64) -> u64;
    // SAFETY: `code` is where `Stubs::enter` was put at the start of code memory, whose first bytes
    // never change; it follows the sysv64 convention. What it jumps to (`NativeState::entry`) was
    // translated by this vCPU and is dropped only by its thread, which is here.
    unsafe {
        let enter = std::mem::transmute::<*const (), Enter>(code as *const ());
        enter(gs_base) as u32
    }
}

/// Whether user space may write GS's base here (CPUID and the kernel both agree).
pub(crate) fn has_fsgsbase() -> bool {
    // SAFETY: a plain query of the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}
