//! The ACPI PM blocks and their SCI.

use std::sync::{Arc, Mutex};

use devices::acpi_pm::{AcpiPm, SleepRequest};

use crate::bus::PortDevice;
use crate::clock::Clock;
use crate::irq::{IrqLine, lock};
use crate::outcome::Outcome;
use crate::run::Ending;
use crate::timers::{Timed, Timers};

pub(crate) struct AcpiPorts {
    pm: Mutex<AcpiPm>,
    line: IrqLine,
    clock: Clock,
    timers: Arc<Timers>,
    ending: Arc<Ending>,
}

impl AcpiPorts {
    pub(crate) fn new(
        line: IrqLine,
        clock: Clock,
        timers: Arc<Timers>,
        ending: Arc<Ending>,
    ) -> Arc<Self> {
        Arc::new(Self { pm: Mutex::new(AcpiPm::new()), line, clock, timers, ending })
    }

    pub(crate) fn press_power_button(&self) {
        let mut pm = lock(&self.pm);
        pm.press_power_button();
        self.line.set(pm.sci());
    }
}

impl Timed for AcpiPorts {
    fn tick(&self) -> Option<u64> {
        let mut pm = lock(&self.pm);
        pm.advance(self.clock.now_ns());
        self.line.set(pm.sci());
        pm.next_event()
    }
}

impl PortDevice for AcpiPorts {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let mut pm = lock(&self.pm);
        pm.read(offset, data, self.clock.now_ns());
        self.line.set(pm.sci());
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut pm = lock(&self.pm);
        let sleep = pm.write(offset, data, self.clock.now_ns());
        self.line.set(pm.sci());
        let next = pm.next_event();
        drop(pm);
        self.timers.at(next);
        if sleep == Some(SleepRequest::PowerOff) {
            self.ending.finish(Outcome::PowerOff);
        }
    }
}
