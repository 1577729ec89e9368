//! Devices where guests look for them.

use std::sync::{Arc, Mutex};

use devices::pci::{BarKind, ConfigSpace, Identity, PciFunction};
use engine::GuestIo;
use memory::{GuestMemory, RamOffset};
use x86::GuestPhys;

use super::LIMIT;
use crate::fake::{Ports, machine, once};
use crate::irq::lock;
use crate::{MachineConfig, Outcome};

/// Runs a script to its end; assertions in it fail the test.
fn run(config: MachineConfig, script: impl Fn(&mut dyn GuestIo) + Send + 'static) {
    let program = once(move |io| {
        script(io);
        io.outb(0xf4, 0);
    });
    let (_, mut machine) = machine(vec![program], config);
    machine.start().expect("starts");
    let outcome = machine.wait(Some(LIMIT)).expect("ends");
    assert!(matches!(outcome, Outcome::DebugExit(1)), "{outcome}");
}

#[test]
fn fw_cfg_tells_ram_and_processors() {
    let files = vec![("opt/name".to_owned(), b"value".to_vec())];
    let config = MachineConfig { fw_cfg_files: files, ..MachineConfig::default() };
    run(config, |io| {
        let mut item = |key: u16, count: usize| -> Vec<u8> {
            io.outw(0x510, key);
            (0..count).map(|_| io.inb(0x511)).collect()
        };
        assert_eq!(item(0, 4), b"QEMU");
        assert_eq!(item(3, 8), (8_u64 << 20).to_le_bytes());
        assert_eq!(item(5, 2), [1, 0]);
        assert_eq!(item(0x20, 5), b"value");
    });
}

#[test]
fn debug_ports() {
    let taken = Arc::new(Mutex::new(vec![]));
    let sink = taken.clone();
    let config = MachineConfig {
        debug_console: Some(Box::new(move |bytes: &[u8]| lock(&sink).extend_from_slice(bytes))),
        ..MachineConfig::default()
    };
    run(config, |io| {
        assert_eq!((io.inb(0xe9), io.inb(0x402), io.inb(0x505)), (0xe9, 0xe9, 3));
        io.outb(0xe9, b'a');
        io.outb(0x402, b'b');
        io.outb(0x80, 0x42);
        assert_eq!(io.inb(0x80), 0x42);
        assert_eq!(io.inb(0x92), 2);
    });
    assert_eq!(*lock(&taken), b"ab");
}

#[test]
fn kvm_unit_tests_find_their_device() {
    let config = MachineConfig { test_devices: true, ..MachineConfig::default() };
    run(config, |io| {
        io.outd(0xe0, 0x1234_5678);
        io.outb(0xe1, 0xaa);
        assert_eq!((io.ind(0xe0), io.ind(0xe8)), (0x1234_aa78, 0x1234_aa78));
        io.store(0xff00_1234, 0xdead_beef);
        assert_eq!(io.load(0xff00_1234), 0xdead_beef);
    });
}

#[test]
fn clocks_run() {
    run(MachineConfig::default(), |io| {
        let before = io.ind(0x608);
        while io.ind(0x608) == before {}
        let refresh = io.inb(0x61) & 0x10;
        while io.inb(0x61) & 0x10 == refresh {}
        io.outb(0x70, 0x0d);
        assert_eq!(io.inb(0x71), 0x80);
        io.outb(0x70, 0x32);
        assert!(io.inb(0x71) >= 0x20, "the century");
    });
}

#[test]
fn the_keyboard_controller_answers_at_once() {
    run(MachineConfig::default(), |io| {
        io.outb(0x64, 0xaa);
        assert_eq!((io.inb(0x64) & 1, io.inb(0x60), io.inb(0x64) & 1), (1, 0x55, 0));
        io.outb(0x60, 0xf2);
        let bytes: Vec<u8> = (0..3).map(|_| io.inb(0x60)).collect();
        assert_eq!(bytes, [0xfa, 0xab, 0x41]);
    });
}

