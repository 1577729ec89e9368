//! A guest may touch anything, in any width, with any value: the machine goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::GuestIo;
use x86::GuestPhys;

use crate::fake::{machine, once};
use crate::{DiscardSink, MachineConfig, Outcome, SerialConfig};

const VALUES: [u32; 6] = [0, 1, 0x8000_f800, 0x5a5a_5a5a, 0x7fff_fffe, u32::MAX];

fn sweep(body: impl Fn(&mut dyn GuestIo) + Send + 'static) -> Option<Outcome> {
    let done = Arc::new(AtomicBool::new(false));
    let flag = done.clone();
    let program = once(move |io| {
        body(io);
        flag.store(true, Ordering::Release);
    });
    let config = MachineConfig {
        test_devices: true,
        serial: (0..4).map(|_| SerialConfig::new(DiscardSink)).collect(),
        ..MachineConfig::default()
    };
    let (_, mut machine) = machine(vec![program], config);
    machine.start().expect("starts");
    super::eventually("the sweep is done", || {
        matches!(machine.outcome(), Some(Outcome::EngineFailed { .. }))
            || done.load(Ordering::Acquire)
    });
    let outcome = machine.outcome();
    assert!(!matches!(outcome, Some(Outcome::EngineFailed { .. })), "{outcome:?}");
    drop(machine);
    outcome
}

#[test]
fn every_port_in_every_width() {
    let outcome = sweep(|io| {
        for value in VALUES {
            let bytes = value.to_le_bytes();
            for port in 0..=u16::MAX {
                for width in [1, 2, 4] {
                    io.port_out(port, &bytes[..width]);
                    let mut data = [0; 4];
                    io.port_in(port, &mut data[..width]);
                }
            }
        }
    });
    assert!(outcome.is_some(), "among all writes are resets and exits");
}

#[test]
fn unclaimed_ports_read_as_ones_and_end_nothing() {
    let outcome = sweep(|io| {
        for port in (0x3c0..0x3e0).chain(0x1000..0x1ff0).chain(0x3000..=0xffff) {
            for width in [1, 2, 4] {
                io.port_out(port, &[0; 4][..width]);
                let mut data = [0; 4];
                io.port_in(port, &mut data[..width]);
                assert!(data[..width].iter().all(|&byte| byte == 0xff), "port {port:#x}");
            }
        }
    });
    assert!(outcome.is_none(), "{outcome:?}");
}

#[test]
fn every_device_page_in_every_width() {
    let outcome = sweep(|io| {
        let pages = [0xfec0_0000_u64, 0xe000_0000, 0xe00f_8000, 0xe010_0000, 0xff00_0000];
        for value in [0, 0x5a5a_5a5a_5a5a_5a5a, u64::MAX] {
            for page in pages {
                for offset in 0..0x1004 {
                    for width in [1, 2, 4, 8] {
                        let address = GuestPhys(page + offset);
                        io.mmio_write(address, &value.to_le_bytes()[..width]);
                        io.mmio_read(address, &mut [0; 8][..width]);
                    }
                }
            }
        }
    });
    assert!(outcome.is_none(), "nothing on the memory bus ends the machine: {outcome:?}");
}

#[test]
fn any_address_at_all() {
    let outcome = sweep(|io| {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..300_000_u32 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let address = GuestPhys(if round & 1 == 0 { random } else { random >> 32 });
            let width = 1 << (round >> 1 & 3);
            io.mmio_write(address, &random.to_le_bytes()[..width]);
            io.mmio_read(address, &mut [0; 8][..width]);
            io.end_of_interrupt(random as u8);
            io.acknowledge_pic();
        }
        let mut data = [0; 8];
        io.mmio_read(GuestPhys(u64::MAX - 3), &mut data);
        io.mmio_write(GuestPhys(u64::MAX - 3), &data);
        io.mmio_read(GuestPhys(0xd000_0000), &mut data);
        assert_eq!(data, [0xff; 8], "a hole in the PCI window");
    });
    assert!(outcome.is_none(), "{outcome:?}");
}
