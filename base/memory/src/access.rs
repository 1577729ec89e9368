//! Single-instruction loads, stores and atomics on memory that guests and devices share.
//!
//! Other threads write the same bytes at any time, so Rust's ordinary loads would be data races.
//! Each access here is one machine instruction behind `asm!`, which the compiler may neither split
//! nor assume anything about; the guest's own memory model (TSO) comes with it for free.

use core::arch::asm;

mod sealed {
    pub trait Sealed {}
}

/// An unsigned integer that can be moved to or from guest RAM in one instruction.
pub trait Scalar: Copy + sealed::Sealed + Eq {
    /// Bytes.
    const SIZE: u64;

    /// Loads from `at`.
    ///
    /// # Safety
    /// `at` points to `SIZE` readable bytes; no alignment is asked.
    unsafe fn load(at: *const u8) -> Self;

    /// Stores to `at`.
    ///
    /// # Safety
    /// `at` points to `SIZE` writable bytes; no alignment is asked.
    unsafe fn store(at: *mut u8, value: Self);

    /// LOCK CMPXCHG at `at`: returns the value found; it was replaced iff equal to `expected`.
    ///
    /// # Safety
    /// `at` points to `SIZE` writable bytes; no alignment is asked.
    unsafe fn compare_exchange(at: *mut u8, expected: Self, new: Self) -> Self;

    /// XCHG at `at`: stores `value`, returns what was there.
    ///
    /// # Safety
    /// `at` points to `SIZE` writable bytes; no alignment is asked.
    unsafe fn swap(at: *mut u8, value: Self) -> Self;

    /// LOCK XADD at `at`: adds `value`, returns what was there.
    ///
    /// # Safety
    /// `at` points to `SIZE` writable bytes; no alignment is asked.
    unsafe fn fetch_add(at: *mut u8, value: Self) -> Self;
}

macro_rules! scalar {
    ($ty:ty, $class:ident, $reg:literal, $ax:tt) => {
        impl sealed::Sealed for $ty {}

        impl Scalar for $ty {
            const SIZE: u64 = size_of::<$ty>() as u64;

            #[inline(always)]
            unsafe fn load(at: *const u8) -> Self {
                let value: $ty;
                // SAFETY: the caller vouches for the bytes.
                unsafe {
                    asm!(concat!("mov {v", $reg, "}, [{at}]"), at = in(reg) at, v = out($class) value,
                         options(nostack, preserves_flags, readonly));
                }
                value
            }

            #[inline(always)]
            unsafe fn store(at: *mut u8, value: Self) {
                // SAFETY: the caller vouches for the bytes.
                unsafe {
                    asm!(concat!("mov [{at}], {v", $reg, "}"), at = in(reg) at, v = in($class) value,
                         options(nostack, preserves_flags));
                }
            }

            #[inline(always)]
            unsafe fn compare_exchange(at: *mut u8, expected: Self, new: Self) -> Self {
                let found: $ty;
                // SAFETY: the caller vouches for the bytes.
                unsafe {
                    asm!(concat!("lock cmpxchg [{at}], {v", $reg, "}"), at = in(reg) at,
                         v = in($class) new, inout($ax) expected => found, options(nostack));
                }
                found
            }

            #[inline(always)]
            unsafe fn swap(at: *mut u8, value: Self) -> Self {
                let found: $ty;
                // SAFETY: the caller vouches for the bytes.
                unsafe {
                    asm!(concat!("xchg [{at}], {v", $reg, "}"), at = in(reg) at,
                         v = inout($class) value => found, options(nostack, preserves_flags));
                }
                found
            }

            #[inline(always)]
            unsafe fn fetch_add(at: *mut u8, value: Self) -> Self {
                let found: $ty;
                // SAFETY: the caller vouches for the bytes.
                unsafe {
                    asm!(concat!("lock xadd [{at}], {v", $reg, "}"), at = in(reg) at,
                         v = inout($class) value => found, options(nostack));
                }
                found
            }
        }
    };
}

scalar!(u8, reg_byte, "", "al");
scalar!(u16, reg, ":x", "ax");
scalar!(u32, reg, ":e", "eax");
scalar!(u64, reg, ":r", "rax");

/// LOCK CMPXCHG16B at `at`: returns the value found; it was replaced iff equal to `expected`.
///
/// # Safety
/// `at` points to 16 writable bytes and is 16-byte aligned.
#[inline]
pub(crate) unsafe fn compare_exchange_16(at: *mut u8, expected: u128, new: u128) -> u128 {
    let (low, high): (u64, u64);
    // SAFETY: the caller vouches for the bytes and the alignment; RBX is LLVM's, so it is swapped
    // in and out around the one instruction that needs it.
    unsafe {
        asm!(
            "xchg rbx, {new_low}",
            "lock cmpxchg16b [{at}]",
            "mov rbx, {new_low}",
            at = in(reg) at,
            new_low = inout(reg) new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") expected as u64 => low,
            inout("rdx") (expected >> 64) as u64 => high,
            options(nostack),
        );
    }
    u128::from(low) | u128::from(high) << 64
}
