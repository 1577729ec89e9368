//! The clock chip: formats, setting, the three interrupts.

use super::*;

/// 2024-02-29 23:59:58 UTC, a Thursday.
const WALL: u64 = 1_709_251_198 * SECOND_NS;

fn get(rtc: &mut Rtc, index: u8, wall: u64) -> u8 {
    rtc.write(0, index, wall);
    rtc.read(1, wall)
}

fn put(rtc: &mut Rtc, index: u8, value: u8, wall: u64) {
    rtc.write(0, index, wall);
    rtc.write(1, value, wall);
}

fn all(rtc: &mut Rtc, wall: u64) -> [u8; 8] {
    [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| get(rtc, index, wall))
}

#[test]
fn shows_the_wall_clock_in_every_format() {
    let mut rtc = Rtc::new(WALL, 1 << 30, 0);
    assert_eq!(all(&mut rtc, WALL), [0x20, 0x24, 2, 0x29, 5, 0x23, 0x59, 0x58]);
    assert_eq!(all(&mut rtc, WALL + 2 * SECOND_NS), [0x20, 0x24, 3, 1, 6, 0, 0, 0]);
    put(&mut rtc, INDEX_B, b::HOURS_24 | b::BINARY, WALL);
    assert_eq!(all(&mut rtc, WALL), [0x20, 24, 2, 29, 5, 23, 59, 58]);
    put(&mut rtc, INDEX_B, b::BINARY, WALL);
    assert_eq!(get(&mut rtc, 4, WALL), 0x80 | 11);
    put(&mut rtc, INDEX_B, 0, WALL);
    assert_eq!(get(&mut rtc, 4, WALL + 2 * SECOND_NS), 0x12);
}

#[test]
fn setting_the_clock_moves_it() {
    let mut rtc = Rtc::new(WALL, 1 << 30, 0);
    put(&mut rtc, INDEX_B, b::SET | b::HOURS_24, WALL);
    for (index, value) in [(0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59)] {
        put(&mut rtc, index, value, WALL);
    }
    put(&mut rtc, 0, 0x59, WALL);
    let later = WALL + 10 * SECOND_NS;
    assert_eq!(get(&mut rtc, 0, later), 0x59, "SET stops it");
    put(&mut rtc, INDEX_B, b::HOURS_24, later);
    assert_eq!(all(&mut rtc, later + SECOND_NS), [0x20, 0, 1, 1, 7, 0, 0, 0]);
    put(&mut rtc, 2, 0x30, later + SECOND_NS);
    assert_eq!(get(&mut rtc, 2, later + SECOND_NS), 0x30, "one register while it runs");
}

#[test]
fn the_update_flag_is_short() {
    let mut rtc = Rtc::new(WALL, 1 << 30, 0);
    assert_eq!(get(&mut rtc, INDEX_A, WALL), 0x26);
    assert_eq!(get(&mut rtc, INDEX_A, WALL + SECOND_NS - UPDATE_NS), 0xa6);
    put(&mut rtc, INDEX_B, b::SET, WALL);
    assert_eq!(get(&mut rtc, INDEX_A, WALL + SECOND_NS - 1), 0x26);
}

#[test]
fn periodic_interrupt_at_its_rate() {
    let mut rtc = Rtc::new(WALL, 1 << 30, 0);
    put(&mut rtc, INDEX_B, b::PERIODIC | b::HOURS_24, WALL);
    let mut now = WALL;
    for _ in 0..1024 {
        now = rtc.next_event().expect("1024 Hz");
        assert!(!rtc.interrupt());
        rtc.advance(now);
        assert!(rtc.interrupt());
        assert_eq!(rtc.next_event(), None, "pending already");
        assert_eq!(get(&mut rtc, INDEX_C, now) & 0xc0, 0xc0);
    }
    assert_eq!(now, WALL + SECOND_NS);
    put(&mut rtc, INDEX_A, 0x20, now);
    assert_eq!(rtc.next_event(), None);
}

