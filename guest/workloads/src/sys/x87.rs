//! The x87 unit by inline assembly: compilers for x86-64 do not emit it otherwise.
//!
//! Only operations whose result IEEE 754 fixes to the last bit, so that any correct unit agrees.

use std::arch::asm;

/// `steps` times x = sqrt(x * x * 0.75 + 1) / 1.125 + rint(x) / 16, in 80 bits; `steps` is not 0.
pub(crate) fn chain(start: f64, steps: u64) -> f64 {
    assert!(steps > 0, "the loop tests at its end");
    let constants: [f64; 4] = [0.75, 1.0, 1.125, 0.0625];
    let mut value = start;
    // SAFETY: reads the four constants and the value, writes the value, through pointers to
    // locals of that size; the x87 stack is empty before (the ABI) and after (all that is
    // pushed is popped).
    unsafe {
        asm!(
            "fld qword ptr [{value}]",
            "2:",
            "fld st(0)",
            "frndint",
            "fmul qword ptr [{constants} + 24]",
            "fxch st(1)",
            "fmul st(0), st(0)",
            "fmul qword ptr [{constants}]",
            "fadd qword ptr [{constants} + 8]",
            "fsqrt",
            "fdiv qword ptr [{constants} + 16]",
            "faddp st(1), st(0)",
            "dec {steps}",
            "jnz 2b",
            "fstp qword ptr [{value}]",
            value = in(reg) &raw mut value,
            constants = in(reg) &raw const constants,
            steps = inout(reg) steps => _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }
    value
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_step_is_the_formula() {
        let expected = (2.0f64 * 2.0 * 0.75 + 1.0).sqrt() / 1.125 + 2.0 / 16.0;
        assert!((super::chain(2.0, 1) - expected).abs() < 1e-15);
    }
}