#[test]
fn pci_is_the_same_both_ways() {
    run(MachineConfig::default(), |io| {
        io.outd(0xcf8, 0x8000_0000);
        assert_eq!((io.ind(0xcf8), io.ind(0xcfc)), (0x8000_0000, 0x29c0_8086));
        assert_eq!(io.load(0xe000_0000), 0x29c0_8086);
        assert_eq!(io.inb(0xcfe), 0xc0);
        io.outd(0xcf8, 0x8000_f808);
        assert_eq!((io.ind(0xcfc) >> 16, io.load(0xe00f_8008) >> 16), (0x0601, 0x0601));
        for (latch, window) in [(0x8000_0800, 0xe000_8000), (0x8001_0000, 0xe010_0000)] {
            io.outd(0xcf8, latch);
            assert_eq!((io.ind(0xcfc), io.load(window)), (u32::MAX, u32::MAX), "nobody there");
        }
    });
}

/// A function with 4 KiB of memory.
struct Disk {
    config: ConfigSpace,
    memory: Vec<u8>,
}

impl PciFunction for Disk {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn bar_read(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        data.copy_from_slice(&self.memory[offset as usize..][..data.len()]);
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        self.memory[offset as usize..][..data.len()].copy_from_slice(data);
    }
}

#[test]
fn a_function_answers_where_its_bar_is() {
    let mut config = ConfigSpace::new(Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: [1, 0, 0],
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    });
    config.add_bar(0, BarKind::Memory32, 0x1000);
    let disk = Disk { config, memory: vec![0; 0x1000] };
    let machine = MachineConfig { pci_functions: vec![Box::new(disk)], ..MachineConfig::default() };
    run(machine, |io| {
        const SLOT: u64 = 0xe000_8000;
        assert_eq!(io.load(SLOT), 0x1042_1af4);
        io.store(SLOT + 0x10, u32::MAX);
        assert_eq!(io.load(SLOT + 0x10), 0xffff_f000);
        io.store(SLOT + 0x10, 0xd000_0000);
        assert_eq!(io.load(0xd000_0ffc), u32::MAX, "not switched on");
        io.store(SLOT + 4, 2);
        io.store(0xd000_0ffc, 0x1122_3344);
        assert_eq!(io.load(0xd000_0ffc), 0x1122_3344);
        assert_eq!(io.load(0xd000_0ffe), u32::MAX, "half outside");
        let mut data = [0; 8];
        io.mmio_read(GuestPhys(0xd000_0ff8), &mut data);
        assert_eq!(data, [0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11]);
        io.store(SLOT + 0x10, 0xd800_0000);
        assert_eq!((io.load(0xd000_0ffc), io.load(0xd800_0ffc)), (u32::MAX, 0x1122_3344));
    });
}

