//! The 16550A against its datasheet and against what Linux's 8250 driver probes for.

use super::*;

fn put(uart: &mut Uart, offset: u16, value: u8) {
    assert_eq!(uart.write(offset, value, 0), None);
}

fn running() -> Uart {
    let mut uart = Uart::new();
    put(&mut uart, 3, 0x80);
    put(&mut uart, 0, 1);
    put(&mut uart, 1, 0);
    put(&mut uart, 3, 0x03);
    put(&mut uart, 2, 0x07 | 0x80); // FIFO on, cleared, trigger 8
    uart
}

#[test]
fn bytes_leave_at_once_and_the_line_is_always_free() {
    let mut uart = running();
    for byte in 0..=255 {
        assert_eq!(uart.write(0, byte, 0), Some(byte));
        assert_eq!(uart.read(5, 0), 0x60);
    }
}

#[test]
fn linux_autoconfig_finds_a_16550a() {
    let mut uart = Uart::new();
    // IER scratch test.
    put(&mut uart, 1, 0);
    assert_eq!(uart.read(1, 0) & 0x0f, 0);
    put(&mut uart, 1, 0x0f);
    assert_eq!(uart.read(1, 0) & 0x0f, 0x0f);
    put(&mut uart, 1, 0);
    // Loopback test: RTS and OUT2 come back as CTS and DCD.
    put(&mut uart, 4, 0x1a);
    assert_eq!(uart.read(6, 0) & 0xf0, 0x90);
    put(&mut uart, 4, 0);
    // FIFO test.
    put(&mut uart, 3, 0);
    put(&mut uart, 2, 1);
    assert_eq!(uart.read(2, 0) >> 6, 3);
    // No EFR under DLAB or 0xbf, no 64-byte FIFO, no UUE bit.
    put(&mut uart, 3, 0x80);
    assert_ne!(uart.read(2, 0), 0);
    put(&mut uart, 3, 0xbf);
    assert_ne!(uart.read(2, 0), 0);
    put(&mut uart, 2, 0x21);
    assert_eq!(uart.read(2, 0) >> 5, 6);
    put(&mut uart, 3, 0);
    put(&mut uart, 2, 0x21);
    assert_eq!(uart.read(2, 0) >> 5, 6);
    put(&mut uart, 1, 0x40);
    assert_eq!(uart.read(1, 0), 0);
}

#[test]
fn linux_fifo_size_detection_counts_sixteen() {
    let mut uart = Uart::new();
    put(&mut uart, 2, 0x07);
    put(&mut uart, 4, 0x10);
    for byte in 0..255 {
        put(&mut uart, 0, byte);
    }
    let mut count = 0;
    while uart.read(5, 0) & 1 != 0 && count < 256 {
        assert_eq!(uart.read(0, 0), count as u8);
        count += 1;
    }
    assert_eq!(count, 16);
}

#[test]
fn the_transmitter_interrupt_comes_back_each_time_it_is_enabled() {
    let mut uart = running();
    for _ in 0..3 {
        put(&mut uart, 1, 2);
        assert!(uart.interrupt());
        assert_eq!(uart.read(2, 0) & 0xf, 2);
        assert!(!uart.interrupt(), "reading IIR cleared it");
        assert_eq!(uart.read(2, 0) & 0xf, 1);
        put(&mut uart, 1, 0);
    }
    put(&mut uart, 1, 2);
    assert_eq!(uart.read(2, 0) & 0xf, 2);
    put(&mut uart, 1, 2);
    assert!(!uart.interrupt(), "writing the same enable is no transition");
    assert_eq!(uart.write(0, b'x', 0), Some(b'x'));
    assert!(uart.interrupt());
}

#[test]
fn interrupts_come_in_the_order_of_priority() {
    let mut uart = running();
    put(&mut uart, 2, 0x01); // trigger 1
    put(&mut uart, 1, 0x0f);
    put(&mut uart, 4, 0x10); // modem lines drop: delta
    put(&mut uart, 4, 0x00);
    assert!(uart.receive_break(0));
    assert_eq!(uart.read(2, 0) & 0xf, 6);
    assert_eq!(uart.read(5, 0) & 0x91, 0x91);
    assert_eq!(uart.read(2, 0) & 0xf, 4);
    assert_eq!(uart.read(0, 0), 0);
    assert_eq!(uart.read(2, 0) & 0xf, 2);
    assert_eq!(uart.read(2, 0) & 0xf, 0);
    assert_ne!(uart.read(6, 0) & 0x0f, 0);
    assert_eq!(uart.read(6, 0), 0xb0);
    assert_eq!(uart.read(2, 0), 0xc1);
}

#[test]
fn a_lonely_byte_raises_the_character_timeout() {
    let mut uart = running();
    put(&mut uart, 1, 1);
    assert_eq!(uart.receive(b"ab", 1000), 2);
    assert!(!uart.interrupt(), "below the trigger of 8");
    let at = uart.next_event().expect("a timeout runs");
    assert_eq!(at, 1000 + 4 * 10 * 1_000_000_000 / 115_200);
    uart.advance(at - 1);
    assert!(!uart.interrupt());
    uart.advance(at);
    assert_eq!(uart.read(2, at), 0xcc);
    assert_eq!(uart.read(0, at), b'a');
    assert!(!uart.interrupt(), "reading restarts the time");
    uart.advance(uart.next_event().expect("one byte is left"));
    assert_eq!(uart.read(2, at), 0xcc);
    assert_eq!(uart.read(0, at), b'b');
    assert_eq!((uart.read(2, at), uart.next_event()), (0xc1, None));
}

