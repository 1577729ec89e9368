//! What the 8254 data sheet says, asserted tick by tick.

use super::clock;
use super::*;
use std::vec::Vec;

/// The timer began here, to see that nothing assumes zero.
const START: u64 = 123_456_789;

/// The first nanosecond of this tick.
fn at(tick: u64) -> u64 {
    START + clock::ns(tick)
}

/// Programs a counter at tick 0: it is loaded at tick 1.
fn program(mode: u8, count: u16) -> Pit {
    let mut pit = Pit::new(START);
    pit.write(0x43, 0x30 | mode << 1, START);
    load(&mut pit, 0x40, count, 0);
    pit.advance(START);
    pit
}

fn load(pit: &mut Pit, port: u16, count: u16, tick: u64) {
    let [low, high] = count.to_le_bytes();
    pit.write(port, low, at(tick));
    pit.write(port, high, at(tick));
}

fn counter(pit: &mut Pit, port: u16, tick: u64) -> u16 {
    pit.write(0x43, ((port - 0x40) << 6) as u8, at(tick));
    u16::from_le_bytes([pit.read(port, at(tick)), pit.read(port, at(tick))])
}

/// OUT 0 over ticks, as ones and zeros.
fn wave(pit: &Pit, ticks: core::ops::Range<u64>) -> Vec<u8> {
    ticks.map(|tick| u8::from(pit.output(at(tick)))).collect()
}

fn status(pit: &mut Pit, channel: u8, tick: u64) -> u8 {
    pit.write(0x43, 0xe0 | 2 << channel, at(tick));
    pit.read(0x40 + u16::from(channel), at(tick))
}

#[test]
fn clock_is_exact_both_ways() {
    assert_eq!(clock::ticks(1_000_000_000), FREQUENCY_HZ);
    for tick in [0, 1, 2, 1_193_181, 1_193_182, 1_193_183, 123_456_789_012] {
        assert_eq!(clock::ticks(clock::ns(tick)), tick);
        assert!(tick == 0 || clock::ticks(clock::ns(tick) - 1) == tick - 1);
    }
}

#[test]
fn mode_0_rises_n_plus_1_ticks_after_the_write() {
    let mut pit = program(0, 4);
    assert_eq!(wave(&pit, 0..8), [0, 0, 0, 0, 0, 1, 1, 1]);
    assert_eq!(pit.next_event(), Some(at(5)));
    assert_eq!(pit.advance(at(5) - 1), 0);
    assert_eq!(pit.advance(at(5)), 1);
    assert_eq!(pit.next_event(), None);
    // It counts on through zero.
    assert_eq!(counter(&mut pit, 0x40, 6), 0xffff);
    assert_eq!(pit.advance(at(1_000_000)), 0);
    // The first byte of a new count stops it and lowers OUT.
    pit.write(0x40, 2, at(1_000_000));
    assert!(!pit.output(at(1_000_100)));
    pit.write(0x40, 0, at(1_000_100));
    assert_eq!(pit.next_event(), Some(at(1_000_103)));
}

#[test]
fn mode_2_is_low_for_the_last_tick() {
    let mut pit = program(2, 3);
    assert_eq!(wave(&pit, 0..11), [1, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1]);
    assert_eq!(pit.next_event(), Some(at(4)));
    let counts: Vec<u16> = (1..8).map(|tick| counter(&mut pit, 0x40, tick)).collect();
    assert_eq!(counts, [3, 2, 1, 3, 2, 1, 3]);
}

#[test]
fn mode_2_catches_up_with_missed_periods() {
    let mut pit = program(2, 1000);
    assert_eq!(pit.advance(at(1001)), 1);
    assert_eq!(pit.advance(at(10_500)), 9);
    assert_eq!(pit.next_event(), Some(at(11_001)));
    assert_eq!(pit.advance(at(1_000_000_001)), 1_000_000 - 10);
    assert_eq!(pit.advance(at(1_000_000_001)), 0);
}

#[test]
fn mode_2_takes_a_new_count_at_the_end_of_the_cycle() {
    let mut pit = program(2, 10);
    load(&mut pit, 0x40, 4, 5);
    assert_eq!(status(&mut pit, 0, 5) & 0x40, 0x40, "null count until it is loaded");
    assert_eq!(counter(&mut pit, 0x40, 10), 1);
    assert_eq!(pit.next_event(), Some(at(11)));
    assert_eq!(counter(&mut pit, 0x40, 11), 4);
    assert_eq!(status(&mut pit, 0, 11), 0x80 | 0x30 | 2 << 1);
    assert_eq!(wave(&pit, 11..20), [1, 1, 1, 0, 1, 1, 1, 0, 1]);
    assert_eq!(pit.advance(at(19)), 3);
}

