//! RFLAGS (SDM vol. 1, 3.4.3).

use bitflags::bitflags;

bitflags! {
    /// RFLAGS.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Reads as 1.
        const FIXED = 1 << 1;
        /// Parity of the low byte.
        const PF = 1 << 2;
        /// Carry out of bit 3.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Trap: single step.
        const TF = 1 << 8;
        /// Interrupt enable.
        const IF = 1 << 9;
        /// Direction of string instructions.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// I/O privilege level, two bits.
        const IOPL = 3 << 12;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume: suppresses one instruction breakpoint.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check; access control under SMAP.
        const AC = 1 << 18;
        /// Virtual interrupt flag.
        const VIF = 1 << 19;
        /// Virtual interrupt pending.
        const VIP = 1 << 20;
        /// CPUID usable.
        const ID = 1 << 21;
        const _ = !0;
    }
}

impl Flags {
    /// CF, PF, AF, ZF, SF, OF.
    pub const STATUS: Self =
        Self::CF.union(Self::PF).union(Self::AF).union(Self::ZF).union(Self::SF).union(Self::OF);

    /// The I/O privilege level, 0-3.
    #[inline]
    pub const fn iopl(self) -> u8 {
        (self.bits() >> 12) as u8 & 3
    }
}
