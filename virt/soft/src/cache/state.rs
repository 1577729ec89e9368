//! The part of a vCPU that translated code reaches through GS.
//!
//! Invariant: every offset that translated code uses comes from `offset_of!` on this struct.

use std::mem::offset_of;

/// Leads to windows that a block can keep.
pub(crate) const LEADS: usize = 8;

/// What translated code keeps outside host registers. Lies in a page of its own, which every
/// context's area shows at its start.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct NativeState {
    /// General registers while outside; inside, only those that have no host register are here.
    pub(crate) regs: [u64; 16],
    /// Instructions that may still run; negative: leave at the next poll.
    pub(crate) budget: i64,
    /// Linear address of the page that position-independent code runs in.
    pub(crate) rip_base: u64,
    /// Status flags as LAHF and SETO leave them: OF in bit 0, SF ZF AF PF CF in bits 15:8.
    pub(crate) flags: u64,
    /// The host's stack pointer at entry.
    pub(crate) host_rsp: u64,
    /// Target of an indirect branch that was not cached.
    pub(crate) target: u64,
    /// Host code to go to, where no register is free to hold it.
    pub(crate) jump: u64,
    /// One value across a second access of the same instruction.
    pub(crate) temp: u64,
    /// What leads to windows, in a block that keeps it.
    pub(crate) leads: [u64; LEADS],
    /// Value of the memory operand that made the flags.
    pub(crate) kept: u64,
    /// Linear address of the access that missed.
    pub(crate) linear: u64,
    /// Where the number of the site that missed lies; behind it, the code that tries again.
    pub(crate) retry: u64,
    /// Whether XMM, YMM and MXCSR are in the host's registers (else in the image).
    pub(crate) vectors_live: u32,
    /// Whether x87 and MMX are.
    pub(crate) x87_live: u32,
    /// Bases of FS and GS.
    pub(crate) segment_bases: [u64; 2],
    /// Guest TSC - host TSC.
    pub(crate) tsc_offset: u64,
    /// The XSAVE image.
    pub(crate) xsave: u64,
    /// Argument of `miss`.
    pub(crate) owner: u64,
    /// Called when a check misses.
    pub(crate) miss: u64,
    /// Called for INVLPG.
    pub(crate) invalidate: u64,
    /// Where `enter` goes.
    pub(crate) entry: u64,
    /// The host's own MXCSR.
    pub(crate) host_mxcsr: u32,
    /// TSC_AUX, as RDTSCP shows it.
    pub(crate) tsc_aux: u32,
    /// RFLAGS.IF in its place.
    pub(crate) interrupts: u64,
    /// RFLAGS.AC in its place.
    pub(crate) access: u64,
    /// What there is of RFLAGS apart from these two and the status flags, as PUSHF shows it.
    pub(crate) other_flags: u64,
    /// Something waits for RFLAGS.IF.
    pub(crate) pending: u64,
    /// What SWAPGS swaps GS's base with.
    pub(crate) kernel_gs_base: u64,
    /// Which of the family's contexts GS points at (`bus::peers::Side`).
    pub(crate) side: u64,
    /// Their areas, 0 where one is not known.
    pub(crate) areas: [u64; 3],
    /// The kernel's area where SYSCALL may go to it, the user's where SYSRET may; else 0.
    pub(crate) syscall_area: u64,
    pub(crate) sysret_area: u64,
    /// CS and SS were loaded: 0 no, 1 by SYSCALL, 2 by SYSRET, or as they would.
    pub(crate) loaded_segments: u64,
    /// Selectors of CS and SS, 32 bits each, that these load.
    pub(crate) star: [u64; 2],
    pub(crate) lstar: u64,
    /// IA32_FMASK.
    pub(crate) syscall_mask: u64,
    /// CR0, none, CR2, CR3, CR4.
    pub(crate) controls: [u64; 5],
    pub(crate) pkru: u64,
    /// Selectors of ES, CS, SS, DS, FS, GS.
    pub(crate) selectors: [u32; 6],
    /// Host addresses of the running block's groups.
    pub(crate) groups: [u64; 16],
    /// Host code and flags where a host signal said that an instruction must be interpreted.
    pub(crate) trap_pc: u64,
    /// The host's RFLAGS there.
    pub(crate) trap_flags: u64,
    /// The host address that could not be accessed.
    pub(crate) trap_address: u64,
    /// Where addresses lead that have no window; 0 until there are windows.
    pub(crate) nowhere: u64,
    /// Called when an access faulted in its window.
    pub(crate) window_fault: u64,
    /// The scratch registers meanwhile.
    pub(crate) scratch: [u64; 2],
    /// Host code to go on at, with these flags as LAHF and SETO leave them.
    pub(crate) resume: u64,
    pub(crate) resume_flags: u64,
}

