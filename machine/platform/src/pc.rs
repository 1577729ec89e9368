//! The PC put together: every device, its claims, its lines.
//!
//! Invariant: built once, before any vCPU runs; the buses never change afterwards.

use std::sync::{Arc, Mutex};

use devices::fw_cfg::FwCfg;
use devices::pci::{host_bridge, isa_bridge};
use devices::test_device::{STORAGE_BYTES, TestDevice};
use devices::{acpi_pm, pci::PciFunction};
use engine::Engine;
use firmware::acpi::intx_gsi;
use firmware::layout::MemoryLayout;
use memory::GuestMemory;
use virtio::{Rings, VirtioPci};

use crate::bus::{MmioBus, PortBus};
use crate::clock::Clock;
use crate::events::EventLog;
use crate::glue::acpi::AcpiPorts;
use crate::glue::i8042::{CommandPort, DataPort, Keyboard};
use crate::glue::pci::{ConfigPorts, EcamWindow, MemoryWindow, PciRoot};
use crate::glue::pit::{PitPorts, PitTimer};
use crate::glue::rtc::RtcPorts;
use crate::glue::small::{DebugConsole, DebugExitPort, FwCfgPorts, PanicPort, PortAPort, PostPort};
use crate::glue::test_device::{LinePorts, Storage, StoragePorts};
use crate::glue::virtio::{FunctionInterrupts, KernelDoorbells};
use crate::io::Buses;
use crate::irq::{Interrupts, IoApicPage, PicPorts};
use crate::layout::{
    ECAM, ECAM_SIZE, IOAPIC, IOAPIC_SIZE, PCI_HOLE, PCI_WINDOW_SIZE, PM_BASE, PVPANIC, TEST_MEMORY,
    isa_irq,
};
use crate::lifecycle::MachineConfig;
use crate::run::Ending;
use crate::serial::{DiscardSink, SERIAL_PORTS, Serial, SerialConfig, SerialInput, SerialSink};
use crate::sweep;
use crate::timers::{Timed, Timers};

/// ISA interrupts that PC firmware leaves unmasked and no device of ours drives: kvm-unit-tests
/// written for one expect IRQ 11 to come through.
const OPEN_FOR_TESTS: u16 = 1 << 11;

/// The wired machine without its processors.
pub(crate) struct Pc {
    pub(crate) buses: Arc<Buses>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) timed: Vec<Arc<dyn Timed>>,
    pub(crate) acpi: Arc<AcpiPorts>,
    pub(crate) keyboard: Arc<Keyboard>,
    pub(crate) serial_inputs: Vec<SerialInput>,
    /// Each wants a thread, unless it is inline.
    pub(crate) workers: Vec<Arc<virtio::Worker>>,
}

/// What every device is wired with.
struct Wiring {
    interrupts: Arc<Interrupts>,
    clock: Clock,
    timers: Arc<Timers>,
    ending: Arc<Ending>,
    timed: Vec<Arc<dyn Timed>>,
    ports: PortBus,
    mmio: MmioBus,
}

