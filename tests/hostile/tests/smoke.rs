//! Every target on seeded random bytes for some seconds: what the fuzzers do, in `cargo test`.
//!
//! `HOSTILE_SECONDS` says for how long (each target), `HOSTILE_SEED` from where; a failure names
//! the seed of its input.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use hostile::{TARGETS, Target};

/// A small deterministic generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Bytes that are random, small, or repeat what came before.
    fn input(&mut self) -> Vec<u8> {
        let length = (self.next() % 1024) as usize;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let word = self.next();
            match word & 7 {
                0..=4 => bytes.push((word >> 8) as u8),
                5 => bytes.push((word >> 8) as u8 & 3),
                6 => bytes.extend((word >> 8).to_le_bytes()),
                _ if bytes.is_empty() => bytes.push(0),
                _ => {
                    let from = (word >> 8) as usize % bytes.len();
                    let count = (word >> 40) as usize % 16;
                    bytes.extend_from_within(from..(from + count).min(bytes.len()));
                }
            }
        }
        bytes
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn run(name: &str) {
    let (_, target): Target = *TARGETS.iter().find(|one| one.0 == name).expect("it is listed");
    let limit = Duration::from_secs(number("HOSTILE_SECONDS", 2));
    let mut seed = number("HOSTILE_SEED", 1);
    let started = Instant::now();
    let mut runs = 0_u64;
    while started.elapsed() < limit {
        let input = Random(seed).input();
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            panic!("{name} failed on seed {seed}: run with HOSTILE_SEED={seed}");
        }
        seed += 1;
        runs += 1;
    }
    println!("{name}: {runs} inputs");
    assert!(runs >= 10, "{runs} inputs in {limit:?} show nothing");
}

macro_rules! smoke {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_target_is_here() {
            let here = [$(stringify!($name)),*];
            assert!(TARGETS.iter().map(|one| one.0).eq(here));
        }
    };
}

smoke! { disk_images firmware host_files init_protocol interp irqchip network network_card
ports_and_mmio saved_state shared_folders virtio virtio_devices }
