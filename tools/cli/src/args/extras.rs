//! Options of `roof run` for devices beyond disks.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use control::vm::{Debug, Extras};

/// See [`Extras`].
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Options {
    /// Connect host programs and the guest's vsock ports by Unix sockets
    ///
    /// A program that connects to FILE and writes "CONNECT <port>" and a newline is connected with that
    /// port of the guest. What the guest connects with port n of the host (CID 2) leads to whoever
    /// listens at FILE_n.
    #[arg(long, value_name = "FILE")]
    vsock: Option<PathBuf>,
    /// What the guest's kernel console is: a serial line, or virtio, which knows its window's size
    #[arg(long, value_name = "KIND", default_value = "serial")]
    console: Console,
    /// Add a keyboard and a tablet; take their events from FILE, a line each
    ///
    /// key CODE 1|0 (Linux's KEY_*), move X Y (0-32767), button 0|1|2 1|0, wheel RIGHT UP, wait MS. FILE
    /// may be a named pipe.
    #[arg(long, value_name = "FILE")]
    input_events: Option<PathBuf>,
    /// Add a PCI device of one's own (docs/writing-a-device.md)
    ///
    /// Besides its own options a device has latency=TIME for each access, flip=N for a wrong bit in
    /// each N-th read, lost=N to fall off the bus after N accesses.
    #[arg(long = "device", value_name = "NAME[,OPT=..]")]
    devices: Vec<String>,
    /// Slow down, break or tell of: iodelay=TIME, iofault=N, block, net, share, virtio, unclaimed, all
    ///
    /// iodelay: every request to disks, network and shared folders takes at least so long. iofault: each N-th
    /// request to a disk fails with an I/O error, each N-th frame of a network card is lost. block, net, share: only
    /// of these. virtio, unclaimed: tell of drivers' set-up, of accesses that nobody answers; all: both. -WORD takes
    /// one away: iodelay=2ms,-net.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, value_parser = Debug::parse)]
    debug: Option<Debug>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Console {
    #[default]
    Serial,
    Virtio,
}

impl Options {
    pub(super) fn extras(&self) -> Extras {
        Extras {
            vsock: self.vsock.clone(),
            virtio_console: self.console == Console::Virtio,
            input_events: self.input_events.clone(),
            devices: self.devices.clone(),
            debug: self.debug.clone().unwrap_or_default(),
        }
    }
}
