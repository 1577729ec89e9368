//! Bytes through serial ports, in both directions.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use engine::GuestIo;

use super::{LIMIT, eventually};
use crate::fake::{Ports, Program, Step, machine, once};
use crate::irq::lock;
use crate::{DiscardSink, MachineConfig, SerialConfig};

fn config(sinks: Vec<SerialConfig>) -> MachineConfig {
    MachineConfig { serial: sinks, ..MachineConfig::default() }
}

#[test]
fn output_arrives_in_order_on_its_own_port() {
    let taken = Arc::new(Mutex::new([vec![], vec![]]));
    let sink = |port: usize| {
        let taken = taken.clone();
        SerialConfig::new(move |bytes: &[u8]| lock(&taken)[port].extend_from_slice(bytes))
    };
    let program = once(|io| {
        for byte in 0..=255 {
            io.outb(0x3f8, byte);
            io.outb(0x2f8, 255 - byte);
            assert_eq!(io.inb(0x3fd) & 0x60, 0x60);
        }
        assert_eq!(io.inb(0x3e8), 0xff, "there is no COM3");
        io.outb(0xf4, 0);
    });
    let (_, mut machine) = machine(vec![program], config(vec![sink(0), sink(1)]));
    machine.start().expect("starts");
    machine.wait(Some(LIMIT)).expect("ends");
    let taken = lock(&taken);
    assert!(taken[0].iter().copied().eq(0..=255));
    assert!(taken[1].iter().copied().eq((0..=255).rev()));
}

/// Reads COM1 by polling, with the FIFO on.
fn reader(into: Arc<Mutex<Vec<u8>>>) -> Program {
    let mut begun = false;
    Box::new(move |io: &mut dyn GuestIo| {
        if !std::mem::replace(&mut begun, true) {
            io.outb(0x3fa, 0x07);
        }
        if io.inb(0x3fd) & 1 == 0 {
            std::thread::yield_now();
            return Step::Again;
        }
        let byte = io.inb(0x3f8);
        lock(&into).push(byte);
        Step::Again
    })
}

#[test]
fn a_flood_of_input_waits_and_arrives_whole() {
    let taken = Arc::new(Mutex::new(vec![]));
    let program = reader(taken.clone());
    let (_, mut machine) = machine(vec![program], config(vec![SerialConfig::new(DiscardSink)]));
    let input = machine.serial_input(0).expect("COM1");
    assert!(machine.serial_input(1).is_none());
    let rooms = Arc::new(AtomicU32::new(0));
    let count = rooms.clone();
    input.on_room(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let flood: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    let mut sent = input.send(&flood);
    assert!(sent < flood.len() && input.room() <= 16, "nobody reads yet");
    machine.start().expect("starts");
    while sent < flood.len() {
        let before = rooms.load(Ordering::Relaxed);
        sent += input.send(&flood[sent..]);
        if sent < flood.len() {
            eventually("there is room", || rooms.load(Ordering::Relaxed) > before);
        }
    }
    eventually("all of it", || lock(&taken).len() >= flood.len());
    assert!(flood == *lock(&taken));
    assert_eq!(input.waiting(), 0);
    drop(machine);
    assert_eq!(input.send(b"gone"), 4, "vanishes");
    assert_eq!(input.room(), 0);
}

#[test]
fn input_interrupts_a_guest_that_waits() {
    let ready = Arc::new(AtomicU32::new(0));
    let flag = ready.clone();
    let program = once(move |io| {
        io.route(4, 0x44);
        io.outb(0x3fa, 0x81); // FIFO on, trigger 8
        io.outb(0x3f9, 0x01);
        flag.store(1, Ordering::Release);
    });
    let (engine, mut machine) =
        machine(vec![program], config(vec![SerialConfig::new(DiscardSink)]));
    machine.start().expect("starts");
    eventually("the guest is set up", || ready.load(Ordering::Acquire) == 1);
    let input = machine.serial_input(0).expect("COM1");
    assert_eq!(input.send(b"x"), 1);
    eventually("the character timeout", || engine.vectors() == [0x44]);
}

#[test]
fn a_break_comes_alone() {
    let program = once(|io| io.outb(0x3f9, 1));
    let (_, mut machine) = machine(vec![program], config(vec![SerialConfig::new(DiscardSink)]));
    let input = machine.serial_input(0).expect("COM1");
    assert!(!input.send_break(), "nobody listens");
    machine.start().expect("starts");
    eventually("the guest listens", || input.send_break());
    assert!(!input.send_break(), "no FIFO, no room");
}
