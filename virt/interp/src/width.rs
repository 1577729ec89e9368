//! Operand widths: the unsigned integers that general instructions work on.

use core::fmt::Debug;

/// u8, u16, u32, u64 as operand types of monomorphised handlers.
pub trait Width: Copy + Eq + Debug + Default + Sized + 'static {
    /// Bits: 8, 16, 32, 64.
    const BITS: u32;
    /// Bytes.
    const BYTES: u64 = Self::BITS as u64 / 8;
    /// All bits set, as u64.
    const MASK: u64 = u64::MAX >> (64 - Self::BITS);
    /// Truncates.
    fn from_u64(value: u64) -> Self;
    /// Zero-extends.
    fn to_u64(self) -> u64;
    /// Sign-extends.
    fn to_i64(self) -> i64;
}

macro_rules! width {
    ($($unsigned:ty, $signed:ty;)*) => {$(
        impl Width for $unsigned {
            const BITS: u32 = <$unsigned>::BITS;
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $unsigned
            }
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as $signed as i64
            }
        }
    )*};
}

width! { u8, i8; u16, i16; u32, i32; u64, i64; }
