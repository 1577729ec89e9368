//! Exceptions: vectors, error codes and how two of them combine (SDM vol. 3, 6.3, 6.15).

/// Exception vectors 0-31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Vector {
    /// #DE, divide error.
    DivideError = 0,
    /// #DB, debug.
    Debug = 1,
    /// NMI.
    Nmi = 2,
    /// #BP, INT3.
    Breakpoint = 3,
    /// #OF, INTO.
    Overflow = 4,
    /// #BR, BOUND.
    BoundRange = 5,
    /// #UD.
    InvalidOpcode = 6,
    /// #NM, device not available.
    DeviceNotAvailable = 7,
    /// #DF.
    DoubleFault = 8,
    /// #TS.
    InvalidTss = 10,
    /// #NP.
    SegmentNotPresent = 11,
    /// #SS.
    StackFault = 12,
    /// #GP.
    GeneralProtection = 13,
    /// #PF.
    PageFault = 14,
    /// #MF, x87 error.
    MathFault = 16,
    /// #AC.
    AlignmentCheck = 17,
    /// #MC.
    MachineCheck = 18,
    /// #XM, SIMD floating point.
    SimdFault = 19,
    /// #VE.
    Virtualization = 20,
    /// #CP.
    ControlProtection = 21,
}

impl Vector {
    /// The architectural vector number.
    #[inline]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether delivery pushes an error code.
    pub const fn has_error_code(self) -> bool {
        matches!(
            self,
            Self::DoubleFault
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
                | Self::PageFault
                | Self::AlignmentCheck
                | Self::ControlProtection
        )
    }

    /// Contributory exceptions of the double-fault table (SDM vol. 3, table 6-5).
    pub const fn is_contributory(self) -> bool {
        matches!(
            self,
            Self::DivideError
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
                | Self::ControlProtection
        )
    }
}

/// A guest exception: what to deliver, not yet delivered.
///
/// CR2 is not here: whoever detects a page fault carries the address in `Exception::address` and
/// delivery writes CR2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Which one.
    pub vector: Vector,
    /// Error code as pushed; 0 where the vector has none.
    pub error_code: u32,
    /// Faulting linear address for #PF; extra DR6 bits for #DB; otherwise 0.
    pub address: u64,
}

impl Exception {
    /// An exception without error code (or with error code 0).
    #[inline]
    pub const fn new(vector: Vector) -> Self {
        Self { vector, error_code: 0, address: 0 }
    }

    /// An exception with an error code.
    #[inline]
    pub const fn with_code(vector: Vector, error_code: u32) -> Self {
        Self { vector, error_code, address: 0 }
    }

    /// #UD.
    pub const UD: Self = Self::new(Vector::InvalidOpcode);
    /// #NM.
    pub const NM: Self = Self::new(Vector::DeviceNotAvailable);
    /// #GP(0).
    pub const GP0: Self = Self::new(Vector::GeneralProtection);
    /// #SS(0).
    pub const SS0: Self = Self::new(Vector::StackFault);

    /// #GP with a selector or IDT error code.
    #[inline]
    pub const fn gp(code: u32) -> Self {
        Self::with_code(Vector::GeneralProtection, code)
    }

    /// #PF at a linear address.
    #[inline]
    pub const fn page_fault(address: u64, error_code: u32) -> Self {
        Self { vector: Vector::PageFault, error_code, address }
    }

    /// #DB with the DR6 bits that describe it.
    #[inline]
    pub const fn debug(dr6_bits: u64) -> Self {
        Self { vector: Vector::Debug, error_code: 0, address: dr6_bits }
    }
}

/// Bits of a page-fault error code (SDM vol. 3, 4.7).
pub mod pf {
    /// The page was present: a protection violation.
    pub const PRESENT: u32 = 1 << 0;
    /// A write.
    pub const WRITE: u32 = 1 << 1;
    /// A user-mode access.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set in a paging structure.
    pub const RESERVED: u32 = 1 << 3;
    /// An instruction fetch.
    pub const FETCH: u32 = 1 << 4;
    /// The page's protection key forbids the access.
    pub const PROTECTION_KEY: u32 = 1 << 5;
}
