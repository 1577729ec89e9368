//! The whole PC under accesses of every kind, then under a guest (machine/platform).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::machine::{DiscardSink, Machine, MachineConfig, Outcome, SerialConfig, layout};
use engine::{
    Budget, Capabilities, Engine, EngineError, Exit, GuestIo, Kick, MsiMessage, Vcpu, VmConfig,
};
use memory::GuestMemory;
use soft::SoftEngine;
use x86::cpuid::CpuidEntry;
use x86::segment::attr;
use x86::{CpuState, GuestPhys, Segment, TableRegister};

use crate::cursor::Cursor;

const RAM: u64 = 1 << 20;
const CODE: u64 = 0x7c00;
const INSTRUCTIONS: u64 = 2000;
const ACCESSES: usize = 2048;
/// Nothing in a machine takes so long, not even on a loaded host.
const STUCK: Duration = Duration::from_secs(20);

/// Ports that some device of the PC has, and some that none has.
const PORTS: [u16; 40] = [
    0x20, 0x21, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xa0, 0xa1,
    0xcf8, 0xcf9, 0xcfa, 0xcfc, 0xcfd, 0xcfe, 0xcff, 0xe0, 0xe4, 0xe9, 0xf4, 0x3f8, 0x3f9, 0x3fa,
    0x3fb, 0x2f8, 0x402, 0x4d0, 0x505, 0x510, 0x511, 0x600, 0x602, 0x604, 0x608,
];

const PAGES: [u64; 8] = [
    0xfec0_0000,
    0xfee0_0000,
    0xe000_0000,
    0xe00f_8000,
    0xff00_0000,
    0xc000_0000,
    1 << 40,
    u64::MAX - 0xfff,
];

