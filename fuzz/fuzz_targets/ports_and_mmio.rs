//! The whole PC under port and memory accesses, then under a guest (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::ports_and_mmio(data));
