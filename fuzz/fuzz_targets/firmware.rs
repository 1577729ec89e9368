//! Kernel files, initial RAM disks and compressed payloads (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::firmware(data));
