//! The life of one VM: prepared, started, listened to, ended.
//!
//! Invariants: one thread runs the loop and calls the front end; the machine is stopped on every
//! way out; the command's status, once told, is the outcome whatever happens after.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fetch;
use machine::Initrd;

use crate::initramfs::{self, Archive, Contents, Hardware, HostRoot, Support};
use crate::kernel::{Kernel, KernelError, Search};

use super::assemble::{End, Files, Line, Running, assemble};
use super::choose;
use super::config::{Effective, RunConfig};
use super::drivers::Unused;
use super::error::RunError;
use super::network;
use super::outbox::{Controls, Outbox, Wish};
use super::report::{Event, Outcome, RunReport};
use super::session::Session;
use super::stream::SessionPort;
use super::watch::ConsoleWatch;

/// The guest's host name.
pub(super) const HOSTNAME: &str = "oneroof";
/// After the command's status came, the guest has this long to power off.
const POWER_OFF: Duration = Duration::from_secs(3);
/// After the command was started, every driver that there is has this long to find its device.
const DRIVERS: Duration = Duration::from_secs(5);

/// A VM, ready to start.
#[derive(Debug)]
pub struct Vm {
    effective: Effective,
    outbox: Arc<Outbox<End>>,
    guest: super::assemble::Prepared,
    initrd_bytes: u64,
    fixed_input: bool,
}

/// What a kernel is given besides its command line.
enum Payload {
    /// Our initramfs.
    Ours(Archive),
    /// The user's.
    Theirs(Box<dyn Initrd>),
    /// None: the kernel is a program of its own.
    Bare,
}

impl Vm {
    /// Turns a wish into a VM that can start: finds or fetches a kernel, packs the initramfs,
    /// chooses the engine, builds the machine.
    pub fn prepare(config: &RunConfig, events: &mut dyn FnMut(Event)) -> Result<Self, RunError> {
        config.cpus(choose::EngineKind::Soft(choose::Execution::default()))?; // before anything that takes time
        config.memory_mib(1)?;
        let (disks, disk_configs) = super::disks::open(&config.disks)?;
        let extras = super::extras::open(&config.extras, config.deterministic.is_some())?;
        let wish = network::Wish::of(config)?;
        let initrd = config.initrd.as_deref().map(super::assemble::open_initrd).transpose()?;
        let engine = choose::choose(config.engine, config.deterministic.is_some())?;
        let cpus = config.cpus(engine.kind)?;
        let memory_mib = config.memory_mib(cpus)?;
        let kernel = find_or_fetch(config, events)?;
        let file = kernel.open()?;
        let bare = initrd.is_none() && super::assemble::is_bare(&kernel.path, &file)?;
        let session = initrd.is_none() && !bare;
        let guest_root = guest_root(config, &kernel, session)?;
        let host_root = guest_root.root.is_some();
        let card = wish.open(bare, cpus)?;
        let effective = Effective {
            engine,
            cpus,
            memory_mib,
            command_line: if bare {
                config.append.clone().unwrap_or_default()
            } else {
                config.command_line()
            },
            append: config.append.clone(),
            initrd: config.initrd.clone(),
            disks: disk_configs,
            host_root,
            shares: super::shares::shares(config, host_root)?,
            as_user: config.as_user,
            net: card.config.clone(),
            timeout: config.timeout,
            command: config.command.clone(),
            verbose: config.verbose,
            test_devices: config.test_devices,
            cpu_vendor: config.cpu_vendor,
            deterministic: config.deterministic.clone(),
            extras: config.extras.clone(),
            session,
            kernel,
        };
        let opened = super::shares::open(&effective)?;
        events(Event::Ready(Box::new(effective.clone())));
        let payload = match initrd {
            Some(initrd) => Payload::Theirs(initrd),
            None if bare => Payload::Bare,
            None => Payload::Ours(pack(config, &effective, guest_root, card.job, events)?),
        };
        refuse_command(config, &payload)?;
        let initrd: Option<Box<dyn Initrd>> = match payload {
            Payload::Ours(archive) => Some(Box::new(archive)),
            Payload::Theirs(initrd) => Some(initrd),
            Payload::Bare => None,
        };
        let initrd_bytes = initrd.as_ref().map_or(0, |initrd| initrd.size());
        let outbox = Arc::new(Outbox::new());
        let fixed_input = config.input.is_some();
        let window = config.terminal.as_ref().map(|terminal| terminal.size);
        let files = Files {
            kernel: file,
            initrd,
            disks,
            extras,
            window,
            shares: super::shares::devices(opened, effective.deterministic.is_some()),
            network: card.device,
            input: config.input.clone(),
        };
        let guest = assemble(&effective, files, &outbox)?;
        Ok(Self { effective, outbox, guest, initrd_bytes, fixed_input })
    }