impl Pc {
    pub(crate) fn build(
        engine: Arc<dyn Engine>,
        ram: &Arc<GuestMemory>,
        config: MachineConfig,
        ending: Arc<Ending>,
    ) -> Self {
        let memory = &crate::memory_layout(ram.size());
        let clock = Clock::new(config.virtual_time.clone());
        let mut wiring = Wiring {
            interrupts: Interrupts::new(
                engine.clone(),
                if config.test_devices { OPEN_FOR_TESTS } else { 0 },
            ),
            timers: Timers::new(clock.clone()),
            clock,
            ending,
            timed: Vec::new(),
            ports: PortBus::new(config.trace_unclaimed.clone()),
            mmio: MmioBus::new(config.trace_unclaimed.clone()),
        };
        wiring.interrupt_controllers();
        wiring.pit_and_rtc(memory);
        let keyboard = wiring.keyboard();
        let acpi = wiring.acpi();
        let has_paths = engine.kernel_paths().is_some();
        let rings = || match config.virtual_time {
            Some(_) => Rings::Inline,
            // Delays count from the doorbell, which therefore has to be heard.
            None if has_paths && config.io_faults.delay.is_zero() => {
                Rings::Kernel(Arc::new(KernelDoorbells(engine.clone())))
            }
            None => Rings::Transport,
        };
        let workers = wiring.pci(config.pci_functions, config.virtio, ram, config.cpus, &rings);
        for worker in &workers {
            worker.set_faults(config.io_faults);
            worker.set_trace(config.trace_virtio.clone());
        }
        wiring.small_ports(config.debug_console, config.debug_exit, config.test_devices);
        wiring.fw_cfg(memory, config.cpus, config.fw_cfg_files);
        if config.test_devices {
            wiring.test_devices();
        }
        let serial_inputs = wiring.serial(config.serial);
        let Wiring { interrupts, timers, timed, ports, mmio, .. } = wiring;
        let log = config.virtual_time.map(|time| EventLog::new(time, config.event_lines));
        let buses = Arc::new(Buses { ports, mmio, interrupts, log });
        Self { buses, timers, timed, acpi, keyboard, serial_inputs, workers }
    }
}

impl Wiring {
    fn interrupt_controllers(&mut self) {
        for (base, count) in [(0x20, 2), (0xa0, 2), (0x4d0, 2)] {
            let device = PicPorts { interrupts: self.interrupts.clone(), base };
            self.ports.claim(base, count, Arc::new(device));
        }
        self.mmio.claim(IOAPIC, IOAPIC_SIZE, Arc::new(IoApicPage(self.interrupts.clone())));
    }

    fn pit_and_rtc(&mut self, memory: &MemoryLayout) {
        let line = self.interrupts.line(isa_irq::PIT);
        let timer = PitTimer::new(line, self.clock.clone(), self.timers.clone());
        for (base, count) in [(0x40, 4), (0x61, 1)] {
            self.ports.claim(base, count, Arc::new(PitPorts { timer: timer.clone(), base }));
        }
        self.timed.push(timer);
        let line = self.interrupts.line(isa_irq::RTC);
        let ram = (memory.ram_below_4g, memory.ram_above_4g);
        let rtc = RtcPorts::new(ram, line, self.clock.clone(), self.timers.clone());
        self.ports.claim(0x70, 2, rtc.clone());
        self.timed.push(rtc);
    }

    fn keyboard(&mut self) -> Arc<Keyboard> {
        let lines = [isa_irq::KEYBOARD, isa_irq::MOUSE].map(|irq| self.interrupts.line(irq));
        let [keyboard_line, mouse_line] = lines;
        let keyboard = Keyboard::new(keyboard_line, mouse_line, self.ending.clone());
        self.ports.claim(0x60, 1, Arc::new(DataPort(keyboard.clone())));
        self.ports.claim(0x64, 1, Arc::new(CommandPort(keyboard.clone())));
        keyboard
    }

    fn acpi(&mut self) -> Arc<AcpiPorts> {
        let line = self.interrupts.line(isa_irq::SCI);
        let (clock, timers) = (self.clock.clone(), self.timers.clone());
        let acpi = AcpiPorts::new(line, clock, timers, self.ending.clone());
        self.ports.claim(PM_BASE, acpi_pm::PORTS, acpi.clone());
        self.timed.push(acpi.clone());
        acpi
    }

