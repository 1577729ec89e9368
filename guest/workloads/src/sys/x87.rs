//! The x87 unit by inline assembly: compilers for x86-64 do not emit it otherwise.
//!
//! Only operations whose result IEEE 754 fixes to the last bit, so that any correct unit agrees.

use std::arch::asm;

/// `steps` (not 0) times x = 3.9 x (1 - x), y = rint(y) / 4 + y / 2 + x, in 80 bits, from x in
/// (0, 1); then sqrt(x) / 1.125. The map is chaotic: one wrong bit changes the result wholly.
pub(crate) fn chain(start: f64, steps: u64) -> (f64, f64) {
    assert!(steps > 0, "the loop tests at its end");
    let constants: [f64; 4] = [3.9, 0.25, 0.5, 1.125];
    let mut value = start;
    let mut other = 1.0f64;
    // SAFETY: reads the four constants and both values, writes the values, through pointers to
    // locals of that size; the x87 stack is empty before (the ABI) and after (all that is
    // pushed is popped).
    unsafe {
        asm!(
            "fld qword ptr [{other}]",
            "fld qword ptr [{value}]",
            "2:",
            "fld st(0)",
            "fmul qword ptr [{constants}]",
            "fmul st(1), st(0)",
            "fsubrp st(1), st(0)",
            "fld st(1)",
            "frndint",
            "fmul qword ptr [{constants} + 8]",
            "fxch st(2)",
            "fmul qword ptr [{constants} + 16]",
            "faddp st(2), st(0)",
            "fadd st(1), st(0)",
            "dec {steps}",
            "jnz 2b",
            "fsqrt",
            "fdiv qword ptr [{constants} + 24]",
            "fstp qword ptr [{value}]",
            "fstp qword ptr [{other}]",
            value = in(reg) &raw mut value,
            other = in(reg) &raw mut other,
            constants = in(reg) &raw const constants,
            steps = inout(reg) steps => _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }
    (value, other)
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_step_is_the_formula() {
        let (value, other) = super::chain(0.3, 1);
        let x = 3.9 * 0.3 * 0.7;
        assert!((value - f64::sqrt(x) / 1.125).abs() < 1e-14, "{value}");
        assert!((other - (0.25 + 0.5 + x)).abs() < 1e-14, "{other}");
    }
}