    /// What will run.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }

    /// Whether the guest has a session: a command, or a shell on a terminal of its own. Otherwise
    /// input goes to the guest's console, and [`Event::Console`] is the guest's output.
    pub fn has_session(&self) -> bool {
        self.effective.session
    }

    /// A handle for other threads.
    pub fn controls(&self) -> Controls {
        Controls::new(self.outbox.clone())
    }

    /// Runs the VM to its end.
    pub fn run(self, events: &mut dyn FnMut(Event)) -> RunReport {
        let Self { effective, outbox, guest, initrd_bytes, fixed_input } = self;
        let (unpack_cpu, balloon, port) =
            (guest.unpack_cpu, guest.balloon.clone(), guest.port.clone());
        let start_cpu = super::assemble::cpu_time();
        let started = Instant::now();
        let running = guest.start(&outbox);
        let deadline = effective.timeout.and_then(|timeout| started.checked_add(timeout));
        let mut running_loop = Loop {
            running,
            outbox: &outbox,
            session: effective.session.then(Session::new),
            port,
            answered: false,
            console: ConsoleWatch::default(),
            deadline,
            power_off: None,
            look_at_drivers: None,
            unused: Unused::new(effective.session),
            command_started: None,
            interrupted: false,
            input_over: fixed_input,
        };
        let outcome = running_loop.go(events);
        let tells = match outcome {
            _ if effective.session => running_loop.command_started.is_some(),
            Outcome::Quit { .. } | Outcome::Failed { .. } | Outcome::DebugExit { .. } => false,
            _ => effective.initrd.is_some(), // a kernel that is no Linux has no options
        };
        if tells {
            running_loop.tell_of_unused(events);
        }
        let boot = running_loop.command_started.map(|at| at - started);
        let Loop { running, console, .. } = running_loop;
        let duration = started.elapsed();
        outbox.close();
        let virtio = running.virtio_traffic();
        let (instructions, digest) = running.stop();
        let digest = digest.unwrap_or_else(|error| {
            events(Event::Notice(format!("cannot write the events: {error}")));
            None
        });
        RunReport {
            effective,
            outcome,
            duration,
            boot,
            start_cpu,
            unpack_cpu,
            initrd_bytes,
            instructions,
            returned_bytes: balloon.released_bytes(),
            virtio,
            events: digest,
            console_tail: console.into_tail(),
        }
    }
}

fn find_or_fetch(config: &RunConfig, events: &mut dyn FnMut(Event)) -> Result<Kernel, RunError> {
    let search = Search::of_this_host(config.kernel.clone());
    match search.find() {
        Err(KernelError::NotFound(tried)) => {
            events(Event::Notice("no kernel on this host yet: fetching one, once".into()));
            fetch::fetch(&search.cache, None, &mut |progress| events(Event::Fetch(progress)))
                .map_err(|error| RunError::NoKernel { tried: KernelError::NotFound(tried), error })
        }
        found => Ok(found?),
    }
}

/// What the root directory of a guest with our init is, and what is to be said of it.
#[derive(Default)]
struct GuestRoot {
    root: Option<HostRoot>,
    notice: Option<String>,
}

fn guest_root(config: &RunConfig, kernel: &Kernel, session: bool) -> Result<GuestRoot, RunError> {
    if !session {
        return Ok(GuestRoot::default());
    }
    let support = initramfs::support(&kernel.modules, &initramfs::FOR_ROOT);
    let (root, notice) = super::shares::root(config, &support, &kernel.path)?;
    if !config.shares.is_empty()
        && let Support::Lacks(what) = initramfs::support(&kernel.modules, &initramfs::FOR_SHARES)
    {
        return Err(RunError::ShareUnsupported { kernel: kernel.path.clone(), what });
    }
    Ok(GuestRoot { root, notice })
}

