//! Rings as drivers make them, and as none may.

use super::*;
use crate::features::{EVENT_IDX, INDIRECT_DESC};
use crate::testing::{BUFFERS, Guest, INDIRECT, NEXT, RAM, WRITE};

#[test]
fn bytes_go_through_a_chain_and_back() {
    let mut guest = Guest::new(8);
    let mut queue = guest.queue(0).expect("a sound queue");
    assert!(queue.pop().expect("sound").is_none());
    guest.write(BUFFERS, b"hello world");
    guest.offer_chain(
        3,
        &[
            (BUFFERS, 5, false),
            (BUFFERS + 5, 6, false),
            (BUFFERS + 0x100, 3, true),
            (BUFFERS + 0x200, 4, true),
        ],
    );
    let mut chain = queue.pop().expect("sound").expect("one is there");
    assert_eq!((chain.readable(), chain.writable()), (11, 7));
    let mut bytes = [0; 8];
    assert_eq!(chain.read(&mut bytes), 8);
    assert_eq!(&bytes, b"hello wo");
    assert_eq!(chain.read(&mut bytes), 3);
    assert_eq!(chain.read(&mut bytes), 0);
    assert_eq!(chain.write(b"abcd"), 4);
    assert_eq!(chain.write(b"efghij"), 3);
    assert_eq!(chain.write(b"x"), 0);
    queue.push(chain);
    assert_eq!((guest.used_index(), guest.used(0)), (1, (3, 7)));
    assert_eq!(guest.read(BUFFERS + 0x100, 4), b"abc\0");
    assert_eq!(guest.read(BUFFERS + 0x200, 5), b"defg\0");
    assert!(queue.pop().expect("sound").is_none());
}

#[test]
fn indices_wrap() {
    let mut guest = Guest::new(2);
    let mut queue = guest.queue(0).expect("a sound queue");
    for round in 0..70_000_u32 {
        let head = (round % 2) as u16;
        guest.offer_chain(head, &[(BUFFERS, 1, true)]);
        let mut chain = queue.pop().expect("sound").expect("one is there");
        chain.write(&[1]);
        queue.push(chain);
        assert_eq!(guest.used_index(), (round + 1) as u16);
        assert_eq!(guest.used(round as u16), (u32::from(head), 1));
    }
}

#[test]
fn a_queue_must_lie_in_ram_and_be_aligned() {
    let with = |change: fn(&mut QueueLayout)| {
        let mut guest = Guest::new(8);
        change(&mut guest.layout);
        guest.queue(0).map(drop)
    };
    assert_eq!(with(|_| {}), Ok(()));
    assert_eq!(with(|layout| layout.size = 0), Err(Broken::Size(0)));
    assert_eq!(with(|layout| layout.size = 7), Err(Broken::Size(7)));
    assert_eq!(with(|layout| layout.size = 2048), Err(Broken::Size(2048)));
    for bad in [GuestPhys(0x1008), GuestPhys(RAM), GuestPhys(RAM - 16), GuestPhys(u64::MAX - 15)] {
        let mut guest = Guest::new(8);
        guest.layout.descriptors = bad;
        assert_eq!(guest.queue(0).map(drop), Err(Broken::Area(bad)));
    }
    assert!(with(|layout| layout.available = GuestPhys(0x6001)).is_err());
    assert!(with(|layout| layout.available = GuestPhys(RAM - 16)).is_err());
    assert!(with(|layout| layout.used = GuestPhys(0x8002)).is_err());
    assert!(with(|layout| layout.used = GuestPhys(RAM - 68)).is_err());
    assert!(with(|layout| layout.used = GuestPhys(RAM - 72)).is_ok());
}

/// What the queue says to a ring that `make` made.
fn broken(features: u64, make: impl FnOnce(&mut Guest)) -> Broken {
    let mut guest = Guest::new(4);
    let mut queue = guest.queue(features).expect("a sound queue");
    make(&mut guest);
    queue.pop().map(drop).expect_err("the ring is broken")
}

#[test]
fn hostile_rings_are_told_apart() {
    let endless = broken(0, |guest| {
        guest.set(0, BUFFERS, 1, NEXT, 1);
        guest.set(1, BUFFERS, 1, NEXT, 0);
        guest.offer(0);
    });
    assert_eq!(endless, Broken::Endless);
    let own_loop = broken(0, |guest| {
        guest.set(2, BUFFERS, 1, NEXT, 2);
        guest.offer(2);
    });
    assert_eq!(own_loop, Broken::Endless);
    assert_eq!(broken(0, |guest| guest.offer(4)), Broken::Descriptor(4));
    assert_eq!(broken(0, |guest| guest.set_available_index(5)), Broken::Available(5));
    assert_eq!(broken(0, |guest| guest.set_available_index(u16::MAX)), Broken::Available(u16::MAX));
    let next = broken(0, |guest| {
        guest.set(0, BUFFERS, 1, NEXT, 0xffff);
        guest.offer(0);
    });
    assert_eq!(next, Broken::Descriptor(0xffff));
    for (address, length) in
        [(RAM, 1), (RAM - 1, 2), (u64::MAX, 1), (u64::MAX, u32::MAX), (0, RAM as u32 + 1)]
    {
        let outside = broken(0, |guest| guest.offer_chain(0, &[(address, length, true)]));
        assert_eq!(outside, Broken::Buffer(GuestPhys(address)));
    }
    let empty = broken(0, |guest| guest.offer_chain(0, &[(BUFFERS, 0, false)]));
    assert_eq!(empty, Broken::Empty(GuestPhys(BUFFERS)));
    let order = broken(0, |guest| guest.offer_chain(0, &[(BUFFERS, 1, true), (BUFFERS, 1, false)]));
    assert_eq!(order, Broken::Order);
}

