//! The controller against what Linux's i8042, atkbd and psmouse ask, and against misuse.

use super::*;

fn command(pc: &mut I8042, value: u8) {
    assert!(!pc.write_command(value));
}

fn data(pc: &mut I8042, value: u8) {
    assert!(!pc.write_data(value));
}

fn drain(pc: &mut I8042) -> Vec<u8> {
    let mut bytes = vec![];
    while pc.read_status() & STATUS_FULL != 0 {
        bytes.push(pc.read_data());
        pc.transfer();
    }
    bytes
}

#[test]
fn linux_controller_probe() {
    let mut pc = I8042::new();
    assert_eq!(pc.read_status(), 0x14);
    command(&mut pc, 0xaa);
    assert_eq!(drain(&mut pc), [0x55]);
    command(&mut pc, 0x20);
    assert_eq!(drain(&mut pc), [0x45]);
    command(&mut pc, 0x60);
    data(&mut pc, 0x74);
    command(&mut pc, 0x20);
    assert_eq!(drain(&mut pc), [0x74]);
    // AUX loop, then enable and disable the aux interface.
    command(&mut pc, 0xd3);
    data(&mut pc, 0x5a);
    assert_eq!(pc.read_status() & 0x21, 0x21);
    assert_eq!(drain(&mut pc), [0x5a]);
    command(&mut pc, 0xa7);
    command(&mut pc, 0x20);
    assert_eq!(drain(&mut pc)[0] & 0x20, 0x20);
    command(&mut pc, 0xa8);
    command(&mut pc, 0x20);
    assert_eq!(drain(&mut pc)[0] & 0x20, 0);
    command(&mut pc, 0xa9);
    command(&mut pc, 0xab);
    assert_eq!(drain(&mut pc), [0, 0]);
}

#[test]
fn keyboard_answers_and_types() {
    let mut pc = I8042::new();
    data(&mut pc, 0xff);
    assert_eq!(drain(&mut pc), [0xfa, 0xaa]);
    data(&mut pc, 0xf2);
    assert_eq!(drain(&mut pc), [0xfa, 0xab, 0x41], "the id is translated too");
    data(&mut pc, 0xed);
    data(&mut pc, 0x04);
    assert_eq!((drain(&mut pc), pc.leds()), (vec![0xfa, 0xfa], 4));
    data(&mut pc, 0xf4);
    assert_eq!(drain(&mut pc), [0xfa]);
    assert!(pc.keys(&[0x1c, 0xf0, 0x1c]));
    assert_eq!(pc.interrupts(), (true, false));
    assert_eq!(drain(&mut pc), [0x1e, 0x9e]);
    command(&mut pc, 0x60);
    data(&mut pc, 0x05);
    assert!(pc.keys(&[0x1c, 0xf0, 0x1c]));
    assert_eq!(drain(&mut pc), [0x1c, 0xf0, 0x1c], "untranslated");
    data(&mut pc, 0x01);
    assert_eq!(drain(&mut pc), [0xfe]);
}

#[test]
fn mouse_answers_and_moves() {
    let mut pc = I8042::new();
    command(&mut pc, 0x60);
    data(&mut pc, 0x47);
    for (byte, replies) in [
        (0xff, vec![0xfa, 0xaa, 0x00]),
        (0xf2, vec![0xfa, 0x00]),
        (0xe9, vec![0xfa, 0x00, 2, 100]),
        (0xf4, vec![0xfa]),
    ] {
        command(&mut pc, 0xd4);
        data(&mut pc, byte);
        assert_eq!(pc.interrupts(), (false, true));
        assert_eq!(pc.read_status() & 0x20, 0x20);
        assert_eq!(drain(&mut pc), replies);
    }
    assert!(pc.mouse(3, -2, 1));
    assert_eq!(drain(&mut pc), [0x29, 3, 0xfe]);
}

#[test]
fn the_interrupt_falls_between_bytes() {
    let mut pc = I8042::new();
    pc.keys(&[0x1c, 0x1b]);
    assert_eq!(pc.interrupts(), (true, false));
    pc.read_data();
    assert_eq!(pc.interrupts(), (false, false));
    pc.transfer();
    assert_eq!(pc.interrupts(), (true, false));
}

#[test]
fn a_disabled_keyboard_keeps_its_bytes() {
    let mut pc = I8042::new();
    command(&mut pc, 0xad);
    assert!(pc.keys(&[0x1c]));
    assert_eq!(drain(&mut pc), []);
    command(&mut pc, 0xae);
    assert_eq!(drain(&mut pc), [0x1e]);
}

#[test]
fn three_ways_to_reset() {
    assert!(I8042::new().write_command(0xfe));
    let mut pc = I8042::new();
    command(&mut pc, 0xd1);
    assert!(pc.write_data(0xfe));
    command(&mut pc, 0xff);
    command(&mut pc, 0xd1);
    data(&mut pc, 0xdf);
}

#[test]
fn queues_are_bounded() {
    let mut pc = I8042::new();
    for _ in 0..1000 {
        pc.keys(&[0x1c]);
        data(&mut pc, 0xff);
        command(&mut pc, 0x20);
    }
    assert!(drain(&mut pc).len() <= 200);
    for first in 0..=255 {
        for second in 0..=255 {
            let _ = pc.write_command(first);
            let _ = pc.write_data(second);
            pc.read_data();
            pc.transfer();
        }
    }
}

#[test]
fn saved_state_round_trips() {
    let mut pc = I8042::new();
    pc.keys(&[0x1c, 0xf0, 0x1c]);
    command(&mut pc, 0xd4);
    data(&mut pc, 0xf4);
    data(&mut pc, 0xed);
    command(&mut pc, 0x60);
    assert_ne!(pc, I8042::new());
    let mut back = I8042::restore(&pc.save());
    assert_eq!(back, pc);
    assert_eq!(drain(&mut back), drain(&mut pc));
}
