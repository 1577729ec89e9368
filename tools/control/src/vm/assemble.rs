//! Engine, memory, machine and kernel put together, and what comes out of them put in the outbox.
//!
//! The only place that names the engines. Invariants: kernel and initrd go from their files into
//! guest memory piece by piece, so neither is ever held; COM1 is the kernel's console, COM2 the
//! session.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, VirtualTime, VmConfig};
use firmware::boot::{BootProtocol, LoadError};
use firmware::kernel::{InitrdError, Kernel, check_initrd};
use machine::{
    Boot, BoxError, EventDigest, Initrd, Machine, MachineConfig, MachineError, SerialConfig,
    SerialInput,
};
use memory::GuestMemory;
use protocol::WindowSize;
use rustix::time::{ClockId, clock_gettime};

use virtio::console::ConsoleControl;
use virtio::{Balloon, BalloonControl};

use super::choose::{EngineKind, KvmVerdict};
use super::config::Effective;
use super::error::RunError;
use super::fixed_input::FixedInput;
use super::outbox::Outbox;
use super::stream::SessionPort;
use crate::disk::Disk;
use crate::source::FileSource;

/// How the machine ended.
pub(super) type End = machine::Outcome;

/// What the guest is made of.
pub(super) struct Files {
    pub(super) kernel: FileSource,
    pub(super) initrd: Option<Box<dyn Initrd>>,
    pub(super) disks: Vec<Disk>,
    pub(super) extras: super::extras::Opened,
    /// The user's terminal's size.
    pub(super) window: Option<WindowSize>,
    pub(super) shares: Vec<Box<dyn virtio::Device>>,
    pub(super) network: Option<Box<dyn virtio::Device>>,
    /// All its input, if that is known.
    pub(super) input: Option<Vec<u8>>,
}

/// A serial line of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Console,
    Session,
}

/// When virtual time begins: 2026-01-01, 00:00 UTC.
const START_UNIX_NS: u64 = 1_767_225_600_000_000_000;
/// Input that is asked for at a time, while the line takes it.
const CHUNK: usize = 16 * 1024;

/// A machine with its kernel in place.
#[derive(Debug)]
pub(super) struct Prepared {
    machine: Machine,
    pub(super) unpack_cpu: Duration,
    pub(super) balloon: BalloonControl,
    /// The session's fast way, if it can have one.
    pub(super) port: Option<SessionPort>,
    console: Option<ConsoleControl>,
    input: Option<Arc<FixedInput>>,
}

/// A machine that runs.
#[derive(Debug)]
pub(super) struct Running {
    machine: Machine,
    lines: [Input; 2],
    /// The console's input goes there instead of the first line.
    console: Option<ConsoleControl>,
}

/// The way into a serial line.
#[derive(Debug)]
struct Input {
    line: SerialInput,
    /// What the line had no room for.
    waiting: Vec<u8>,
}

/// CPU time of this process so far.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Looks at this host's /dev/kvm.
pub(super) fn kvm_verdict() -> KvmVerdict {
    let verdict = kvm::probe();
    let text = verdict.to_string();
    match verdict {
        kvm::Verdict::Hardware => KvmVerdict::Hardware(text),
        kvm::Verdict::Emulated { .. } => KvmVerdict::Emulated(text),
        kvm::Verdict::Unavailable { .. } => KvmVerdict::Unavailable(text),
    }
}

/// Whether a kernel file is a program of its own rather than a Linux: it gets no initramfs and no
/// command line of ours.
pub(super) fn is_bare(path: &Path, file: &FileSource) -> Result<bool, RunError> {
    Ok(match Kernel::parse(file).map_err(|source| wrong_kernel(path, source))? {
        Kernel::BzImage(_) => false,
        Kernel::Elf(elf) => !elf.is_linux(),
        Kernel::Multiboot(_) => true,
    })
}

/// Opens a file given as initrd, and sees that it can be one. A pipe is read to its end.
pub(super) fn open_initrd(path: &Path) -> Result<Box<dyn Initrd>, RunError> {
    let unreadable = |source| RunError::InitrdUnreadable { path: path.to_path_buf(), source };
    let wrong = |source: InitrdError| RunError::InitrdFile { path: path.to_path_buf(), source };
    let status = std::fs::metadata(path).map_err(unreadable)?;
    if status.is_dir() {
        return Err(unreadable(std::io::ErrorKind::IsADirectory.into()));
    }
    if status.is_file() {
        let file = FileSource::open(path).map_err(unreadable)?;
        check_initrd(&file).map_err(wrong)?;
        return Ok(Box::new(file));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    check_initrd(&bytes).map_err(wrong)?;
    Ok(Box::new(bytes))
}

/// An initrd, and what it cost to pour it.
struct Measured<'a> {
    initrd: &'a dyn Initrd,
    cpu: Cell<Duration>,
}

