//! A machine's life: built, loaded, started, perhaps paused, over.
//!
//! ```text
//! new -> load -> start -> running <-> paused
//!                            `---------`--> over (first Outcome) -> threads joined
//! ```
//!
//! Invariants: vCPUs are ours until `start` and their threads' afterwards; every thread has left
//! when [`Machine::stop`] returns or the machine is dropped, unless the reader of a serial port's
//! output holds one up for longer than [`JOIN_LIMIT`].

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use devices::pci::PciFunction;
use engine::{Engine, Vcpu, VirtualTime};
use memory::GuestMemory;
use x86::{CpuState, GuestPhys};

use crate::boot::{Boot, Described, place};
use crate::error::MachineError;
use crate::events::{EventDigest, EventLog};
use crate::io::VcpuIo;
use crate::irq::lock;
use crate::layout::{MAX_CPUS, layout};
use crate::outcome::Outcome;
use crate::pc::Pc;
use crate::run::{Deadlines, Ending, Gate, OnEnd, VcpuThread};
use crate::serial::{SerialConfig, SerialInput, SerialSink};

/// How long a thread may take to leave.
const JOIN_LIMIT: Duration = Duration::from_secs(10);

pub use virtio::Trace;

/// What a machine is made of.
pub struct MachineConfig {
    /// Processors, 1-255.
    pub cpus: u32,
    /// Its name, for the SMBIOS tables; may be empty.
    pub name: String,
    /// Serial ports from COM1 on, at most four.
    pub serial: Vec<SerialConfig>,
    /// Where the debug console's bytes (ports 0xe9, 0x402) go; nowhere without.
    pub debug_console: Option<Box<dyn SerialSink>>,
    /// Whether port 0xf4 ends the machine.
    pub debug_exit: bool,
    /// Whether kvm-unit-tests' device is there.
    pub test_devices: bool,
    /// Named files at the fw_cfg port, each name shorter than 56 bytes.
    pub fw_cfg_files: Vec<(String, Vec<u8>)>,
    /// Functions on PCI bus 0, from slot 1 on; with the virtio devices at most 30.
    pub pci_functions: Vec<Box<dyn PciFunction>>,
    /// Virtio devices, in the slots after them.
    pub virtio: Vec<Box<dyn virtio::Device>>,
    /// What goes wrong with requests to disks, network and shared folders. Nothing is delayed in virtual
    /// time, which that does not move.
    pub io_faults: virtio::Faults,
    /// Is told how drivers set virtio devices up.
    pub trace_virtio: Option<Trace>,
    /// Is told of ports and addresses that no device answers at, once each.
    pub trace_unclaimed: Option<Trace>,
    /// Instructions make the time, for machines of one processor whose engine was made with the
    /// same clock: then everything but the host's input is repeatable.
    pub virtual_time: Option<Arc<VirtualTime>>,
    /// In virtual time: where a line for each event goes (see [`Machine::event_digest`]).
    pub event_lines: Option<Box<dyn Write + Send>>,
    /// Called once at the end, on whichever thread brought it about; must not stop or drop the
    /// machine itself.
    pub on_end: Option<OnEnd>,
}

impl Default for MachineConfig {
    /// One processor, no serial ports, debug exit.
    fn default() -> Self {
        Self {
            cpus: 1,
            name: String::new(),
            serial: Vec::new(),
            debug_console: None,
            debug_exit: true,
            test_devices: false,
            fw_cfg_files: Vec::new(),
            pci_functions: Vec::new(),
            virtio: Vec::new(),
            io_faults: virtio::Faults::default(),
            trace_virtio: None,
            trace_unclaimed: None,
            virtual_time: None,
            event_lines: None,
            on_end: None,
        }
    }
}

impl fmt::Debug for MachineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineConfig")
            .field("cpus", &self.cpus)
            .field("name", &self.name)
            .field("serial", &self.serial)
            .field("debug_exit", &self.debug_exit)
            .field("test_devices", &self.test_devices)
            .finish_non_exhaustive()
    }
}

/// Doorbells and messages of a machine's virtio devices, by their ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioTraffic {
    /// Doorbells that came to this process.
    pub doorbells_exits: u64,
    /// Doorbells that woke a device in the host's kernel, but for those of network cards, which are
    /// not told from packets.
    pub doorbells_kernel: u64,
    /// MSI-X messages that were named to the engine.
    pub messages_called: u64,
    /// MSI-X messages that went by a route that the host's kernel keeps.
    pub messages_routed: u64,
}

