//! Devices that a VM has because somebody asked: what was asked, opened, given to the machine.
//!
//! Invariant: whatever about a wish can be wrong is found by [`open`], before the guest starts.

use std::path::PathBuf;

use machine::MachineConfig;
use virtio::vsock::{Host, UnixSockets, Vsock};

use crate::initramfs::Hardware;

use super::error::RunError;
use super::stream::{SessionHost, SessionPort};

/// The guest's address on its side of the sockets: the first that is free for guests. Each VM has
/// sockets of its own, so all may have the same.
const GUEST_CID: u32 = 3;

/// What is asked for beyond disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The Unix socket by which programs of the host reach the guest's vsock ports.
    pub vsock: Option<PathBuf>,
}

/// The same, ready for a machine.
#[derive(Debug, Default)]
pub(super) struct Opened {
    vsock: Option<UnixSockets>,
}

/// Opens everything.
pub(super) fn open(extras: &Extras, deterministic: bool) -> Result<Opened, RunError> {
    if extras.vsock.is_some() && deterministic {
        return Err(RunError::DeterministicInput { option: "--vsock" });
    }
    Ok(Opened { vsock: extras.vsock.as_deref().map(UnixSockets::listen).transpose()? })
}

impl Extras {
    /// What the guest needs drivers for.
    pub(super) fn hardware(&self) -> Vec<Hardware> {
        self.vsock.iter().map(|_| Hardware::Socket).collect()
    }

    /// Words of a command line that ask for the same, unquoted.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(path) = &self.vsock {
            words.extend(["--vsock".into(), path.to_string_lossy().into_owned()]);
        }
        words
    }
}

impl Opened {
    /// Adds the devices; `session` is the port for our init, where there is one.
    pub(super) fn attach(self, config: &mut MachineConfig, session: Option<&SessionPort>) {
        let sockets = self.vsock.map(|sockets| Box::new(sockets) as Box<dyn Host>);
        let host = match session {
            Some(port) => Some(Box::new(SessionHost::new(port.clone(), sockets)) as _),
            None => sockets,
        };
        if let Some(host) = host {
            config.virtio.push(Box::new(Vsock::new(GUEST_CID, host)));
        }
    }
}