impl Initrd for Measured<'_> {
    fn size(&self) -> u64 {
        self.initrd.size()
    }

    fn pour(&self, to: &mut dyn FnMut(&[u8]) -> Result<(), BoxError>) -> Result<(), BoxError> {
        let before = cpu_time();
        let poured = self.initrd.pour(to);
        self.cpu.set(cpu_time().saturating_sub(before));
        poured
    }
}

/// Builds the machine and places the kernel.
pub(super) fn assemble(
    effective: &Effective,
    files: Files,
    outbox: &Arc<Outbox<End>>,
) -> Result<Prepared, RunError> {
    let path = &effective.kernel.path;
    let kernel = Kernel::parse(&files.kernel).map_err(|source| wrong_kernel(path, source))?;
    let runs = machine::layout(effective.memory_mib << 20);
    let memory = Arc::new(match effective.engine.kind {
        EngineKind::Soft(_) => GuestMemory::new(&runs)?,
        EngineKind::Kvm => GuestMemory::in_large_pages(&runs)?,
    });
    let time = effective
        .deterministic
        .as_ref()
        .map(|deterministic| Arc::new(VirtualTime::new(START_UNIX_NS, deterministic.seed)));
    let engine = new_engine(effective, memory.clone(), time.clone())?;
    let input = files.input.map(|bytes| FixedInput::new(bytes, effective.session));
    let mut config = machine_config(effective, outbox, input.clone(), time)?;
    config.virtio = super::disks::devices(effective, files.disks, outbox);
    let balloon = Balloon::new(memory.clone());
    let balloon_control = balloon.control();
    config.virtio.push(Box::new(balloon));
    config.virtio.extend(files.shares);
    config.virtio.extend(files.network);
    let port = effective.has_stream().then(|| {
        let outbox = Arc::downgrade(outbox);
        SessionPort::new(move || _ = outbox.upgrade().map(|outbox| outbox.stir()))
    });
    let console = files.extras.attach(&mut config, port.as_ref(), files.window, outbox)?;
    let mut machine =
        Machine::new(engine, memory, config).map_err(|source| RunError::Machine(source.into()))?;
    let initrd = files.initrd.as_deref().map(|initrd| Measured { initrd, cpu: Cell::default() });
    let boot = Boot {
        kernel: &kernel,
        file: &files.kernel,
        initrd: initrd.as_ref().map(|initrd| initrd as &dyn Initrd),
        command_line: &effective.command_line,
        protocol: BootProtocol::Auto,
    };
    let before = cpu_time();
    machine.load(&boot).map_err(|error| match error {
        MachineError::Boot(LoadError::Boot(source)) => wrong_kernel(path, source),
        MachineError::Boot(LoadError::Unpack(source)) => wrong_kernel(path, source),
        MachineError::Boot(source) => wrong_kernel(path, source),
        MachineError::Initrd(source) => RunError::Initrd(source),
        other => RunError::Machine(other.into()),
    })?;
    let pouring = initrd.map_or(Duration::ZERO, |initrd| initrd.cpu.get());
    let unpack_cpu = cpu_time().saturating_sub(before).saturating_sub(pouring);
    Ok(Prepared { machine, unpack_cpu, input, balloon: balloon_control, port, console })
}

