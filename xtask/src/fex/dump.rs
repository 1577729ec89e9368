//! What a test guest printed at its end: every register, as guest.asm lays them out.

use anyhow::{Context, Result, bail};

use super::case::{Case, Register};

/// Bytes of the dump: six quadwords, 16 general registers, an FXSAVE image, 16 upper halves.
const GENERAL: usize = 48;
const FXSAVE: usize = GENERAL + 128;
const UPPER: usize = FXSAVE + 512;
const BYTES: usize = UPPER + 256;
/// #GP by HLT outside CPL 0: how a test ends.
const GENERAL_PROTECTION: u64 = 13;
const HLT: u64 = 0xf4;

/// Registers at the end of a test.
pub(super) struct Dump(Vec<u8>);

impl Dump {
    /// From the guest's output.
    pub(super) fn parse(output: &str) -> Result<Self> {
        let line = output
            .lines()
            .find_map(|line| line.trim().strip_prefix("registers "))
            .context("the guest printed no registers")?;
        let digits = line.trim().as_bytes();
        if digits.len() != BYTES * 2 {
            bail!("{} digits of registers instead of {}", digits.len(), BYTES * 2);
        }
        let value = |digit: u8| (digit as char).to_digit(16).context("not hexadecimal");
        let bytes = digits
            .chunks_exact(2)
            .map(|pair| Ok((value(pair[0])? << 4 | value(pair[1])?) as u8))
            .collect::<Result<Vec<u8>>>()?;
        Ok(Self(bytes))
    }

    fn quad(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    /// 64 bits of a register.
    fn word(&self, register: Register, index: usize) -> u64 {
        match register {
            Register::General(number) => self.quad(GENERAL + number * 8),
            Register::Rip => self.quad(16),
            Register::Vector(number) if index < 2 => {
                self.quad(FXSAVE + 160 + number * 16 + index * 8)
            }
            Register::Vector(number) => self.quad(UPPER + number * 16 + index % 2 * 8),
            Register::Mmx(number) => {
                // The image holds ST0 first; the test means physical registers.
                let top = usize::from(self.0[FXSAVE + 3] >> 3 & 7);
                let place = (number + 8 - top) % 8;
                let value = self.quad(FXSAVE + 32 + place * 16 + index % 2 * 8);
                if index == 0 { value } else { value & 0xffff }
            }
        }
    }

    /// What differs from what the test wants; empty if nothing.
    pub(super) fn differences(&self, case: &Case) -> String {
        let (vector, opcode) = (self.quad(0), self.quad(40));
        if vector != GENERAL_PROTECTION || opcode != HLT {
            return format!(
                "exception {vector}, code {:#x}, at {:#x} (CR2 {:#x})",
                self.quad(8),
                self.quad(16),
                self.quad(32)
            );
        }
        let mut text = String::new();
        for one in &case.expected {
            for (index, &wanted) in one.words.iter().enumerate() {
                let found = self.word(one.register, index);
                if found != wanted {
                    text += &format!(
                        "{}{:?}[{index}] is {found:#x}, not {wanted:#x}",
                        if text.is_empty() { "" } else { "; " },
                        one.register
                    );
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::Expected;
    use super::*;

    fn dump(change: impl FnOnce(&mut Vec<u8>)) -> Dump {
        let mut bytes = vec![0; BYTES];
        (bytes[0], bytes[40]) = (13, 0xf4);
        change(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Dump::parse(&format!("noise\nregisters {hex}\r\n")).unwrap()
    }

    fn case(register: Register, words: Vec<u64>) -> Case {
        Case { expected: vec![Expected { register, words }], ..Case::default() }
    }

    #[test]
    fn registers_are_found_where_the_guest_puts_them() {
        let rbx = dump(|bytes| bytes[GENERAL + 24] = 7);
        assert_eq!(rbx.differences(&case(Register::General(3), vec![7])), "");
        assert_eq!(
            rbx.differences(&case(Register::General(3), vec![8])),
            "General(3)[0] is 0x7, not 0x8"
        );
        let upper = dump(|bytes| bytes[UPPER + 16 + 8] = 5);
        assert_eq!(upper.differences(&case(Register::Vector(1), vec![0, 0, 0, 5])), "");
        // TOP = 7: ST0 is physical register 7.
        let x87 = dump(|bytes| (bytes[FXSAVE + 3], bytes[FXSAVE + 32]) = (7 << 3, 9));
        assert_eq!(x87.differences(&case(Register::Mmx(7), vec![9, 0])), "");
    }

    #[test]
    fn a_test_that_does_not_end_by_hlt_differs() {
        let fault = dump(|bytes| bytes[0] = 6);
        assert!(fault.differences(&Case::default()).starts_with("exception 6"));
        assert!(Dump::parse("registers 00").is_err());
        assert!(Dump::parse("nothing").is_err());
    }
}
