//! Programs, kernels' headers and packages as tools/control reads them (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::host_files(data));
