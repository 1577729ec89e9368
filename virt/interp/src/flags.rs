//! Arithmetic flags, kept as the values they derive from until somebody asks.
//!
//! ```text
//! result   sign-extended result          ZF = result == 0,  SF = bit 63 ^ extra bit 16
//! carries  carry vector, msb at bit 63   CF = bit 63,       OF = bit 63 ^ bit 62
//! extra    bit 3: AF    bits 15:8: xor'ed into result's low byte for PF    bit 16: SF delta
//! ```
//!
//! The carry vector of a + b = r is (a & b) | ((a | b) & !r), of a - b = r it is
//! (!a & b) | ((!a | b) & r) (Warren, Hacker's Delight, 2-13).

use x86::Flags;

use crate::width::Width;

/// CF, PF, AF, ZF, SF, OF in derived form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LazyFlags {
    result: u64,
    carries: u64,
    extra: u64,
}

impl LazyFlags {
    /// From RFLAGS bits.
    #[inline]
    pub fn from_bits(flags: u64) -> Self {
        let bit = |f: Flags| flags & f.bits() != 0;
        let result = u64::from(!bit(Flags::ZF));
        // result's low byte is 0 (even parity) when ZF, else 1 (odd): flip one more bit if needed.
        let even = bit(Flags::ZF);
        let parity_delta = u64::from(even != bit(Flags::PF)) << 1;
        let carry = u64::from(bit(Flags::CF));
        let overflow = u64::from(bit(Flags::OF));
        Self {
            result,
            carries: carry << 63 | (carry ^ overflow) << 62,
            extra: u64::from(bit(Flags::AF)) << 3
                | parity_delta << 8
                | u64::from(bit(Flags::SF)) << 16,
        }
    }

    /// The six flags as RFLAGS bits.
    #[inline]
    pub fn bits(self) -> u64 {
        u64::from(self.carry())
            | u64::from(self.parity()) << 2
            | u64::from(self.adjust()) << 4
            | u64::from(self.zero()) << 6
            | u64::from(self.sign()) << 7
            | u64::from(self.overflow()) << 11
    }

    /// CF.
    #[inline(always)]
    pub fn carry(self) -> bool {
        self.carries >> 63 != 0
    }

    /// OF.
    #[inline(always)]
    pub fn overflow(self) -> bool {
        (self.carries ^ self.carries << 1) >> 63 != 0
    }

    /// ZF.
    #[inline(always)]
    pub fn zero(self) -> bool {
        self.result == 0
    }

    /// SF.
    #[inline(always)]
    pub fn sign(self) -> bool {
        (self.result ^ self.extra << 47) >> 63 != 0
    }

    /// PF.
    #[inline(always)]
    pub fn parity(self) -> bool {
        ((self.result ^ self.extra >> 8) as u8).count_ones() & 1 == 0
    }

    /// AF.
    #[inline(always)]
    pub fn adjust(self) -> bool {
        self.extra & 8 != 0
    }

    /// After a + b (+ carry) = r.
    #[inline(always)]
    pub fn add<W: Width>(a: W, b: W, r: W) -> Self {
        let (x, y) = (a.to_u64(), b.to_u64());
        let carries = (x & y) | ((x | y) & !r.to_u64());
        Self { result: r.to_i64() as u64, carries: carries << (64 - W::BITS), extra: carries & 8 }
    }

    /// After a - b (- borrow) = r.
    #[inline(always)]
    pub fn sub<W: Width>(a: W, b: W, r: W) -> Self {
        let (x, y) = (a.to_u64(), b.to_u64());
        let borrows = (!x & y) | ((!x | y) & r.to_u64());
        Self { result: r.to_i64() as u64, carries: borrows << (64 - W::BITS), extra: borrows & 8 }
    }

    /// After AND, OR, XOR, TEST: CF = OF = AF = 0.
    #[inline(always)]
    pub fn logic<W: Width>(r: W) -> Self {
        Self { result: r.to_i64() as u64, carries: 0, extra: 0 }
    }

    /// Result flags from `r`, AF clear, CF and OF as given.
    #[inline(always)]
    pub fn with_carry_overflow<W: Width>(r: W, carry: bool, overflow: bool) -> Self {
        let (c, o) = (u64::from(carry), u64::from(overflow));
        Self { result: r.to_i64() as u64, carries: c << 63 | (c ^ o) << 62, extra: 0 }
    }

    /// These flags with another CF; OF stays.
    #[inline(always)]
    #[must_use]
    pub fn with_carry(mut self, carry: bool) -> Self {
        let (c, o) = (u64::from(carry), u64::from(self.overflow()));
        self.carries = c << 63 | (c ^ o) << 62;
        self
    }

    /// These flags with another CF and OF, as rotates and MUL leave them.
    #[inline(always)]
    #[must_use]
    pub fn with_both(mut self, carry: bool, overflow: bool) -> Self {
        let (c, o) = (u64::from(carry), u64::from(overflow));
        self.carries = c << 63 | (c ^ o) << 62;
        self
    }

    /// These flags with another ZF; the others stay.
    #[inline]
    #[must_use]
    pub fn with_zero(self, zero: bool) -> Self {
        if self.zero() == zero {
            return self;
        }
        self.merged(Flags::ZF.bits(), if zero { Flags::ZF.bits() } else { 0 })
    }

    /// Replaces the flags selected by `mask` (RFLAGS bits) with those of `bits`.
    #[inline]
    #[must_use]
    pub fn merged(self, mask: u64, bits: u64) -> Self {
        Self::from_bits(self.bits() & !mask | bits & mask)
    }

    /// Condition code 0-15 as in Jcc, SETcc, CMOVcc (SDM vol. 1, appendix B).
    #[inline(always)]
    pub fn condition(self, code: u8) -> bool {
        let holds = match code >> 1 & 7 {
            0 => self.overflow(),
            1 => self.carry(),
            2 => self.zero(),
            3 => self.carry() || self.zero(),
            4 => self.sign(),
            5 => self.parity(),
            6 => self.sign() != self.overflow(),
            _ => self.zero() || self.sign() != self.overflow(),
        };
        holds != (code & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_round_trips() {
        for raw in 0..64u64 {
            let bits = (raw & 1) | (raw >> 1 & 1) << 2 | (raw >> 2 & 1) << 4;
            let bits = bits | (raw >> 3 & 1) << 6 | (raw >> 4 & 1) << 7 | (raw >> 5 & 1) << 11;
            assert_eq!(LazyFlags::from_bits(bits).bits(), bits, "{bits:#x}");
        }
    }

    #[test]
    fn byte_addition_and_subtraction_exhaustively() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let sum = LazyFlags::add(a, b, a.wrapping_add(b));
                assert_eq!(sum.carry(), a.overflowing_add(b).1);
                assert_eq!(sum.overflow(), (a as i8).overflowing_add(b as i8).1);
                assert_eq!(sum.adjust(), (a & 15) + (b & 15) > 15);
                let difference = LazyFlags::sub(a, b, a.wrapping_sub(b));
                assert_eq!(difference.carry(), a < b);
                assert_eq!(difference.overflow(), (a as i8).overflowing_sub(b as i8).1);
                assert_eq!(difference.adjust(), (a & 15) < (b & 15));
                assert_eq!(difference.zero(), a == b);
            }
        }
    }
}