/// An entropy device whose bytes are all 9, on the wired machine: firmware placed its BAR, its worker
/// has a thread, and its interrupt comes as INTx (slot 1, GSI 17) or as a message.
#[test]
fn a_virtio_device_works_from_its_doorbell_to_its_interrupt() {
    const SLOT: u64 = 0xe000_8000;
    const RINGS: u64 = 0x10_0000;
    let nines = |bytes: &mut [u8]| {
        bytes.fill(9);
        Ok(())
    };
    let ready = Arc::new(Mutex::new(false));
    let (set_up, memory_of_guest) = (ready.clone(), Arc::new(Mutex::new(None::<Arc<GuestMemory>>)));
    let slot_for_memory = memory_of_guest.clone();
    let program = once(move |io| {
        let memory = lock(&slot_for_memory).clone().expect("set before the start");
        let put = |at: u64, bytes: &[u8]| {
            memory.write_physical(GuestPhys(at), bytes).expect("RAM");
        };
        assert_eq!(io.load(SLOT), 0x1044_1af4);
        let bar = u64::from(io.load(SLOT + 0x10));
        assert!((0xc000_0000..0xe000_0000).contains(&bar), "{bar:#x}");
        io.store(SLOT + 4, 6);
        io.route(17, 0x55 | 1 << 15);
        io.mmio_write(GuestPhys(bar + 0x14), &[3]);
        io.store(bar + 8, 1);
        io.store(bar + 0xc, 1); // VERSION_1
        io.mmio_write(GuestPhys(bar + 0x14), &[11]);
        for (field, at) in [(0x20, RINGS), (0x28, RINGS + 0x1000), (0x30, RINGS + 0x2000)] {
            io.store(bar + field, at as u32);
        }
        io.mmio_write(GuestPhys(bar + 0x1c), &[1, 0]);
        io.mmio_write(GuestPhys(bar + 0x14), &[15]);
        put(RINGS, &(RINGS + 0x3000).to_le_bytes());
        put(RINGS + 8, &[16, 0, 0, 0, 2, 0, 0, 0]); // 16 bytes to write
        put(RINGS + 0x1002, &[1, 0]);
        io.mmio_write(GuestPhys(bar + 0x3000), &[0, 0]);
        *lock(&set_up) = true;
    });
    let rng = virtio::Rng::new(Arc::new(nines));
    let config = MachineConfig { virtio: vec![Box::new(rng)], ..MachineConfig::default() };
    let (engine, mut machine) = machine(vec![program], config);
    assert_eq!(machine.virtio_use(), [(virtio::Kind::Entropy, virtio::Use::Never)]);
    *lock(&memory_of_guest) = Some(machine.memory().clone());
    machine.start().expect("starts");
    super::eventually("the guest rang", || *lock(&ready));
    super::eventually("the interrupt came", || engine.vectors() == [0x55]);
    assert_eq!(machine.virtio_use(), [(virtio::Kind::Entropy, virtio::Use::Driven)]);
    let mut bytes = [0; 17];
    machine.memory().read_physical(GuestPhys(RINGS + 0x3000), &mut bytes).expect("RAM");
    assert_eq!(bytes[..], [&[9; 16][..], &[0]].concat());
    machine.stop();
}

/// What a kernel zeroed goes back to the host when its first driver sets a device going, if nobody else
/// could write meanwhile.
#[test]
fn zeros_go_back_once_before_the_first_device_works() {
    const SLOT: u64 = 0xe000_8000;
    let held = |cpus: usize| {
        let (out, seen) = std::sync::mpsc::channel();
        let slot = Arc::new(Mutex::new(None::<Arc<GuestMemory>>));
        let memory_of_guest = slot.clone();
        let program = once(move |io| {
            let memory = lock(&slot).clone().expect("set before the start");
            let bar = u64::from(io.load(SLOT + 0x10));
            io.store(SLOT + 4, 6);
            for _ in 0..2 {
                memory.fill(RamOffset(1 << 20), 1 << 20, 0);
                memory.store(RamOffset(1 << 20), 7_u8);
                let before = memory.held_bytes().expect("the host says");
                io.mmio_write(GuestPhys(bar + 0x14), &[0]);
                io.mmio_write(GuestPhys(bar + 0x14), &[3]);
                io.store(bar + 8, 1);
                io.store(bar + 0xc, 1); // VERSION_1
                io.mmio_write(GuestPhys(bar + 0x14), &[11]);
                io.mmio_write(GuestPhys(bar + 0x14), &[15]);
                let after = memory.held_bytes().expect("the host says");
                assert_eq!(memory.load::<u8>(RamOffset(1 << 20)), 7);
                out.send(before - after).expect("somebody listens");
            }
        });
        let rng = virtio::Rng::new(Arc::new(|_: &mut [u8]| Ok(())));
        let config = MachineConfig { virtio: vec![Box::new(rng)], ..MachineConfig::default() };
        let others = (1..cpus).map(|_| once(|_| ()));
        let programs = std::iter::once(program).chain(others).collect();
        let (_, mut machine) = machine(programs, config);
        *lock(&memory_of_guest) = Some(machine.memory().clone());
        machine.start().expect("starts");
        [(); 2].map(|()| seen.recv_timeout(LIMIT).expect("the guest goes on"))
    };
    assert_eq!(held(1), [(1 << 20) - 4096, 0]);
    assert_eq!(held(2), [0, 0]);
}
