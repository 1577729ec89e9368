//! The session's frames and the job file (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::init_protocol(data));
