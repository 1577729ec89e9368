//! Saved state of any content (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::saved_state(data));