/// A PC.
pub struct Machine {
    memory: Arc<GuestMemory>,
    described: Described,
    pc: Pc,
    ending: Arc<Ending>,
    gate: Arc<Gate>,
    /// Until the start.
    vcpus: Vec<Box<dyn Vcpu>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    started: bool,
    is_virtual: bool,
}

impl Machine {
    /// Builds a PC around an engine and its memory, which [`layout`] laid out; all processors are
    /// in their reset state.
    ///
    /// # Errors
    /// The number of processors, the memory's layout, or the engine.
    pub fn new(
        engine: Arc<dyn Engine>,
        memory: Arc<GuestMemory>,
        mut config: MachineConfig,
    ) -> Result<Self, MachineError> {
        let cpus = config.cpus;
        if !(1..=MAX_CPUS).contains(&cpus) {
            return Err(MachineError::Cpus { cpus });
        }
        if config.virtual_time.is_some() && cpus > 1 {
            return Err(MachineError::VirtualTime { cpus });
        }
        let regions = memory.regions().iter().map(|region| (region.start, region.size));
        if !regions.eq(layout(memory.size())) {
            return Err(MachineError::Layout);
        }
        let vcpus =
            (0..cpus).map(|index| engine.create_vcpu(index)).collect::<Result<Vec<_>, _>>()?;
        let ending = Ending::new(config.on_end.take());
        ending.set_kicks(vcpus.iter().map(|vcpu| vcpu.kicker()).collect());
        let described = Described {
            cpus,
            serial_ports: config.serial.len(),
            name: std::mem::take(&mut config.name),
        };
        let is_virtual = config.virtual_time.is_some();
        let pc = Pc::build(engine, &memory, config, ending.clone());
        let gate = Gate::new(vcpus.len());
        let threads = Mutex::default();
        Ok(Self { memory, described, pc, ending, gate, vcpus, threads, started: false, is_virtual })
    }

    /// Places a kernel and enters the boot processor.
    ///
    /// # Errors
    /// The kernel does not fit this machine, or the machine has been started.
    pub fn load(&mut self, boot: &Boot<'_>) -> Result<(), MachineError> {
        let vcpu = self.vcpus.first_mut().ok_or(MachineError::Started)?;
        let mut state = vcpu.state()?;
        place(&self.memory, &self.described, boot, &mut state)?;
        Ok(vcpu.set_state(&state)?)
    }

    /// Writes bytes and sets the boot processor's whole state, for guests that need no firmware.
    ///
    /// # Errors
    /// The bytes lie outside of RAM, or the machine has been started.
    pub fn load_raw(
        &mut self,
        segments: &[(GuestPhys, &[u8])],
        state: &CpuState,
    ) -> Result<(), MachineError> {
        let vcpu = self.vcpus.first_mut().ok_or(MachineError::Started)?;
        for (address, bytes) in segments {
            self.memory.write_physical(*address, bytes)?;
        }
        Ok(vcpu.set_state(state)?)
    }

    /// Starts all threads.
    ///
    /// # Errors
    /// The host gives no threads (the machine is over then), or it has been started.
    pub fn start(&mut self) -> Result<(), MachineError> {
        if std::mem::replace(&mut self.started, true) {
            return Err(MachineError::Started);
        }
        let timers = self.pc.timers.clone();
        let timed = std::mem::take(&mut self.pc.timed);
        let mut deadlines = None;
        if self.is_virtual {
            deadlines = Some(Deadlines { timers, devices: timed });
        } else {
            self.spawn("timers".into(), move || timers.run(&timed))?;
        }
        for worker in self.pc.workers.iter().filter(|worker| !worker.is_inline()) {
            let worker = worker.clone();
            self.spawn(worker.name().to_owned(), move || worker.run())?;
        }
        for (cpu, vcpu) in (0..).zip(std::mem::take(&mut self.vcpus)) {
            let thread = VcpuThread {
                cpu,
                vcpu,
                io: VcpuIo(self.pc.buses.clone()),
                ending: self.ending.clone(),
                gate: self.gate.clone(),
                deadlines: deadlines.take(),
            };
            self.spawn(format!("vcpu{cpu}"), move || thread.run())?;
        }
        Ok(())
    }

