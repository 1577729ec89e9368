//! Tests whose expected result is not what this guest can or should show, each with its reason.
//!
//! Invariant: a reason lies in the test's assumptions, checked on real hardware or in the manuals;
//! a defect of ours never comes here.

use std::path::Path;

/// Ends of paths, with the reason.
const KNOWN: &[(&str, &str)] = &[
    ("ASM/Secondary/07_XX_04.asm", "expects what Linux's emulation of SMSW under UMIP leaves"),
    ("ASM/X87/precision_test_ftan.asm", "the last bit of FPTAN differs between makers: the host's"),
    (
        "ASM/X87/precision_test_neg_ftan.asm",
        "the last bit of FPTAN differs between makers: the host's",
    ),
    ("ASM/VEX/vpclmulqdq_256.asm", "needs VPCLMULQDQ without saying so: not announced"),
    ("ASM/modrm_oob/VEX.asm", "needs VPCLMULQDQ without saying so: not announced"),
    ("ASM/PrimaryGroup/5_FF_05.asm", FAR),
    ("ASM/PrimaryGroup/5_FF_05_03_o64.asm", FAR),
    ("ASM/PrimaryGroup/5_FF_05_03_o64_imm.asm", FAR),
];
const FAR: &str = "far pointers under REX.W as AMD reads them: 32-bit offsets";

/// Why a test that differs does so, if that is known.
pub(super) fn reason(path: &Path) -> Option<&'static str> {
    KNOWN.iter().find(|(end, _)| path.ends_with(end)).map(|(_, reason)| *reason)
}

/// Whether a test makes system calls.
pub(super) fn calls_linux(source: &str) -> bool {
    source.lines().any(|line| {
        let code = line.split(';').next().unwrap_or_default().trim();
        code == "syscall" || code.eq_ignore_ascii_case("int 0x80")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_calls_are_seen_and_comments_are_not() {
        assert!(calls_linux("mov eax, 1\n  syscall ; write\n"));
        assert!(calls_linux("int 0x80"));
        assert!(!calls_linux("; syscall\nsysenter"));
        assert!(reason(Path::new("/x/unittests/ASM/Secondary/07_XX_04.asm")).is_some());
        assert!(reason(Path::new("/x/unittests/ASM/Primary/Primary_00.asm")).is_none());
    }
}
