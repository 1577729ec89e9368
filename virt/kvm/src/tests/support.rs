//! What the engine's tests share: small machines, a recording `GuestIo`, skips with a reason.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use engine::{Budget, Engine, Exit, GuestIo, Kick, Vcpu, VmConfig};
use memory::{GuestMemory, GuestPhys, RamOffset};
use x86::lapic::reg;
use x86::{CpuState, Segment};

use crate::{KvmEngine, KvmError, Verdict, probe};

/// Where real-mode code is put.
pub(super) const CODE: u64 = 0x1000;
pub(super) const RAM: u64 = 0x20_0000;
/// Not RAM, and reachable from real mode with ES = 0x8000.
pub(super) const HOLE: u64 = 0x8_0000;

/// What a guest did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    In(u16, usize),
    Out(u16, Vec<u8>),
    Read(u64, usize),
    Write(u64, Vec<u8>),
    End(u8),
}

/// Records accesses; reads give 0x10, 0x11, ...; an OUT to `stop` kicks.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) trace: Vec<Access>,
    pub(super) next: u8,
    pub(super) stop: Option<(u16, Arc<dyn Kick>)>,
    pub(super) pic: Option<Box<dyn FnMut() -> Option<u8> + Send>>,
}

impl Recorder {
    fn fill(&mut self, data: &mut [u8]) {
        for byte in data {
            *byte = 0x10 + self.next;
            self.next = (self.next + 1) & 0x3f;
        }
    }

    pub(super) fn outs(&self, port: u16) -> usize {
        self.trace.iter().filter(|a| matches!(a, Access::Out(p, _) if *p == port)).count()
    }
}

impl GuestIo for Recorder {
    fn port_in(&mut self, port: u16, data: &mut [u8]) {
        self.fill(data);
        self.trace.push(Access::In(port, data.len()));
    }

    fn port_out(&mut self, port: u16, data: &[u8]) {
        self.trace.push(Access::Out(port, data.to_vec()));
        if let Some((stop, kick)) = &self.stop
            && *stop == port
        {
            kick.kick();
        }
    }

    fn mmio_read(&mut self, address: GuestPhys, data: &mut [u8]) {
        self.fill(data);
        self.trace.push(Access::Read(address.0, data.len()));
    }

    fn mmio_write(&mut self, address: GuestPhys, data: &[u8]) {
        self.trace.push(Access::Write(address.0, data.to_vec()));
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        self.trace.push(Access::End(vector));
    }

    fn acknowledge_pic(&mut self) -> Option<u8> {
        self.pic.as_mut().and_then(|pic| pic())
    }
}

/// A VM with RAM at 0..512 KiB and 576 KiB..2 MiB.
pub(super) struct Machine {
    pub(super) engine: Arc<KvmEngine>,
    pub(super) memory: Arc<GuestMemory>,
}

/// A machine, or a printed reason why there is none.
pub(super) fn machine(cpus: u32) -> Option<Machine> {
    let high = HOLE + 0x1_0000;
    let runs = [(GuestPhys(0), HOLE), (GuestPhys(high), RAM - high)];
    let memory = Arc::new(GuestMemory::in_large_pages(&runs).unwrap());
    match KvmEngine::new(VmConfig { memory: memory.clone(), cpus }) {
        Ok(engine) => Some(Machine { engine: Arc::new(engine), memory }),
        Err(
            error @ (KvmError::Missing
            | KvmError::NoHardware
            | KvmError::Denied
            | KvmError::Busy
            | KvmError::Lacks { .. }),
        ) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

/// True on virtualization hardware; otherwise prints why the test is skipped.
pub(super) fn hardware() -> bool {
    static VERDICT: OnceLock<Verdict> = OnceLock::new();
    let verdict = VERDICT.get_or_init(probe);
    if !verdict.is_hardware() {
        println!("skipped: {verdict}");
    }
    verdict.is_hardware()
}

impl Machine {
    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_physical(GuestPhys(at), bytes).unwrap();
    }

    /// A real-mode interrupt vector.
    pub(super) fn vector(&self, vector: u8, handler: u16) {
        self.write(u64::from(vector) * 4, &u32::from(handler).to_le_bytes());
    }

    pub(super) fn byte(&self, at: u64) -> u8 {
        assert!(at < HOLE);
        self.memory.load(RamOffset(at))
    }

    /// vCPU 0 in real mode at `CODE`, with this code there.
    pub(super) fn boot(&self, code: &[u8]) -> Box<dyn Vcpu> {
        self.write(CODE, code);
        let mut vcpu = self.engine.create_vcpu(0).unwrap();
        vcpu.set_state(&real_mode(CODE)).unwrap();
        vcpu
    }
}

/// Real mode with all bases zero and a stack below the code.
pub(super) fn real_mode(rip: u64) -> CpuState {
    let mut state = CpuState::reset(0);
    for segment in &mut state.segments {
        *segment = Segment { base: 0, selector: 0, ..*segment };
    }
    state.rip = rip;
    state.gpr[4] = CODE;
    state
}

/// Turns the x2APIC on in software and hardware, so that real mode reaches it by WRMSR.
pub(super) fn with_x2apic(mut state: CpuState, id: u32) -> CpuState {
    state.msrs.apic_base |= 3 << 10;
    state.lapic.registers[reg::ID] = id;
    state.lapic.registers[reg::SVR] = 0x1ff;
    state
}

/// Runs until the guest's last word, with a watchdog that fails the test.
pub(super) fn run(vcpu: &mut dyn Vcpu, io: &mut Recorder) -> Exit {
    run_until(vcpu, io, Budget::Unlimited)
}

pub(super) fn run_until(vcpu: &mut dyn Vcpu, io: &mut Recorder, until: Budget) -> Exit {
    let (finished, wait) = std::sync::mpsc::channel::<()>();
    let kick = vcpu.kicker();
    let (exit, late) = std::thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            let late = wait.recv_timeout(Duration::from_secs(20))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if late {
                kick.kick();
            }
            late
        });
        let exit = vcpu.run(io, until);
        drop(finished);
        (exit, watchdog.join().unwrap())
    });
    let tail = &io.trace[io.trace.len().saturating_sub(8)..];
    assert!(!late, "the guest hung: {tail:?} {:?}", vcpu.state());
    exit.unwrap_or_else(|error| panic!("{error} {:?}", std::error::Error::source(&error)))
}
