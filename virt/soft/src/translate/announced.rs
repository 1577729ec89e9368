//! Which instructions CPUID announces, asked once per feature.

use iced_x86::Instruction;
use interp::lower::features::bit_of;
use x86::cpuid::{CpuidEntry, lookup};

/// Answers so far.
#[derive(Debug)]
pub(crate) struct Announced {
    /// By feature.
    known: [Option<bool>; 256],
    /// The host has BMI2.
    pub(crate) bmi2: bool,
}

impl Announced {
    pub(crate) fn new() -> Self {
        Self { known: [None; 256], bmi2: std::arch::is_x86_feature_detected!("bmi2") }
    }

    /// Whether CPUID announces all that an instruction needs.
    pub(crate) fn has(&mut self, ins: &Instruction, cpuid: &[CpuidEntry]) -> bool {
        ins.cpuid_features().iter().all(|&feature| {
            *self.known[feature as usize].get_or_insert_with(|| {
                bit_of(feature).is_none_or(|(leaf, subleaf, register, bit)| {
                    let result = lookup(cpuid, leaf, subleaf);
                    let value = [result.eax, result.ebx, result.ecx, result.edx][register];
                    value >> bit & 1 != 0
                })
            })
        })
    }
}