    /// Bus 0. In virtual time virtio devices work inline: the moment a request is done is then
    /// the guest's doing and not the host's.
    fn pci(
        &mut self,
        functions: Vec<Box<dyn PciFunction>>,
        devices: Vec<Box<dyn virtio::Device>>,
        memory: &Arc<GuestMemory>,
        cpus: u32,
        rings: &dyn Fn() -> Rings,
    ) -> Vec<Arc<virtio::Worker>> {
        let mut workers = Vec::with_capacity(devices.len());
        let mut root = PciRoot::default();
        root.add(0, Box::new(host_bridge()), None);
        root.add(31, Box::new(isa_bridge()), None);
        let mut slots = 1..31;
        let before_first = sweep::before_first_device(memory, cpus);
        for function in functions {
            let slot = slots.next().expect("bus 0 has 30 free slots");
            let line = self.interrupts.line(intx_gsi(slot, 0) as u8);
            root.add(slot, function, Some(line));
        }
        for device in devices {
            let slot = slots.next().expect("bus 0 has 30 free slots");
            let line = self.interrupts.line(intx_gsi(slot, 0) as u8);
            let interrupts = self.interrupts.clone();
            let sources = interrupts.sources(VirtioPci::vectors(&*device));
            let interrupter = Arc::new(FunctionInterrupts { interrupts, line, sources });
            let mut function = VirtioPci::new(device, memory.clone(), interrupter, rings());
            if let Some(before) = &before_first {
                function.call_before_active(before.clone());
            }
            workers.push(function.worker());
            root.add(slot, Box::new(function), None);
        }
        let root = Arc::new(root);
        self.mmio.claim(ECAM, ECAM_SIZE, Arc::new(EcamWindow(root.clone())));
        self.mmio.claim(PCI_HOLE, PCI_WINDOW_SIZE, Arc::new(MemoryWindow(root.clone())));
        let ports = ConfigPorts::new(root, self.ending.clone());
        self.ports.claim(0xcf8, 8, Arc::new(ports));
        workers
    }

    fn small_ports(
        &mut self,
        console: Option<Box<dyn SerialSink>>,
        debug_exit: bool,
        test_devices: bool,
    ) {
        self.ports.claim(0x80, 1, Arc::new(PostPort::default()));
        self.ports.claim(0x92, 1, Arc::new(PortAPort::new(self.ending.clone())));
        self.ports.claim(PVPANIC, 1, Arc::new(PanicPort(self.ending.clone())));
        if debug_exit {
            self.ports.claim(0xf4, 4, Arc::new(DebugExitPort(self.ending.clone())));
        }
        let sink = console.unwrap_or_else(|| Box::new(DiscardSink));
        let console = Arc::new(DebugConsole(Arc::new(Mutex::new(sink))));
        self.ports.claim(0x402, 1, console.clone());
        if !test_devices {
            self.ports.claim(0xe9, 1, console); // the test device has its own 0xe8-0xeb
        }
    }

    fn fw_cfg(&mut self, memory: &MemoryLayout, cpus: u32, files: Vec<(String, Vec<u8>)>) {
        let files: Vec<(&str, Vec<u8>)> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        let port = FwCfg::new(memory.ram(), cpus as u16, &files);
        self.ports.claim(0x510, 2, Arc::new(FwCfgPorts(Mutex::new(port))));
    }

    fn test_devices(&mut self) {
        let storage = Arc::new(Storage(Mutex::new(TestDevice::new())));
        self.mmio.claim(TEST_MEMORY, STORAGE_BYTES as u64, storage.clone());
        let ports = Arc::new(StoragePorts(storage));
        self.ports.claim(0xe0, 4, ports.clone());
        self.ports.claim(0xe8, 4, ports);
        let lines = LinePorts::new(&self.interrupts);
        self.ports.claim(0x2000, 24, Arc::new(lines));
    }

    fn serial(&mut self, configs: Vec<SerialConfig>) -> Vec<SerialInput> {
        assert!(configs.len() <= SERIAL_PORTS.len(), "a PC has four serial ports");
        let mut inputs = Vec::with_capacity(configs.len());
        for (config, (base, irq)) in configs.into_iter().zip(SERIAL_PORTS) {
            let line = self.interrupts.line(irq);
            let (clock, timers) = (self.clock.clone(), self.timers.clone());
            let serial = Arc::new(Serial::new(config, line, clock, timers));
            inputs.push(SerialInput::new(&serial));
            self.ports.claim(base, 8, serial.clone());
            self.timed.push(serial);
        }
        inputs
    }
}
