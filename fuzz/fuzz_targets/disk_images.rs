//! Disk images of strangers, opened and used (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::disk_images(data));
