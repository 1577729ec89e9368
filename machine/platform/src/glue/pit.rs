//! The interval timer's ports, its IRQ 0, and port 0x61 beside it.

use std::sync::{Arc, Mutex};

use irqchip::Pit;

use crate::bus::PortDevice;
use crate::clock::Clock;
use crate::irq::{IrqLine, lock};
use crate::timers::{Timed, Timers};

/// The timer; claimed by [`PitPorts`] at 0x40 and 0x61.
pub(crate) struct PitTimer {
    pit: Mutex<Pit>,
    line: IrqLine,
    clock: Clock,
    timers: Arc<Timers>,
}

impl PitTimer {
    pub(crate) fn new(line: IrqLine, clock: Clock, timers: Arc<Timers>) -> Arc<Self> {
        let pit = Mutex::new(Pit::new(clock.now_ns()));
        Arc::new(Self { pit, line, clock, timers })
    }

    /// Sends the edges that are due; several late ones are one.
    fn settle(&self, pit: &mut Pit, now_ns: u64) -> Option<u64> {
        if pit.advance(now_ns) > 0 {
            self.line.edge();
        }
        pit.next_event()
    }
}

impl Timed for PitTimer {
    fn tick(&self) -> Option<u64> {
        self.settle(&mut lock(&self.pit), self.clock.now_ns())
    }
}

/// The ports from `base`.
pub(crate) struct PitPorts {
    pub(crate) timer: Arc<PitTimer>,
    pub(crate) base: u16,
}

impl PortDevice for PitPorts {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let now = self.timer.clock.now_ns();
        let mut pit = lock(&self.timer.pit);
        for (byte, port) in data.iter_mut().zip(self.base + offset..) {
            *byte = pit.read(port, now);
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let now = self.timer.clock.now_ns();
        let mut pit = lock(&self.timer.pit);
        for (&byte, port) in data.iter().zip(self.base + offset..) {
            pit.write(port, byte, now);
        }
        let next = self.timer.settle(&mut pit, now);
        drop(pit);
        self.timer.timers.at(next);
    }
}