/// Bytes as a list of port and memory accesses of every width on a machine with all its devices,
/// then as a guest's code in real mode.
///
/// # Panics
/// A device panicked, the engine failed, or the machine does not come to an end.
pub fn ports_and_mmio(data: &[u8]) {
    let memory = Arc::new(GuestMemory::new(&layout(RAM)).expect("1 MiB can be had"));
    let config = VmConfig { memory: memory.clone(), cpus: 1 };
    let soft = SoftEngine::new(config).expect("one processor is allowed");
    let engine = Arc::new(Prelude { soft, data: Mutex::new(data.to_vec()) });
    let config = MachineConfig {
        test_devices: true,
        serial: (0..4).map(|_| SerialConfig::new(DiscardSink)).collect(),
        virtio: vec![Box::new(::virtio::Rng::new(Arc::new(|bytes: &mut [u8]| {
            bytes.fill(0x5a);
            Ok(())
        })))],
        fw_cfg_files: vec![("opt/test".into(), vec![1, 2, 3])],
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(engine, memory, config).expect("the machine is sound");
    let code = &data[data.len() / 2..];
    let code = &code[..code.len().min(0x8000)];
    machine.load_raw(&[(GuestPhys(CODE), code)], &start()).expect("the code lies in RAM");
    if let Some(input) = machine.serial_input(0) {
        input.send(&data[..data.len().min(64)]);
    }
    machine.start().expect("the host gives threads");
    machine.type_keys(&data[..data.len().min(8)]);
    machine.press_power_button();
    let outcome = machine.wait(Some(STUCK)).expect("the machine comes to an end");
    assert!(!matches!(outcome, Outcome::EngineFailed { .. }), "{outcome:?}");
    machine.stop();
}

fn start() -> CpuState {
    let mut state = CpuState::reset(0);
    let data = attr::PRESENT | attr::S | attr::WRITE_READ | attr::ACCESSED;
    state.segments = [Segment::real_mode(0, data); 6];
    state.segments[1] = Segment::real_mode(0, data | attr::CODE);
    state.rip = CODE;
    state.gpr[4] = 0x7000;
    state.idtr = TableRegister { base: 0, limit: 0x3ff };
    state.cr0 = 0x10;
    state
}

/// The software engine, whose processor makes the accesses before its first instruction.
struct Prelude {
    soft: SoftEngine,
    data: Mutex<Vec<u8>>,
}

struct PreludeVcpu {
    soft: Box<dyn Vcpu>,
    data: Option<Vec<u8>>,
}

impl Engine for Prelude {
    fn capabilities(&self) -> &Capabilities {
        self.soft.capabilities()
    }

    fn cpuid(&self) -> &[CpuidEntry] {
        self.soft.cpuid()
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, EngineError> {
        let data = std::mem::take(&mut *self.data.lock().expect("no holder panics"));
        Ok(Box::new(PreludeVcpu { soft: self.soft.create_vcpu(index)?, data: Some(data) }))
    }

    fn signal_msi(&self, message: MsiMessage) -> Result<(), EngineError> {
        self.soft.signal_msi(message)
    }

    fn set_pic_output(&self, high: bool) {
        self.soft.set_pic_output(high);
    }

    fn inject_nmi(&self, index: u32) -> Result<(), EngineError> {
        self.soft.inject_nmi(index)
    }
}

impl Vcpu for PreludeVcpu {
    fn run(&mut self, io: &mut dyn GuestIo, _until: Budget) -> Result<Exit, EngineError> {
        if let Some(data) = self.data.take() {
            accesses(&data[..data.len() / 2], io);
        }
        let _guard = crate::watchdog::watch(self.soft.kicker(), Duration::from_millis(20));
        match self.soft.run(io, Budget::Instructions(INSTRUCTIONS))? {
            // Out of budget or asleep: enough seen.
            Exit::BudgetSpent | Exit::Interrupted => Ok(Exit::Halted),
            exit => Ok(exit),
        }
    }

    fn state(&mut self) -> Result<CpuState, EngineError> {
        self.soft.state()
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.soft.set_state(state)
    }

    fn retired(&self) -> Option<u64> {
        self.soft.retired()
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.soft.kicker()
    }
}

fn accesses(data: &[u8], io: &mut dyn GuestIo) {
    let mut cursor = Cursor::new(data);
    for _ in 0..ACCESSES {
        if cursor.is_empty() {
            break;
        }
        let operation = cursor.u8();
        let write = operation & 1 != 0;
        match operation >> 1 & 7 {
            0..=3 => {
                let known = cursor.pick(&PORTS).wrapping_add(u16::from(operation >> 6));
                port(known, operation, write, &mut cursor, io);
            }
            4 => {
                let any = cursor.u16();
                port(any, operation, write, &mut cursor, io);
            }
            5 => {
                let address = cursor.pick(&PAGES) | u64::from(cursor.u16() & 0xfff);
                memory_access(address, operation, write, &mut cursor, io);
            }
            6 => {
                let address = cursor.u64();
                memory_access(address, operation, write, &mut cursor, io);
            }
            _ => {
                io.end_of_interrupt(cursor.u8());
                let _ = io.acknowledge_pic();
            }
        }
    }
}

fn port(number: u16, operation: u8, write: bool, cursor: &mut Cursor<'_>, io: &mut dyn GuestIo) {
    let width = [1, 2, 4, 1][usize::from(operation >> 4 & 3)];
    let mut bytes = [0; 4];
    if write {
        bytes = cursor.u32().to_le_bytes();
        io.port_out(number, &bytes[..width]);
    } else {
        io.port_in(number, &mut bytes[..width]);
    }
}

fn memory_access(
    address: u64,
    operation: u8,
    write: bool,
    cursor: &mut Cursor<'_>,
    io: &mut dyn GuestIo,
) {
    let width = [1, 2, 4, 8][usize::from(operation >> 4 & 3)];
    let mut bytes = [0; 8];
    if write {
        bytes = cursor.u64().to_le_bytes();
        io.mmio_write(GuestPhys(address), &bytes[..width]);
    } else {
        io.mmio_read(GuestPhys(address), &mut bytes[..width]);
    }
}
