//! From a device's line to the engine, by both controllers.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::{LIMIT, eventually};
use crate::fake::{Ports, machine, once};
use crate::irq::lock;
use crate::{DiscardSink, MachineConfig, SerialConfig};

/// Level-triggered, in an IOAPIC entry.
const LEVEL: u32 = 1 << 15;

fn config() -> MachineConfig {
    MachineConfig {
        test_devices: true,
        serial: vec![SerialConfig::new(DiscardSink)],
        ..MachineConfig::default()
    }
}

#[test]
fn the_interval_timer_ticks_through_pin_2() {
    let program = once(|io| {
        io.route(2, 0x30);
        io.outb(0x43, 0x34);
        io.outb(0x40, (1193 & 0xff) as u8);
        io.outb(0x40, (1193 >> 8) as u8);
    });
    let (engine, mut machine) = machine(vec![program], config());
    machine.start().expect("starts");
    eventually("ten ticks", || engine.vectors().len() >= 10);
    assert!(engine.vectors().iter().all(|&vector| vector == 0x30));
}

#[test]
fn the_clock_updates_through_pin_8() {
    let program = once(|io| {
        io.route(8, 0x38);
        io.outb(0x70, 0x0b);
        io.outb(0x71, 0x12);
    });
    let (engine, mut machine) = machine(vec![program], config());
    machine.start().expect("starts");
    eventually("a second passes", || engine.vectors() == [0x38]);
}

#[test]
fn a_uart_interrupts_through_the_8259() {
    let vector = Arc::new(Mutex::new(None));
    let seen = vector.clone();
    let program = once(move |io| {
        for (port, value) in
            [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xef), (0x3f9, 2)]
        {
            io.outb(port, value);
        }
        let first = io.acknowledge_pic();
        *lock(&seen) = Some((first, io.acknowledge_pic()));
    });
    let (engine, mut machine) = machine(vec![program], config());
    machine.start().expect("starts");
    eventually("the program ran", || lock(&vector).is_some());
    assert_eq!(*lock(&vector), Some((Some(0x24), None)));
    assert!(!engine.pic_output.load(Ordering::Acquire), "acknowledged");
}

#[test]
fn the_power_button_is_level_triggered_until_acknowledged() {
    let program = once(|io| {
        io.route(9, 0x39 | LEVEL);
        io.outw(0x602, 0x100);
    });
    let (engine, mut machine) = machine(vec![program], config());
    machine.start().expect("starts");
    eventually("the program ran", || {
        machine.press_power_button();
        !engine.vectors().is_empty()
    });
    assert_eq!(engine.vectors(), [0x39], "remote IRR holds further messages back");
    drop(machine);
}

#[test]
fn an_asserted_level_comes_again_after_its_end() {
    let program = once(|io| {
        io.route(0x11, 0x61 | LEVEL);
        io.outb(0x2011, 1);
        io.end_of_interrupt(0x61);
        io.outb(0x2011, 0);
        io.end_of_interrupt(0x61);
        io.route(0x0e, 0x62);
        io.outb(0x200e, 1);
        io.outb(0x200e, 1);
        io.outb(0x200e, 0);
        io.outb(0x200e, 1);
        io.outb(0xf4, 0);
    });
    let (engine, mut machine) = machine(vec![program], config());
    machine.start().expect("starts");
    machine.wait(Some(LIMIT)).expect("ends");
    assert_eq!(engine.vectors(), [0x61, 0x61, 0x62, 0x62]);
}

#[test]
fn a_shared_line_is_high_while_any_device_drives_it() {
    let program = once(|io| {
        io.route(4, 0x44 | LEVEL);
        io.outb(0x2004, 1); // the test device
        io.outb(0x3f9, 2); // and COM1 on the same line
        io.outb(0x2004, 0);
        io.end_of_interrupt(0x44); // COM1 still drives it
        io.inb(0x3fa);
        io.end_of_interrupt(0x44); // nobody does
        io.outb(0xf4, 0);
    });
    let (engine, mut machine) = machine(vec![program], config());
    machine.start().expect("starts");
    machine.wait(Some(LIMIT)).expect("ends");
    assert_eq!(engine.vectors(), [0x44, 0x44]);
}

#[test]
fn keys_interrupt_once_each() {
    let ready = Arc::new(Mutex::new(false));
    let flag = ready.clone();
    let program = once(move |io| {
        io.route(1, 0x31);
        *lock(&flag) = true;
    });
    let (engine, mut machine) = machine(vec![program], config());
    machine.start().expect("starts");
    eventually("the guest is set up", || *lock(&ready));
    assert!(machine.type_keys(&[0x1c]) && machine.type_keys(&[0x1b]));
    assert_eq!(engine.vectors(), [0x31], "the buffer is full until it is read");
}
