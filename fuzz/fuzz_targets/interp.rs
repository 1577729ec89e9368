//! Any bytes as a guest, in every mode, on the software CPU (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::instructions(data));
