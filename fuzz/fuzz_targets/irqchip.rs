//! Interrupt controllers and timers under any order of accesses (tests/hostile).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::irqchip(data));
