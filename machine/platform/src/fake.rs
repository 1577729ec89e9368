//! An engine for tests: each vCPU is a closure that makes accesses and says what comes next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use engine::{Budget, Capabilities, Engine, EngineError, Exit, GuestIo, Kick, MsiMessage, Vcpu};
use memory::GuestMemory;
use x86::CpuState;
use x86::cpuid::CpuidEntry;

use crate::irq::lock;
use crate::{Machine, MachineConfig, layout};

/// What a fake vCPU does after its closure returned.
pub(crate) enum Step {
    /// Calls it again.
    Again,
    /// Waits for a kick.
    Idle,
    /// Comes back from `run`.
    Leave(Result<Exit, EngineError>),
}

pub(crate) type Program = Box<dyn FnMut(&mut dyn GuestIo) -> Step + Send>;

/// Records what the machine tells it.
pub(crate) struct FakeEngine {
    programs: Mutex<Vec<Option<Program>>>,
    pub(crate) messages: Mutex<Vec<MsiMessage>>,
    pub(crate) pic_output: AtomicBool,
    capabilities: Capabilities,
}

#[derive(Default)]
struct FakeKick {
    kicked: Mutex<bool>,
    changed: Condvar,
}

impl Kick for FakeKick {
    fn kick(&self) {
        *lock(&self.kicked) = true;
        self.changed.notify_all();
    }
}

struct FakeVcpu {
    program: Program,
    kick: Arc<FakeKick>,
    state: CpuState,
}

impl Vcpu for FakeVcpu {
    fn run(&mut self, io: &mut dyn GuestIo, _until: Budget) -> Result<Exit, EngineError> {
        loop {
            if std::mem::take(&mut *lock(&self.kick.kicked)) {
                return Ok(Exit::Interrupted);
            }
            self.state.rip += 1;
            match (self.program)(io) {
                Step::Again => {}
                Step::Leave(exit) => return exit,
                Step::Idle => {
                    let mut kicked = lock(&self.kick.kicked);
                    while !*kicked {
                        kicked = self.kick.changed.wait(kicked).expect("not poisoned");
                    }
                }
            }
        }
    }

    fn state(&mut self) -> Result<CpuState, EngineError> {
        Ok(self.state.clone())
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.state = state.clone();
        Ok(())
    }

    fn retired(&self) -> Option<u64> {
        None
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kick.clone()
    }
}

impl Engine for FakeEngine {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn cpuid(&self) -> &[CpuidEntry] {
        &[]
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, EngineError> {
        let program = lock(&self.programs)[index as usize].take().expect("each index once");
        Ok(Box::new(FakeVcpu { program, kick: Arc::default(), state: CpuState::reset(index) }))
    }

    fn signal_msi(&self, message: MsiMessage) -> Result<(), EngineError> {
        lock(&self.messages).push(message);
        Ok(())
    }

    fn set_pic_output(&self, high: bool) {
        self.pic_output.store(high, Ordering::Release);
    }

    fn inject_nmi(&self, _index: u32) -> Result<(), EngineError> {
        Ok(())
    }
}

impl FakeEngine {
    pub(crate) fn new(programs: Vec<Program>) -> Arc<Self> {
        Arc::new(Self {
            programs: Mutex::new(programs.into_iter().map(Some).collect()),
            messages: Mutex::default(),
            pic_output: AtomicBool::new(false),
            capabilities: Capabilities {
                name: "fake",
                tsc_khz: 1_000_000,
                instruction_budget: false,
            },
        })
    }

    /// Vectors of the messages so far.
    pub(crate) fn vectors(&self) -> Vec<u8> {
        lock(&self.messages).iter().map(|message| message.data as u8).collect()
    }
}

/// A machine of 8 MiB whose vCPUs are these programs.
pub(crate) fn machine(
    programs: Vec<Program>,
    mut config: MachineConfig,
) -> (Arc<FakeEngine>, Machine) {
    config.cpus = programs.len() as u32;
    let engine = FakeEngine::new(programs);
    let memory = Arc::new(GuestMemory::new(&layout(8 << 20)).expect("8 MiB can be had"));
    let machine = Machine::new(engine.clone(), memory, config).expect("the machine is sound");
    (engine, machine)
}

/// A program of one part that then waits forever.
pub(crate) fn once(mut body: impl FnMut(&mut dyn GuestIo) + Send + 'static) -> Program {
    let mut ran = false;
    Box::new(move |io| {
        if !std::mem::replace(&mut ran, true) {
            body(io);
        }
        Step::Idle
    })
}

/// IN and OUT with numbers.
pub(crate) trait Ports {
    fn inb(&mut self, port: u16) -> u8;
    fn ind(&mut self, port: u16) -> u32;
    fn outb(&mut self, port: u16, value: u8);
    fn outw(&mut self, port: u16, value: u16);
    fn outd(&mut self, port: u16, value: u32);
    fn load(&mut self, address: u64) -> u32;
    fn store(&mut self, address: u64, value: u32);
    /// Programs an IOAPIC entry.
    fn route(&mut self, pin: u32, entry: u32) {
        self.store(0xfec0_0000, 0x10 + pin * 2);
        self.store(0xfec0_0010, entry);
    }
}

impl Ports for dyn GuestIo + '_ {
    fn inb(&mut self, port: u16) -> u8 {
        let mut data = [0];
        self.port_in(port, &mut data);
        data[0]
    }

    fn ind(&mut self, port: u16) -> u32 {
        let mut data = [0; 4];
        self.port_in(port, &mut data);
        u32::from_le_bytes(data)
    }

    fn outb(&mut self, port: u16, value: u8) {
        self.port_out(port, &[value]);
    }

    fn outw(&mut self, port: u16, value: u16) {
        self.port_out(port, &value.to_le_bytes());
    }

    fn outd(&mut self, port: u16, value: u32) {
        self.port_out(port, &value.to_le_bytes());
    }

    fn load(&mut self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio_read(x86::GuestPhys(address), &mut data);
        u32::from_le_bytes(data)
    }

    fn store(&mut self, address: u64, value: u32) {
        self.mmio_write(x86::GuestPhys(address), &value.to_le_bytes());
    }
}
