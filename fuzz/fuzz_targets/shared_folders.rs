//! A shared folder under a hostile guest (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::shared_folders(data));
