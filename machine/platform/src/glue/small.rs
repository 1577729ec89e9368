//! Ports that need no interrupt and no time: POST, port A, debug, pvpanic, fw_cfg.

use std::sync::{Arc, Mutex};

use devices::debug::{self, PostCode};
use devices::fw_cfg::FwCfg;
use devices::pvpanic::{self, PanicEvent};
use devices::reset::PortA;

use crate::bus::PortDevice;
use crate::irq::lock;
use crate::outcome::{Outcome, ResetSource};
use crate::run::Ending;
use crate::serial::SerialSink;

/// Port 0x80.
#[derive(Default)]
pub(crate) struct PostPort(Mutex<PostCode>);

impl PortDevice for PostPort {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(lock(&self.0).read());
    }

    fn write(&self, _offset: u16, data: &[u8]) {
        if let Some(&code) = data.first() {
            lock(&self.0).write(code);
        }
    }
}

/// Port 0x92.
pub(crate) struct PortAPort {
    port: Mutex<PortA>,
    ending: Arc<Ending>,
}

impl PortAPort {
    pub(crate) fn new(ending: Arc<Ending>) -> Self {
        Self { port: Mutex::new(PortA::new()), ending }
    }
}

impl PortDevice for PortAPort {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(lock(&self.port).read());
    }

    fn write(&self, _offset: u16, data: &[u8]) {
        if let Some(&value) = data.first()
            && lock(&self.port).write(value)
        {
            self.ending.finish(Outcome::Reset { by: ResetSource::PortA });
        }
    }
}

/// Ports 0xf4-0xf7.
pub(crate) struct DebugExitPort(pub(crate) Arc<Ending>);

impl PortDevice for DebugExitPort {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u16, data: &[u8]) {
        let mut bytes = [0; 4];
        bytes[..data.len()].copy_from_slice(data);
        let code = debug::debug_exit_code(u32::from_le_bytes(bytes));
        self.0.finish(Outcome::DebugExit(code));
    }
}

/// Ports 0xe9 and 0x402, sharing a sink.
#[derive(Clone)]
pub(crate) struct DebugConsole(pub(crate) Arc<Mutex<Box<dyn SerialSink>>>);

impl PortDevice for DebugConsole {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(debug::CONSOLE_PRESENT);
    }

    fn write(&self, _offset: u16, data: &[u8]) {
        lock(&self.0).write(data);
    }
}

/// pvpanic's port.
pub(crate) struct PanicPort(pub(crate) Arc<Ending>);

impl PortDevice for PanicPort {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(pvpanic::read());
    }

    fn write(&self, _offset: u16, data: &[u8]) {
        // A guest that loads its crash kernel goes on by itself.
        if data.first().and_then(|&value| pvpanic::write(value)) == Some(PanicEvent::Panicked) {
            self.0.finish(Outcome::Panic);
        }
    }
}

/// Ports 0x510 (selector) and 0x511 (data).
pub(crate) struct FwCfgPorts(pub(crate) Mutex<FwCfg>);

impl PortDevice for FwCfgPorts {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let mut port = lock(&self.0);
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = if at == 1 { port.read() } else { 0 };
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        // The selector is one 16-bit port; data is read only.
        if let (0, &[low, high]) = (offset, data) {
            lock(&self.0).select(u16::from_le_bytes([low, high]));
        }
    }
}