#[test]
fn a_new_count_is_seen_by_a_late_caller() {
    let mut pit = program(2, 10);
    load(&mut pit, 0x40, 4, 5);
    // Rises at 11 (old), 15, 19, 23 (new).
    assert_eq!(pit.next_event(), Some(at(11)));
    assert_eq!(pit.advance(at(24)), 4);
    assert_eq!(pit.next_event(), Some(at(27)));
}

#[test]
fn mode_3_even_and_odd() {
    let mut pit = program(3, 4);
    assert_eq!(wave(&pit, 1..10), [1, 1, 0, 0, 1, 1, 0, 0, 1]);
    let counts: Vec<u16> = (1..6).map(|tick| counter(&mut pit, 0x40, tick)).collect();
    assert_eq!(counts, [4, 2, 4, 2, 4]);
    let mut pit = program(3, 5);
    assert_eq!(wave(&pit, 1..12), [1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1]);
    let counts: Vec<u16> = (1..6).map(|tick| counter(&mut pit, 0x40, tick)).collect();
    assert_eq!(counts, [4, 2, 0, 4, 2]);
    assert_eq!(pit.next_event(), Some(at(6)));
    assert_eq!(pit.advance(at(11)), 2);
}

#[test]
fn mode_3_takes_a_new_count_at_the_end_of_the_half_cycle() {
    let mut pit = program(3, 8);
    // Written in the high half (ticks 1-4): the low half is the new count's.
    load(&mut pit, 0x40, 4, 2);
    assert_eq!(wave(&pit, 1..5), [1, 1, 1, 1]);
    assert_eq!(pit.next_event(), Some(at(7)));
    pit.advance(at(5));
    assert_eq!(wave(&pit, 5..13), [0, 0, 1, 1, 0, 0, 1, 1]);
}

#[test]
fn a_count_of_zero_is_the_largest() {
    let pit = program(2, 0);
    assert_eq!(pit.next_event(), Some(at(0x1_0001)));
    let mut pit = Pit::new(START);
    pit.write(0x43, 0x35, START);
    load(&mut pit, 0x40, 0, 0);
    assert_eq!(pit.next_event(), Some(at(10_001)));
}

#[test]
fn bcd_counts() {
    let mut pit = Pit::new(START);
    pit.write(0x43, 0x35, START);
    load(&mut pit, 0x40, 0x1000, 0);
    assert_eq!(counter(&mut pit, 0x40, 1), 0x1000);
    assert_eq!(counter(&mut pit, 0x40, 2), 0x0999);
    assert_eq!(pit.next_event(), Some(at(1001)));
    // Mode 0 wraps to 9999.
    pit.write(0x43, 0x31, at(100));
    load(&mut pit, 0x40, 0x0001, 100);
    assert_eq!(counter(&mut pit, 0x40, 103), 0x9999);
}

#[test]
fn mode_4_strobes_once() {
    let mut pit = program(4, 3);
    assert_eq!(wave(&pit, 0..8), [1, 1, 1, 1, 0, 1, 1, 1]);
    assert_eq!(pit.next_event(), Some(at(5)));
    assert_eq!(pit.advance(at(100)), 1);
    assert_eq!(pit.next_event(), None);
}

/// Counter 2, whose gate is port 0x61 bit 0.
fn gated(mode: u8, count: u16) -> Pit {
    let mut pit = Pit::new(START);
    pit.write(0x43, 0xb0 | mode << 1, START);
    load(&mut pit, 0x42, count, 0);
    pit
}

fn out2(pit: &mut Pit, ticks: core::ops::Range<u64>) -> Vec<u8> {
    ticks.map(|tick| pit.read(0x61, at(tick)) >> 5 & 1).collect()
}

#[test]
fn mode_0_gate_suspends() {
    let mut pit = gated(0, 4);
    assert_eq!(out2(&mut pit, 0..9), [0; 9]);
    pit.write(0x61, 1, at(10));
    assert_eq!(out2(&mut pit, 10..13), [0; 3]);
    pit.write(0x61, 0, at(13));
    assert_eq!(counter(&mut pit, 0x42, 50), 1);
    pit.write(0x61, 1, at(60));
    assert_eq!(out2(&mut pit, 60..63), [0, 1, 1]);
}

