//! CPUID bits that some payloads need (SDM vol. 2A, CPUID).
#![allow(dead_code, reason = "features are named here before a payload asks for them")]

use crate::payload::Feature;

const fn bit(leaf: u32, register: u8, bit: u8, name: &'static str) -> Feature {
    Feature { leaf, subleaf: 0, register, bit, name }
}

pub(crate) const PCID: Feature = bit(1, 2, 17, "PCID");
pub(crate) const X2APIC: Feature = bit(1, 2, 21, "X2APIC");
pub(crate) const TSC_DEADLINE: Feature = bit(1, 2, 24, "TSC-Deadline");
pub(crate) const XSAVE: Feature = bit(1, 2, 26, "XSAVE");
pub(crate) const AVX: Feature = bit(1, 2, 28, "AVX");
pub(crate) const AVX2: Feature = bit(7, 1, 5, "AVX2");
pub(crate) const FSGSBASE: Feature = bit(7, 1, 0, "FSGSBASE");
pub(crate) const SMEP: Feature = bit(7, 1, 7, "SMEP");
pub(crate) const SMAP: Feature = bit(7, 1, 20, "SMAP");
pub(crate) const INVPCID: Feature = bit(7, 1, 10, "INVPCID");
pub(crate) const UMIP: Feature = bit(7, 2, 2, "UMIP");
pub(crate) const PAGES_1G: Feature = bit(0x8000_0001, 3, 26, "1-GByte pages");
pub(crate) const RDTSCP: Feature = bit(0x8000_0001, 3, 27, "RDTSCP");