    fn spawn(
        &self,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), MachineError> {
        let spawned = threads::spawn(&name, body);
        let thread = spawned.map_err(|error| {
            self.ending.finish(Outcome::Stopped);
            MachineError::Thread(error)
        })?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Waits for the end, at most for `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Outcome> {
        self.ending.wait(timeout)
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.ending.outcome()
    }

    /// Ends the machine, if it has not ended, and joins its threads; says how it ended.
    pub fn stop(&self) -> Outcome {
        self.ending.finish(Outcome::Stopped);
        self.join();
        self.ending.outcome().expect("finish gave it an outcome")
    }

    /// Presses the power button, for a guest with ACPI to shut itself down.
    pub fn press_power_button(&self) {
        self.pc.acpi.press_power_button();
    }

    /// Types on the keyboard: scan codes of set 2. False: the guest did not take them.
    pub fn type_keys(&self, scancodes: &[u8]) -> bool {
        self.pc.keyboard.keys(scancodes)
    }

    /// Moves the PS/2 mouse right and up, with buttons (bit 0 left, 1 right, 2 middle).
    pub fn move_mouse(&self, dx: i16, dy: i16, buttons: u8) -> bool {
        self.pc.keyboard.mouse(dx, dy, buttons)
    }

    /// The input side of a serial port, 0 = COM1.
    pub fn serial_input(&self, port: usize) -> Option<SerialInput> {
        self.pc.serial_inputs.get(port).cloned()
    }

    /// The virtio devices in the order of [`MachineConfig::virtio`]: what each is, and how far the
    /// guest ever came with it.
    pub fn virtio_use(&self) -> Vec<(virtio::Kind, virtio::Use)> {
        self.pc.workers.iter().map(|worker| (worker.kind(), worker.used())).collect()
    }

    /// What went between virtio devices and their drivers so far, and which way.
    pub fn virtio_traffic(&self) -> VirtioTraffic {
        let mut traffic = VirtioTraffic::default();
        for counts in self.pc.workers.iter().map(|worker| worker.doorbells()) {
            traffic.doorbells_exits += counts.exits;
            traffic.doorbells_kernel += counts.kernel;
        }
        (traffic.messages_called, traffic.messages_routed) = self.pc.buses.interrupts.messages();
        traffic
    }

    /// Guest RAM.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Stops all processors at an instruction boundary. Time goes on.
    ///
    /// # Errors
    /// [`MachineError::Stuck`] if one waits for the reader of its output; then all go on.
    pub fn pause(&self) -> Result<(), MachineError> {
        if !self.started {
            return Err(MachineError::NotStarted);
        }
        self.gate.pause(&self.ending)
    }

    /// Lets all processors go on.
    pub fn resume(&self) {
        self.gate.resume();
    }

    /// Every processor's state: a running machine is paused for a moment. `None` for a processor
    /// whose engine failed.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn cpu_states(&self) -> Result<Vec<Option<CpuState>>, MachineError> {
        let paused = self.gate.is_paused();
        self.pause()?;
        if self.ending.is_over() {
            self.wait_until_left();
        }
        let states = self.gate.states();
        if !paused {
            self.resume();
        }
        Ok(states)
    }

    /// Instructions that each processor retired, as of its last pause or its end; `None` where the
    /// engine does not count.
    pub fn retired(&self) -> Vec<Option<u64>> {
        self.gate.retired()
    }

    /// In virtual time: everything that happened so far, with the instruction counts it happened
    /// at, as a number and a hash. Two runs with the same digest were the same run.
    ///
    /// # Errors
    /// The lines for [`MachineConfig::event_lines`] could not be written.
    pub fn event_digest(&self) -> std::io::Result<Option<EventDigest>> {
        self.pc.buses.log.as_ref().map(EventLog::digest).transpose()
    }

    /// Kicks until all vCPU threads have left.
    fn wait_until_left(&self) {
        let limit = Instant::now() + JOIN_LIMIT;
        let mut pause = Duration::from_micros(100);
        while !self.gate.is_empty() && Instant::now() < limit {
            self.ending.kick_all();
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    fn join(&self) {
        self.pc.timers.stop();
        self.pc.workers.iter().for_each(|worker| worker.stop());
        let threads = std::mem::take(&mut *lock(&self.threads));
        let limit = Instant::now() + JOIN_LIMIT;
        let own = thread::current().id();
        let mut pause = Duration::from_micros(100);
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != own) {
            while !thread.is_finished() && Instant::now() < limit {
                self.ending.kick_all();
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
            if thread.is_finished() {
                // A vCPU's panic is an outcome already; those of others have no one to go to.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("cpus", &self.described.cpus)
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}
