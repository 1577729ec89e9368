//! A guest's frames and a host's answers to the user-mode network (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::network(data));