#[test]
fn slow_rates_do_not_slow_the_timeout() {
    let mut uart = running();
    put(&mut uart, 3, 0x80);
    put(&mut uart, 1, 0xff);
    put(&mut uart, 3, 0x03);
    put(&mut uart, 1, 1);
    assert_eq!(uart.receive(b"a", 0), 1);
    assert_eq!(uart.next_event(), Some(TIMEOUT_LIMIT_NS));
}

#[test]
fn the_receiver_takes_what_fits() {
    let mut uart = running();
    put(&mut uart, 1, 1);
    assert_eq!(uart.receive(&[7; 20], 0), 16);
    assert_eq!(uart.receive(&[7; 20], 0), 0);
    assert_eq!(uart.read(2, 0) & 0xf, 4, "above the trigger");
    assert_eq!(uart.read(0, 0), 7);
    assert_eq!(uart.room(), 1);
    while uart.read(5, 0) & 1 != 0 {
        assert_eq!(uart.read(0, 0), 7);
    }
    put(&mut uart, 2, 0);
    assert_eq!(uart.receive(b"xy", 0), 1, "one byte without FIFO");
    put(&mut uart, 4, 0x10);
    assert_eq!(uart.room(), 0, "the line is off in loopback");
}

/// The order in which Linux's driver opens a port: clear, read what lies there, enable, FIFO on.
#[test]
fn nothing_sent_before_the_driver_is_ready_is_lost() {
    let mut uart = Uart::new();
    let line: Vec<u8> = (1..=40).collect();
    let mut sent = 0;
    let mut send = |uart: &mut Uart| sent += uart.receive(&line[sent..], 0);
    for (offset, value) in [(2, 1), (2, 7), (2, 0)] {
        send(&mut uart);
        put(&mut uart, offset, value);
    }
    for offset in [5, 0, 2, 6] {
        send(&mut uart);
        assert_eq!(uart.read(offset, 0) & 1, u8::from(offset == 2), "nothing there to be dropped");
    }
    for (offset, value) in [(1, 2), (1, 0), (1, 5), (2, 1), (2, 0x81)] {
        send(&mut uart);
        put(&mut uart, offset, value);
    }
    let mut read = Vec::new();
    let mut drain = |uart: &mut Uart, count| {
        for _ in 0..count {
            assert_eq!(uart.read(5, 0) & 1, 1);
            read.push(uart.read(0, 0));
            send(uart);
        }
    };
    drain(&mut uart, 5);
    // The port is closed, cleared and opened again with its FIFO full.
    for (offset, value) in [(1, 0), (2, 1), (2, 7), (2, 0), (1, 1), (2, 1)] {
        put(&mut uart, offset, value);
    }
    drain(&mut uart, 35);
    assert_eq!(read, line);
}

#[test]
fn a_guest_that_polls_is_heard_and_one_that_prints_is_not_taken_for_it() {
    let mut uart = running();
    for byte in 0..100 {
        assert_eq!(uart.read(5, 0) & 1, 0);
        assert_eq!(uart.write(0, byte, 0), Some(byte));
    }
    assert_eq!(uart.room(), 0);
    for _ in 0..POLLS {
        assert_eq!(uart.read(5, 0) & 1, 0);
    }
    assert_eq!(uart.receive(b"hello", 0), 5);
    assert_eq!((uart.read(5, 0) & 1, uart.read(0, 0)), (1, b'h'));
    put(&mut uart, 2, 7);
    assert_eq!(uart.read(5, 0) & 1, 0, "it was polling, so it threw them away");
}

#[test]
fn loopback_keeps_what_came_from_the_line_apart() {
    let mut uart = running();
    put(&mut uart, 1, 1);
    assert_eq!(uart.receive(b"ab", 0), 2);
    put(&mut uart, 4, 0x10);
    put(&mut uart, 0, b'x');
    assert_eq!(uart.read(0, 0), b'x');
    put(&mut uart, 0, b'y');
    put(&mut uart, 2, 7);
    put(&mut uart, 4, 0);
    assert_eq!((uart.read(0, 0), uart.read(0, 0), uart.read(5, 0) & 1), (b'a', b'b', 0));
}

#[test]
fn saved_state_round_trips() {
    let mut uart = running();
    put(&mut uart, 1, 0x0f);
    put(&mut uart, 7, 0x5a);
    put(&mut uart, 4, 0x0b);
    uart.receive(b"hello", 77);
    uart.receive_break(78);
    put(&mut uart, 2, 0);
    assert_eq!((uart.save().fifo.len(), uart.save().held.len()), (1, 5));
    assert_ne!(uart, Uart::new());
    let state = uart.save();
    let mut back = Uart::restore(state.clone());
    assert_eq!(back, uart);
    assert_eq!(back.save(), state);
    back.read(0, 0);
    assert_ne!(back.save(), state);
}

#[test]
fn a_hostile_saved_state_is_still_a_uart() {
    let state = UartV1 {
        ier: 0xff,
        mcr: 0xff,
        fifo: vec![(1, 2); 99],
        held: vec![(1, 2); 99],
        polls: 255,
        ..Uart::new().save()
    };
    let mut uart = Uart::restore(state);
    for offset in 0..8 {
        uart.read(offset, 0);
        let _ = uart.write(offset, 0xff, 0);
    }
    assert!(uart.save().fifo.len() <= 16 && uart.save().held.len() <= 16);
}