/// Offsets for emitted code.
pub(crate) mod at {
    use super::{NativeState, offset_of};
    use crate::cache::layout::STATE;

    /// The state lies in front of what GS points at.
    const BASE: i32 = -(STATE as i32);

    macro_rules! offsets {
        ($($name:ident = $field:ident;)*) => {
            $(pub(crate) const $name: i32 = BASE + offset_of!(NativeState, $field) as i32;)*
        };
    }

    offsets! {
        BUDGET = budget; RIP_BASE = rip_base; FLAGS = flags; HOST_RSP = host_rsp;
        TARGET = target; JUMP = jump; TEMP = temp;
        KEPT = kept; LINEAR = linear; RETRY = retry;
        VECTORS_LIVE = vectors_live; X87_LIVE = x87_live; TSC_OFFSET = tsc_offset; XSAVE = xsave;
        OWNER = owner; MISS = miss; INVALIDATE = invalidate; ENTRY = entry; HOST_MXCSR = host_mxcsr;
        TSC_AUX = tsc_aux; INTERRUPTS = interrupts; OTHER_FLAGS = other_flags; PENDING = pending;
        KERNEL_GS_BASE = kernel_gs_base; WINDOW_FAULT = window_fault; RESUME = resume;
        RESUME_FLAGS = resume_flags;
        ACCESS = access; SIDE = side;
        SYSCALL_AREA = syscall_area; SYSRET_AREA = sysret_area;
        LOADED_SEGMENTS = loaded_segments; LSTAR = lstar; SYSCALL_MASK = syscall_mask;
        PKRU = pkru;
    }

    /// A general register's slot.
    pub(crate) const fn reg(number: u8) -> i32 {
        BASE + offset_of!(NativeState, regs) as i32 + number as i32 * 8
    }

    /// A scratch register's place.
    pub(crate) const fn scratch(number: usize) -> i32 {
        BASE + offset_of!(NativeState, scratch) as i32 + number as i32 * 8
    }

    /// What leads to a window.
    pub(crate) const fn lead(number: u8) -> i32 {
        BASE + offset_of!(NativeState, leads) as i32 + number as i32 * 8
    }

    /// Host address of a group.
    pub(crate) const fn group(number: usize) -> i32 {
        BASE + offset_of!(NativeState, groups) as i32 + number as i32 * 8
    }

    /// The area of a context of the family.
    pub(crate) const fn area(side: usize) -> i32 {
        BASE + offset_of!(NativeState, areas) as i32 + side as i32 * 8
    }

    /// Selectors that SYSCALL (0) and SYSRET (1) load.
    pub(crate) const fn star(index: usize) -> i32 {
        BASE + offset_of!(NativeState, star) as i32 + index as i32 * 8
    }

    /// A control register.
    pub(crate) const fn control(number: u8) -> i32 {
        BASE + offset_of!(NativeState, controls) as i32 + number as i32 * 8
    }

    /// A selector.
    pub(crate) const fn selector(number: u8) -> i32 {
        BASE + offset_of!(NativeState, selectors) as i32 + number as i32 * 4
    }

    /// Base of FS (0) or GS (1).
    pub(crate) const fn segment_base(index: u8) -> i32 {
        BASE + offset_of!(NativeState, segment_bases) as i32 + index as i32 * 8
    }
}