#[test]
fn a_chain_adds_up_to_what_32_bits_can_say() {
    let memory = GuestMemory::new(&[(GuestPhys(0), 3 << 30)]).expect("3 GiB are only addresses");
    let mut guest = Guest::new(4);
    guest.memory = Arc::new(memory);
    let mut queue = guest.queue(0).expect("a sound queue");
    guest.offer_chain(0, &[(0, 3 << 30, false), (0, 2 << 30, false)]);
    assert_eq!(queue.pop().map(drop), Err(Broken::TooLarge));
}

#[test]
fn indirect_tables_hold_chains() {
    let mut guest = Guest::new(4);
    let mut queue = guest.queue(INDIRECT_DESC).expect("a sound queue");
    let table = BUFFERS + 0x1000;
    for index in 0..8_u16 {
        let flags = if index < 7 { NEXT | WRITE } else { WRITE };
        guest.descriptor(table + 16 * u64::from(index), BUFFERS, 16, flags, index + 1);
    }
    guest.set(1, table, 8 * 16, INDIRECT, 0);
    guest.offer(1);
    let chain = queue.pop().expect("sound").expect("one is there");
    assert_eq!(chain.writable(), 8 * 16, "longer than the queue, as a table may be");
}

#[test]
fn hostile_indirect_tables_are_refused() {
    let table = BUFFERS + 0x1000;
    let refused = |features, address, length, flags, entry_flags| {
        broken(features, |guest| {
            guest.descriptor(table, BUFFERS, 16, entry_flags, 0);
            guest.set(0, address, length, flags, 1);
            guest.set(1, BUFFERS, 1, 0, 0);
            guest.offer(0);
        })
    };
    let indirect = Broken::Indirect(GuestPhys(table));
    assert_eq!(refused(0, table, 16, INDIRECT, 0), indirect, "not negotiated");
    assert_eq!(refused(INDIRECT_DESC, table, 16, INDIRECT | NEXT, 0), indirect, "chained on");
    assert_eq!(refused(INDIRECT_DESC, table, 16, INDIRECT, INDIRECT), indirect, "nested");
    assert_eq!(refused(INDIRECT_DESC, table, 0, INDIRECT, 0), indirect, "empty");
    assert_eq!(refused(INDIRECT_DESC, table, 24, INDIRECT, 0), indirect, "half a descriptor");
    assert_eq!(refused(INDIRECT_DESC, table, 1025 * 16, INDIRECT, 0), indirect, "too long");
    assert_eq!(refused(INDIRECT_DESC, table, 0xffff_fff0, INDIRECT, 0), indirect, "far too long");
    let outside = Broken::Indirect(GuestPhys(RAM - 8));
    assert_eq!(refused(INDIRECT_DESC, RAM - 8, 16, INDIRECT, 0), outside);
    assert_eq!(refused(INDIRECT_DESC, table, 16, INDIRECT, NEXT), Broken::Endless, "a loop");
    assert_eq!(refused(INDIRECT_DESC, table, 32, INDIRECT, NEXT), Broken::Endless);
}

/// Pops and pushes what is offered now.
fn turn(guest: &mut Guest, queue: &mut Queue) {
    guest.offer_chain(0, &[(BUFFERS, 1, true)]);
    let chain = queue.pop().expect("sound").expect("one is there");
    queue.push(chain);
}

#[test]
fn interrupts_are_as_the_flags_say() {
    let mut guest = Guest::new(4);
    let mut queue = guest.queue(0).expect("a sound queue");
    assert!(!queue.wants_interrupt(), "nothing was used");
    turn(&mut guest, &mut queue);
    assert!(queue.wants_interrupt());
    assert!(!queue.wants_interrupt(), "once");
    guest.set_available_flags(1);
    turn(&mut guest, &mut queue);
    assert!(!queue.wants_interrupt());
    queue.silence_doorbell();
    assert_eq!(guest.word(guest.layout.used.0), 1);
    assert!(!queue.arm_doorbell());
    assert_eq!(guest.word(guest.layout.used.0), 0);
    guest.offer_chain(0, &[(BUFFERS, 1, true)]);
    assert!(queue.arm_doorbell(), "one came in between");
}

#[test]
fn interrupts_are_as_the_used_event_says() {
    let mut guest = Guest::new(4);
    let mut queue = guest.queue(EVENT_IDX).expect("a sound queue");
    guest.set_available_flags(1); // means nothing with EVENT_IDX
    guest.set_used_event(2);
    let wanted: Vec<bool> = (0..5)
        .map(|_| {
            turn(&mut guest, &mut queue);
            queue.wants_interrupt()
        })
        .collect();
    assert_eq!(wanted, [false, false, true, false, false]);
    guest.set_used_event(6);
    for _ in 0..3 {
        turn(&mut guest, &mut queue);
    }
    assert!(queue.wants_interrupt(), "the event was passed among others");
    assert!(!queue.arm_doorbell());
    let avail_event = guest.layout.used.0 + 4 + 8 * 4;
    assert_eq!(guest.word(avail_event), 8, "the next entry rings");
    queue.silence_doorbell();
    assert_eq!(guest.word(guest.layout.used.0), 0, "without a word");
}

#[test]
fn pages_that_a_device_wrote_are_dirty() {
    let mut guest = Guest::new(4);
    let mut queue = guest.queue(0).expect("a sound queue");
    guest.offer_chain(0, &[(BUFFERS + 0xfff, 2, true)]);
    let mut chain = queue.pop().expect("sound").expect("one is there");
    chain.write(&[1, 2]);
    queue.push(chain);
    for page in [BUFFERS / 4096, BUFFERS / 4096 + 1, guest.layout.used.0 / 4096] {
        assert!(guest.memory.dirty().is_set(page));
    }
}
