//! Devices that a VM has because somebody asked: what was asked, opened, given to the machine.
//!
//! Invariant: whatever about a wish can be wrong is found by [`open`], before the guest starts.

use std::path::PathBuf;
use std::sync::Arc;

use devices::fake;
use devices::pci::PciFunction;
use machine::MachineConfig;
use protocol::WindowSize;
use virtio::console::{Console, ConsoleControl};
use virtio::vsock::{Host, UnixSockets, Vsock};

use crate::initramfs::Hardware;

use super::assemble::End;
use super::debug::Debug;
use super::error::RunError;
use super::outbox::Outbox;
use super::report::Event;
use super::stream::{SessionHost, SessionPort};
use super::typing::Typing;

/// The guest's address on its side of the sockets: the first that is free for guests. Each VM has
/// sockets of its own, so all may have the same.
const GUEST_CID: u32 = 3;

/// What is asked for beyond disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The Unix socket by which programs of the host reach the guest's vsock ports.
    pub vsock: Option<PathBuf>,
    /// The guest's console is /dev/hvc0, a virtio one, rather than a serial line.
    pub virtio_console: bool,
    /// A keyboard and a tablet, and where their events come from.
    pub input_events: Option<PathBuf>,
    /// Devices of one's own, `NAME[,OPTION=VALUE..]` each.
    pub devices: Vec<String>,
    /// What is slowed down or told of.
    pub debug: Debug,
}

/// The same, ready for a machine.
#[derive(Default)]
pub(super) struct Opened {
    vsock: Option<UnixSockets>,
    typing: Option<Typing>,
    functions: Vec<Box<dyn PciFunction>>,
    virtio_console: bool,
    debug: Debug,
}

/// Opens everything.
pub(super) fn open(extras: &Extras, deterministic: bool) -> Result<Opened, RunError> {
    let live = [
        ("--vsock", extras.vsock.is_some()),
        ("--input-events", extras.input_events.is_some()),
        ("--debug iodelay", extras.debug.io_delay.is_some()),
    ];
    if let Some((option, _)) = live.into_iter().find(|option| option.1 && deterministic) {
        return Err(RunError::DeterministicInput { option });
    }
    let make = |text: &String| {
        let made = fake::make(text, Arc::new(std::thread::sleep));
        made.map_err(|why| RunError::Device { text: text.clone(), why })
    };
    Ok(Opened {
        vsock: extras.vsock.as_deref().map(UnixSockets::listen).transpose()?,
        typing: extras.input_events.as_deref().map(Typing::new).transpose()?,
        functions: extras.devices.iter().map(make).collect::<Result<_, _>>()?,
        virtio_console: extras.virtio_console,
        debug: extras.debug.clone(),
    })
}

impl Extras {
    /// What the guest needs drivers for.
    pub(super) fn hardware(&self) -> Vec<Hardware> {
        let wanted = [
            (Hardware::Socket, self.vsock.is_some()),
            (Hardware::Console, self.virtio_console),
            (Hardware::Input, self.input_events.is_some()),
        ];
        wanted.into_iter().filter(|wanted| wanted.1).map(|wanted| wanted.0).collect()
    }

    /// Words of a command line that ask for the same, unquoted.
    pub(super) fn words(&self) -> Vec<String> {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let mut words = Vec::new();
        let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
        if let Some(socket) = &self.vsock {
            add("--vsock", path(socket));
        }
        if self.virtio_console {
            add("--console", "virtio".into());
        }
        if let Some(file) = &self.input_events {
            add("--input-events", path(file));
        }
        self.devices.iter().for_each(|device| add("--device", device.clone()));
        if self.debug != Debug::default() {
            add("--debug", self.debug.words());
        }
        words
    }

    /// The kernel's words for it, if its console is not the serial line's.
    pub(super) fn console(&self) -> Option<&'static str> {
        self.virtio_console.then_some("console=hvc0")
    }
}

impl Opened {
    /// Adds the devices; `session` is the port for our init, where there is one, `window` the size of
    /// the user's terminal. Gives the console's other end, if it is a virtio one.
    pub(super) fn attach(
        self,
        config: &mut MachineConfig,
        session: Option<&SessionPort>,
        window: Option<WindowSize>,
        outbox: &Arc<Outbox<End>>,
    ) -> Result<Option<ConsoleControl>, RunError> {
        config.pci_functions.extend(self.functions);
        config.io_faults = self.debug.faults();
        if self.debug.virtio || self.debug.unclaimed {
            let outbox = Arc::downgrade(outbox);
            let trace: machine::Trace = Arc::new(move |line: &str| {
                if let Some(outbox) = outbox.upgrade() {
                    outbox.push_word(Event::Notice(line.to_owned()));
                }
            });
            config.trace_virtio = self.debug.virtio.then(|| trace.clone());
            config.trace_unclaimed = self.debug.unclaimed.then_some(trace);
        }
        let sockets = self.vsock.map(|sockets| Box::new(sockets) as Box<dyn Host>);
        let host = match session {
            Some(port) => Some(Box::new(SessionHost::new(port.clone(), sockets)) as _),
            None => sockets,
        };
        if let Some(host) = host {
            config.virtio.push(Box::new(Vsock::new(GUEST_CID, host)));
        }
        if let Some(typing) = self.typing {
            typing.start(&mut config.virtio)?;
        }
        if !self.virtio_console {
            return Ok(None);
        }
        let (console, room) = (outbox.clone(), Arc::downgrade(outbox));
        let device = Console::new(Box::new(move |bytes: &[u8]| console.push_console(bytes)));
        let control = device.control();
        if let Some(size) = window {
            control.resize(size.columns, size.rows);
        }
        control.on_room(move || _ = room.upgrade().map(|outbox| outbox.stir()));
        config.virtio.push(Box::new(device));
        Ok(Some(control))
    }
}