fn wrong_kernel(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> RunError {
    RunError::KernelFile { path: path.to_path_buf(), source: source.into() }
}

fn new_engine(
    effective: &Effective,
    memory: Arc<GuestMemory>,
    virtual_time: Option<Arc<VirtualTime>>,
) -> Result<Arc<dyn Engine>, RunError> {
    let config = VmConfig { memory, cpus: effective.cpus };
    let kind = effective.engine.kind;
    let made: Result<Arc<dyn Engine>, engine::EngineError> = match kind {
        EngineKind::Soft(execution) => {
            let vendor = effective.cpu_vendor;
            let options =
                soft::SoftOptions { vendor, execution, virtual_time, ..Default::default() };
            soft::SoftEngine::with_options(config, options).map(|engine| Arc::new(engine) as _)
        }
        EngineKind::Kvm if effective.cpu_vendor.is_some() => {
            Err(engine::EngineError::Unsupported {
                engine: "kvm",
                what: "another vendor than the host's",
            })
        }
        EngineKind::Kvm => kvm::KvmEngine::new(config)
            .map(|engine| Arc::new(engine) as Arc<dyn Engine>)
            .map_err(Into::into),
    };
    made.map_err(|source| RunError::Engine { engine: kind.name(), source })
}

fn machine_config(
    effective: &Effective,
    outbox: &Arc<Outbox<End>>,
    input: Option<Arc<FixedInput>>,
    virtual_time: Option<Arc<VirtualTime>>,
) -> Result<MachineConfig, RunError> {
    let (console, session, ending) = (outbox.clone(), outbox.clone(), outbox.clone());
    let trace = effective.deterministic.as_ref().and_then(|run| run.trace.as_deref());
    Ok(MachineConfig {
        cpus: effective.cpus,
        name: String::from("oneroof"),
        serial: vec![
            SerialConfig::new(move |bytes: &[u8]| console.push_console(bytes)),
            SerialConfig::new(move |bytes: &[u8]| {
                session.push_session(bytes);
                if let Some(input) = &input {
                    input.heard(bytes);
                }
            }),
        ],
        debug_exit: effective.test_devices || !effective.session,
        test_devices: effective.test_devices,
        virtual_time,
        event_lines: trace.map(create_trace).transpose()?,
        on_end: Some(Box::new(move |outcome| ending.end(outcome.clone()))),
        ..MachineConfig::default()
    })
}

fn create_trace(path: &Path) -> Result<Box<dyn Write + Send>, RunError> {
    let file = File::create(path);
    let file = file.map_err(|source| RunError::Trace { path: path.to_path_buf(), source })?;
    Ok(Box::new(BufWriter::new(file)))
}

impl Prepared {
    /// Starts the vCPUs. A host without threads to give is an end like others.
    pub(super) fn start(mut self, outbox: &Arc<Outbox<End>>) -> Running {
        let lines = [0, 1].map(|port| {
            let line = self.machine.serial_input(port).expect("the machine was built with two");
            let waker = Arc::downgrade(outbox);
            line.on_room(move || {
                if let Some(outbox) = waker.upgrade() {
                    outbox.stir();
                }
            });
            Input { line, waiting: Vec::new() }
        });
        if let Some(input) = &self.input {
            let port = if input.is_session() { Line::Session } else { Line::Console };
            let line = self.machine.serial_input(port as usize);
            FixedInput::connect(input, line.expect("the machine was built with two"));
        }
        if self.machine.start().is_err() {
            outbox.end(End::Stopped);
        }
        Running { machine: self.machine, lines, console: self.console }
    }
}

impl Running {
    /// How many bytes the line would like; 0 while it still has to take earlier ones.
    pub(super) fn room(&self, line: Line) -> usize {
        if self.lines[line as usize].waiting.is_empty() { CHUNK } else { 0 }
    }

    /// Sends bytes, now or as soon as there is room.
    pub(super) fn send(&mut self, line: Line, bytes: &[u8]) {
        let input = &mut self.lines[line as usize];
        input.waiting.extend_from_slice(bytes);
        let taken = match &self.console {
            Some(console) if line == Line::Console => console.input(0, &input.waiting),
            _ => input.line.send(&input.waiting),
        };
        input.waiting.drain(..taken);
    }

    /// Tries again what had no room.
    pub(super) fn flush(&mut self) {
        for line in [Line::Console, Line::Session] {
            if !self.lines[line as usize].waiting.is_empty() {
                self.send(line, &[]);
            }
        }
    }

    /// The user's terminal has a new size; a serial line has none to give on.
    pub(super) fn resize(&self, size: WindowSize) {
        if let Some(console) = &self.console {
            console.resize(size.columns, size.rows);
        }
    }

    /// What the guest did with its virtio devices.
    pub(super) fn virtio_use(&self) -> Vec<(virtio::Kind, virtio::Use)> {
        self.machine.virtio_use()
    }

    /// Which ways doorbells and messages went.
    pub(super) fn virtio_traffic(&self) -> machine::VirtioTraffic {
        self.machine.virtio_traffic()
    }

    /// Ends the machine and its threads; tells what each vCPU retired, and what happened.
    pub(super) fn stop(self) -> (Vec<Option<u64>>, std::io::Result<Option<EventDigest>>) {
        self.machine.stop();
        (self.machine.retired(), self.machine.event_digest())
    }
}