fn pack(
    config: &RunConfig,
    effective: &Effective,
    guest_root: GuestRoot,
    network: protocol::Network,
    events: &mut dyn FnMut(Event),
) -> Result<Archive, RunError> {
    let mut hardware = vec![Hardware::Entropy, Hardware::Balloon];
    if !effective.disks.is_empty() {
        hardware.push(Hardware::Disk);
    }
    hardware.extend(effective.extras.hardware());
    if effective.has_stream() {
        hardware.push(Hardware::Stream);
    }
    if effective.host_root || !effective.shares.is_empty() {
        hardware.push(Hardware::Share);
    }
    if network != protocol::Network::None {
        hardware.push(Hardware::Network);
    }
    events_of(guest_root.notice, events);
    let packed = initramfs::pack(&Contents {
        command: config.command.clone(),
        terminal: config.terminal.clone(),
        modules: effective.kernel.modules.clone(),
        hardware,
        network,
        hostname: HOSTNAME.into(),
        shares: super::shares::for_init(&effective.shares, guest_root.root.as_ref()),
        root: guest_root.root,
        as_user: effective.as_user,
    })?;
    events_of(packed.missing, events);
    Ok(packed.archive)
}

fn events_of(lines: impl IntoIterator<Item = String>, events: &mut dyn FnMut(Event)) {
    lines.into_iter().for_each(|line| events(Event::Notice(line)));
}

fn refuse_command(config: &RunConfig, payload: &Payload) -> Result<(), RunError> {
    let what = match payload {
        Payload::Ours(_) => return Ok(()),
        Payload::Theirs(_) => "an initrd of yours",
        Payload::Bare => "a kernel that is no Linux",
    };
    match config.command.first() {
        Some(command) => {
            Err(RunError::CommandWithoutInit(what, command.to_string_lossy().into_owned()))
        }
        None => Ok(()),
    }
}

struct Loop<'a> {
    running: Running,
    outbox: &'a Outbox<End>,
    session: Option<Session>,
    /// Where the session goes on once the guest says so.
    port: Option<SessionPort>,
    /// The guest was told that we go on there, too.
    answered: bool,
    console: ConsoleWatch,
    deadline: Option<Instant>,
    /// When the guest must have powered off.
    power_off: Option<Instant>,
    /// When the guest must have used its devices.
    look_at_drivers: Option<Instant>,
    unused: Unused,
    command_started: Option<Instant>,
    /// An interrupt was passed on already; the next one ends the VM.
    interrupted: bool,
    input_over: bool,
}