#[test]
fn mode_1_is_a_retriggerable_one_shot() {
    let mut pit = gated(1, 3);
    assert_eq!(out2(&mut pit, 0..3), [1; 3]);
    pit.write(0x61, 1, at(10));
    assert_eq!(out2(&mut pit, 10..13), [1, 0, 0]);
    pit.write(0x61, 0, at(13));
    pit.write(0x61, 1, at(13));
    assert_eq!(out2(&mut pit, 13..19), [0, 0, 0, 0, 1, 1]);
    // A new count waits for the next trigger.
    load(&mut pit, 0x42, 1, 20);
    assert_eq!(status(&mut pit, 2, 20) & 0x40, 0x40);
    pit.write(0x61, 0, at(21));
    pit.write(0x61, 1, at(21));
    assert_eq!(out2(&mut pit, 21..25), [1, 0, 1, 1]);
}

#[test]
fn mode_2_gate_stops_high_and_restarts() {
    let mut pit = gated(2, 3);
    assert_eq!(out2(&mut pit, 0..6), [1; 6]);
    pit.write(0x61, 1, at(6));
    assert_eq!(out2(&mut pit, 6..10), [1, 1, 1, 0]);
    pit.write(0x61, 0, at(9));
    assert_eq!(out2(&mut pit, 10..16), [1; 6]);
    pit.write(0x61, 1, at(16));
    assert_eq!(out2(&mut pit, 16..21), [1, 1, 1, 0, 1]);
}

#[test]
fn mode_5_strobes_after_a_trigger() {
    let mut pit = gated(5, 3);
    pit.write(0x61, 1, at(10));
    assert_eq!(out2(&mut pit, 10..17), [1, 1, 1, 1, 0, 1, 1]);
}

#[test]
fn latch_holds_until_read() {
    let mut pit = program(2, 1000);
    pit.write(0x43, 0x00, at(11));
    pit.write(0x43, 0x00, at(500));
    let low = pit.read(0x40, at(600));
    let high = pit.read(0x40, at(700));
    assert_eq!(u16::from_le_bytes([low, high]), 990);
    // Unlatched it reads live.
    assert_eq!(pit.read(0x40, at(701)), (300 & 0xff) as u8);
}

#[test]
fn time_going_back_stands_still() {
    let mut pit = program(2, 1000);
    assert_eq!(counter(&mut pit, 0x40, 501), 500);
    assert_eq!(counter(&mut pit, 0x40, 101), 500);
    assert_eq!(pit.advance(0), 0);
}

#[test]
fn read_back_gives_status_then_count() {
    let mut pit = program(3, 100);
    pit.write(0x43, 0xc2, at(1));
    assert_eq!(pit.read(0x40, at(9)), 0x80 | 0x30 | 3 << 1);
    assert_eq!(pit.read(0x40, at(9)), 100);
    assert_eq!(pit.read(0x40, at(9)), 0);
    // Before the first count: null.
    let mut pit = Pit::new(START);
    pit.write(0x43, 0x50, START);
    assert_eq!(status(&mut pit, 1, 0), 0x40 | 0x10);
}

#[test]
fn single_byte_accesses() {
    let mut pit = Pit::new(START);
    pit.write(0x43, 0x14, START); // low byte only
    pit.write(0x40, 200, START);
    assert_eq!(pit.read(0x40, at(1)), 200);
    assert_eq!(pit.read(0x40, at(2)), 199);
    pit.write(0x43, 0x24, at(10)); // high byte only
    pit.write(0x40, 2, at(10));
    assert_eq!(pit.next_event(), Some(at(10 + 1 + 0x200)));
    assert_eq!(pit.read(0x40, at(11)), 2);
    assert_eq!(pit.read(0x40, at(12)), 1);
}

#[test]
fn a_control_word_can_raise_out_at_once() {
    let mut pit = program(0, 1000);
    pit.write(0x43, 0x34, at(10));
    assert_eq!(pit.next_event(), Some(at(10)));
    assert_eq!(pit.advance(at(10)), 1);
    assert_eq!(pit.next_event(), None);
}

