//! Guest addresses, each with its space in its type.

use core::fmt;
use core::ops::Add;

/// Bytes in the smallest page.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The first byte of the 4 KiB page this address lies in.
            #[inline]
            pub const fn page_base(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Offset into the 4 KiB page, 0..4096.
            #[inline]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// Number of the 4 KiB page.
            #[inline]
            pub const fn page_number(self) -> u64 {
                self.0 >> 12
            }

            /// This address plus `offset` bytes, or `None` past 2^64.
            #[inline]
            pub const fn checked_add(self, offset: u64) -> Option<Self> {
                match self.0.checked_add(offset) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// This address plus `offset`, modulo 2^64.
            #[inline]
            pub const fn wrapping_add(self, offset: u64) -> Self {
                Self(self.0.wrapping_add(offset))
            }
        }

        impl Add<u64> for $name {
            type Output = Self;
            #[inline]
            fn add(self, offset: u64) -> Self {
                Self(self.0 + offset)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// An address on the guest's physical bus: what page tables hold and devices decode.
    GuestPhys
}
address! {
    /// A guest linear address: after segmentation, before paging.
    GuestVirt
}

impl GuestVirt {
    /// Whether bits 63:47 are all equal (SDM vol. 1, 3.3.7.1; 48-bit linear addresses).
    #[inline]
    pub const fn is_canonical(self) -> bool {
        ((self.0 as i64) << 16 >> 16) as u64 == self.0
    }
}