#[test]
fn update_ended_interrupt() {
    let mut rtc = Rtc::new(WALL + 5, 1 << 30, 0);
    put(&mut rtc, INDEX_B, b::UPDATE | b::HOURS_24, WALL + 5);
    assert_eq!(rtc.next_event(), Some(WALL + SECOND_NS));
    rtc.advance(WALL + SECOND_NS);
    assert_eq!(get(&mut rtc, INDEX_C, WALL + SECOND_NS) & 0x90, 0x90);
    assert!(!rtc.interrupt());
}

#[test]
fn alarms_match_time_and_wildcards() {
    let mut rtc = Rtc::new(WALL, 1 << 30, 0);
    for (index, value) in [(1, 0x05), (3, 0x00), (5, 0x06)] {
        put(&mut rtc, index, value, WALL);
    }
    put(&mut rtc, INDEX_B, b::ALARM | b::HOURS_24, WALL);
    let at = WALL + (2 + 6 * 3600 + 5) * SECOND_NS;
    assert_eq!(rtc.next_event(), Some(at));
    rtc.advance(at - 1);
    assert!(!rtc.interrupt());
    rtc.advance(at);
    assert!(rtc.interrupt());
    assert_eq!(get(&mut rtc, INDEX_C, at) & 0xa0, 0xa0);
    for index in [1, 3, 5] {
        put(&mut rtc, index, 0xff, at);
    }
    assert_eq!(rtc.next_event(), Some(at + SECOND_NS), "every second");
    put(&mut rtc, 1, 0x7f, at);
    assert_eq!(rtc.next_event(), None, "no such second");
}

#[test]
fn memory_size_bytes() {
    let mut rtc = Rtc::new(WALL, 3 << 30, 5 << 30);
    let mut number = |index, bytes: u8| {
        (0..bytes).map(|at| u64::from(get(&mut rtc, index + at, WALL)) << (8 * at)).sum::<u64>()
    };
    assert_eq!(number(0x15, 2), 640);
    assert_eq!(number(0x17, 2), 0xffff);
    assert_eq!(number(0x34, 2) << 16, (3 << 30) - (16 << 20));
    assert_eq!(number(0x5b, 3) << 16, 5 << 30);
}

#[test]
fn a_wall_clock_set_back_stops_nothing() {
    let mut rtc = Rtc::new(WALL, 1 << 30, 0);
    rtc.advance(WALL - 100 * SECOND_NS);
    assert_eq!(get(&mut rtc, 0, WALL - 50 * SECOND_NS), 0x08);
    rtc.advance(WALL + 1);
}

#[test]
fn any_byte_anywhere_is_accepted() {
    let mut rtc = Rtc::new(WALL, 1 << 30, 0);
    let mut now = WALL;
    for index in 0..=255 {
        for value in [0, 0x0f, 0x7f, 0x80, 0xff] {
            now += 999_999_937;
            put(&mut rtc, index, value, now);
            get(&mut rtc, index, now);
            rtc.next_event();
        }
    }
}

#[test]
fn saved_state_round_trips() {
    let mut rtc = Rtc::new(WALL, 1 << 30, 0);
    put(&mut rtc, 0x40, 0x77, WALL);
    put(&mut rtc, 2, 0x11, WALL);
    put(&mut rtc, INDEX_B, b::ALARM | b::HOURS_24, WALL + SECOND_NS);
    assert_ne!(rtc, Rtc::new(WALL, 1 << 30, 0));
    let back = Rtc::restore(rtc.save());
    assert_eq!(back, rtc);
    let hostile = RtcV1 {
        index: 0xff,
        registers: vec![0xff; 200],
        offset_seconds: i64::MIN,
        seen_wall_ns: u64::MAX,
    };
    let mut rtc = Rtc::restore(hostile);
    rtc.advance(u64::MAX / 2);
    get(&mut rtc, 9, WALL);
    rtc.next_event();
}
