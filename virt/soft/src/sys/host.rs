//! The host processor's time-stamp counter and CPUID, and the process's heap.

/// RDTSC.
#[inline(always)]
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: RDTSC is unprivileged under Linux unless a process asked for PR_TSC_SIGSEGV.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// CPUID.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> x86::cpuid::CpuidResult {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    x86::cpuid::CpuidResult { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
}

/// Gives what the heap has free back to the host.
pub(crate) fn trim_heap() {
    // SAFETY: it moves nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