#[test]
fn port_61_bits() {
    let mut pit = gated(3, 4);
    pit.write(0x61, 0xff, START);
    assert_eq!(pit.read(0x61, START) & 0xcf, 0x0f);
    let toggles = (0..180)
        .filter(|&tick| (pit.read(0x61, at(tick)) ^ pit.read(0x61, at(tick + 1))) & 0x10 != 0)
        .count();
    assert!(toggles >= 9, "{toggles}");
    assert!(pit.speaker(at(181)) || pit.speaker(at(183)));
    pit.write(0x61, 1, at(190));
    assert!((190..200).all(|tick| !pit.speaker(at(tick))));
}

#[test]
fn saved_state_round_trips() {
    let mut pit = program(2, 1000);
    pit.write(0x43, 0xb6, at(3));
    load(&mut pit, 0x42, 501, 3);
    pit.write(0x61, 3, at(7));
    pit.write(0x43, 0x70, at(8));
    pit.write(0x41, 0x12, at(8)); // half a count
    load(&mut pit, 0x40, 400, 2400); // two rises behind, a new count ahead
    pit.write(0x43, 0xc4, at(2450)); // latches of counter 1
    let now = at(2500) + 300;
    let state = pit.save(now);
    assert_eq!(state.edges, 2);
    assert_eq!(state.channels[0].load_in, Some(501));
    assert_eq!(state.phase_ns, 300);
    for later in [0, 77, u64::MAX / 4] {
        let mut copy = Pit::from_state(&state, later);
        assert_eq!(copy.save(later), state);
        assert_eq!(copy.advance(later), 2);
        let mut original = pit.clone();
        assert_eq!(original.advance(now), 2);
        for step in 1..3000u64 {
            let (then, there) = (now + step * 1000, later + step * 1000);
            assert_eq!(copy.read(0x61, there), original.read(0x61, then));
            assert_eq!(copy.advance(there), original.advance(then));
        }
        assert_ne!(copy.save(later + 3_000_000), state);
    }
}

#[test]
fn hostile_input_does_not_panic() {
    for counting in [Counting::Idle, Counting::Since(1 << 63), Counting::Held(u64::MAX)] {
        let channel = PitChannelV1 {
            mode: 0xff,
            bcd: true,
            access: 0xff,
            gate: true,
            count: u32::MAX,
            written: true,
            loaded: false,
            reload: 0,
            counting,
            retriggered: true,
            load_in: Some(u64::MAX),
            write_low: Some(1),
            read_high_next: true,
            latched_count: None,
            latched_status: None,
        };
        for mode in 0..8 {
            let channel = PitChannelV1 { mode, ..channel.clone() };
            let state = PitV1 {
                channels: [channel.clone(), channel.clone(), channel],
                phase_ns: u64::MAX,
                refresh_phase: u64::MAX,
                edges: u64::MAX,
                port_61: 0xff,
            };
            let mut pit = Pit::from_state(&state, u64::MAX);
            let mut now = u64::MAX;
            for value in 0..=255 {
                for port in [0x61, 0x40, 0x41, 0x42, 0x43, 0x99] {
                    pit.write(port, value, now);
                    let _ = pit.read(port, now);
                    let _ = (pit.next_event(), pit.output(now), pit.speaker(now));
                    now = now.wrapping_add(u64::from(value) * 12_345_678_901);
                }
                let _ = (pit.save(now), pit.advance(now));
            }
            let _ = pit.advance(now.wrapping_add(u64::MAX / 2));
        }
    }
}

#[test]
fn edges_and_waves_agree() {
    // The counted rises are those that looking at every tick finds, whatever is programmed when.
    for mode in 0..6 {
        for (count, next, when) in [(2, 9, 3), (7, 3, 11), (5, 2, 12), (8, 5, 4), (3, 3, 40)] {
            let mut pit = program(mode, count);
            let mut seen = pit.clone();
            let mut level = seen.output(at(0));
            for tick in 1..100 {
                if tick == when {
                    let mut before = seen.clone();
                    load(&mut pit, 0x40, next, tick);
                    load(&mut seen, 0x40, next, tick);
                    let late = before.advance(at(tick));
                    let rises = pit.advance(at(tick));
                    assert!(rises >= late);
                    seen.advance(at(tick));
                    level = seen.output(at(tick));
                    continue;
                }
                let expected = seen.next_event();
                let now = seen.output(at(tick));
                let rises = seen.advance(at(tick));
                assert_eq!(rises, u64::from(now && !level), "mode {mode} {count} {next} {tick}");
                if rises == 1 {
                    assert_eq!(expected, Some(at(tick)), "mode {mode} {count} {next} {tick}");
                }
                level = now;
            }
        }
    }
}
