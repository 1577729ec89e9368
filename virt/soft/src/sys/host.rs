//! The host processor's time-stamp counter and CPUID, and the process's heap and program.

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

/// Takes the read-only pages of the program and its libraries out of the process's page tables: most were
/// needed for the start only. They come back from the host's page cache one access at a time.
pub(crate) fn let_program_go() {
    // SAFETY: the callback has the signature that is asked for and is called before this returns.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::dl_iterate_phdr(Some(let_object_go), std::ptr::null_mut());
    }
}

/// Lets one loaded object's segments go that are never written.
#[cfg(target_os = "linux")]
unsafe extern "C" fn let_object_go(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader passes a valid description of an object that stays loaded meanwhile.
    let (base, headers) = unsafe {
        let info = &*info;
        if info.dlpi_phdr.is_null() {
            return 0;
        }
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    let is_read_only = |header: &&libc::Elf64_Phdr| {
        header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0
    };
    for header in headers.iter().filter(is_read_only) {
        let start = (base + header.p_vaddr).next_multiple_of(4096);
        let end = base + header.p_vaddr + header.p_filesz & !4095;
        if start < end {
            // SAFETY: whole pages of a private mapping of a file that were never written: they read as the
            // file afterwards, which is what they held. What the kernel does not do changes nothing.
            unsafe {
                let length = (end - start) as usize;
                libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED)
            };
        }
    }
    0
}