impl Loop<'_> {
    fn go(&mut self, events: &mut dyn FnMut(Event)) -> Outcome {
        loop {
            let until = [self.power_off, self.deadline, self.look_at_drivers];
            let until = until.into_iter().flatten().min();
            let taken = self.outbox.take(until);
            if !taken.console.is_empty() {
                self.console.push(&taken.console);
                events(Event::Console(taken.console));
            }
            taken.words.into_iter().for_each(&mut *events);
            self.session_bytes(&taken.session, events);
            self.stream_bytes(events);
            if let Some(outcome) = taken.wishes.into_iter().find_map(|wish| self.wish(wish)) {
                return outcome;
            }
            self.running.flush();
            self.feed();
            if let Some(end) = taken.ended {
                return self.ended(end);
            }
            if let Some(outcome) = self.overdue() {
                return outcome;
            }
            if self.look_at_drivers.is_some_and(|at| at <= Instant::now()) {
                self.look_at_drivers = None;
                self.tell_of_unused(events);
            }
        }
    }

    fn session_bytes(&mut self, bytes: &[u8], events: &mut dyn FnMut(Event)) {
        let Some(session) = &mut self.session else {
            return;
        };
        let (started, look) = (&mut self.command_started, &mut self.look_at_drivers);
        session.push(bytes, &mut |event| {
            if matches!(event, Event::Started) {
                let at = *started.get_or_insert_with(Instant::now);
                *look = Some(at + DRIVERS);
            }
            events(event);
        });
        let late = session.late_size();
        if session.exit().is_some() && self.power_off.is_none() {
            self.power_off = Some(Instant::now() + POWER_OFF);
        }
        if let Some(size) = late {
            self.wish(Wish::Resize(size));
        }
    }

    /// Once the guest's init has moved, so do we, and what it says is there.
    fn stream_bytes(&mut self, events: &mut dyn FnMut(Event)) {
        if !self.session.as_ref().is_some_and(Session::has_moved) {
            return;
        }
        let Some(port) = self.port.clone() else { return };
        if !std::mem::replace(&mut self.answered, true) {
            let mut wire = Vec::new();
            protocol::ToGuest::Moved.encode(&mut wire);
            self.running.send(Line::Session, &wire);
        }
        self.session_bytes(&port.take(), events);
    }

    fn send(&mut self, wire: &[u8]) {
        match &self.port {
            Some(port) if self.answered => port.send(wire),
            _ => self.running.send(Line::Session, wire),
        }
    }

    fn tell_of_unused(&mut self, events: &mut dyn FnMut(Event)) {
        for line in self.unused.lines(&self.running.virtio_use()) {
            events(Event::Notice(line));
        }
    }

    fn wish(&mut self, wish: Wish) -> Option<Outcome> {
        const INTERRUPT: u8 = 2;
        if let Wish::Quit(signal) = wish {
            return Some(Outcome::Quit { signal });
        }
        if let Wish::Resize(size) = wish {
            self.running.resize(size);
        }
        let mut wire = Vec::new();
        let again =
            wish == Wish::Signal(INTERRUPT) && std::mem::replace(&mut self.interrupted, true);
        let passed = self.session.as_mut().is_some_and(|session| session.wish(wish, &mut wire));
        if passed && !again {
            self.send(&wire);
            return None;
        }
        match wish {
            Wish::Signal(signal) => Some(Outcome::Quit { signal }),
            Wish::Resize(_) | Wish::Quit(_) => None,
        }
    }

    /// Hands the user's input on, as much as the guest can take.
    fn feed(&mut self) {
        if self.input_over {
            return;
        }
        let Some(session) = &mut self.session else {
            let room = self.running.room(Line::Console);
            let (bytes, last) = self.outbox.take_input(room);
            self.running.send(Line::Console, &bytes);
            self.input_over = last;
            return;
        };
        let Some(most) = session.wants_input() else {
            return;
        };
        let (bytes, last) = self.outbox.take_input(most);
        if bytes.is_empty() && !last {
            return;
        }
        let mut wire = Vec::new();
        session.input(bytes, last, &mut wire);
        self.input_over = last;
        self.send(&wire);
    }

    fn ended(&self, end: End) -> Outcome {
        if let Some(outcome) = self.exited() {
            return outcome;
        }
        let panic = self.console.panic().map(str::to_owned);
        let died = |cause: String| Outcome::Died { cause };
        match (end, panic) {
            (End::EngineFailed { cpu, error }, _) => {
                Outcome::Failed { why: format!("the engine failed on processor {cpu}: {error}") }
            }
            (End::DebugExit(code), _) => Outcome::DebugExit { code: code as u8 },
            (_, Some(reason)) => Outcome::Panicked { reason },
            (End::Panic, None) => Outcome::Panicked { reason: "it did not say why".into() },
            (End::PowerOff, None) if self.session.is_none() => Outcome::PoweredOff,
            (End::PowerOff, None) => died("it powered off before the command had ended".into()),
            (end @ (End::TripleFault { .. } | End::Unsupported { .. }), None) => {
                died(end.to_string())
            }
            (end @ (End::Reset { .. } | End::Halted), None) => died(end.to_string()),
            (End::Stopped, None) => Outcome::Failed { why: "the host gave no threads".into() },
        }
    }

    fn overdue(&self) -> Option<Outcome> {
        let now = Instant::now();
        if self.power_off.is_some_and(|at| at <= now) {
            return self.exited();
        }
        self.deadline.filter(|at| *at <= now).map(|_| self.exited().unwrap_or(Outcome::TimedOut))
    }

    fn exited(&self) -> Option<Outcome> {
        let (code, signal) = self.session.as_ref()?.exit()?;
        Some(Outcome::Exited { code, signal })
    }
}
