//! A network card under a hostile driver (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::network_card(data));
