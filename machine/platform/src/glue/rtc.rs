//! The CMOS clock on ports 0x70-0x71 and IRQ 8, fed with the host's wall clock.

use std::sync::{Arc, Mutex};

use devices::rtc::Rtc;

use crate::bus::PortDevice;
use crate::clock::Clock;
use crate::irq::{IrqLine, lock};
use crate::timers::{Timed, Timers};

/// The wall clock may be set at any time, so no sleep goes past this.
const LONGEST_NS: u64 = 1_000_000_000;

pub(crate) struct RtcPorts {
    rtc: Mutex<Rtc>,
    line: IrqLine,
    clock: Clock,
    timers: Arc<Timers>,
}

impl RtcPorts {
    pub(crate) fn new(
        ram: (u64, u64),
        line: IrqLine,
        clock: Clock,
        timers: Arc<Timers>,
    ) -> Arc<Self> {
        let rtc = Mutex::new(Rtc::new(clock.wall_ns(), ram.0, ram.1));
        Arc::new(Self { rtc, line, clock, timers })
    }

    /// Drives the line and gives the next deadline on the monotonic clock.
    fn settle(&self, rtc: &mut Rtc, wall_ns: u64) -> Option<u64> {
        self.line.set(rtc.interrupt());
        let left = rtc.next_event()?.saturating_sub(wall_ns).min(LONGEST_NS);
        Some(self.clock.now_ns() + left)
    }
}

impl Timed for RtcPorts {
    fn tick(&self) -> Option<u64> {
        let wall = self.clock.wall_ns();
        let mut rtc = lock(&self.rtc);
        rtc.advance(wall);
        self.settle(&mut rtc, wall)
    }
}

impl PortDevice for RtcPorts {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let wall = self.clock.wall_ns();
        let mut rtc = lock(&self.rtc);
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = rtc.read(at, wall);
        }
        let next = self.settle(&mut rtc, wall);
        drop(rtc);
        self.timers.at(next);
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let wall = self.clock.wall_ns();
        let mut rtc = lock(&self.rtc);
        for (&byte, at) in data.iter().zip(offset..) {
            rtc.write(at, byte, wall);
        }
        let next = self.settle(&mut rtc, wall);
        drop(rtc);
        self.timers.at(next);
    }
}
