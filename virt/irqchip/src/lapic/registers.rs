//! Register accesses of the local APIC: the xAPIC page (SDM vol. 3, table 10-1) and the x2APIC
//! MSRs (table 10-6, 10.12.1.2).
//!
//! Invariants: an xAPIC access never faults, reserved registers log an error and read as zero;
//! an x2APIC access that table 10-6 does not allow is #GP and changes nothing.

use x86::Exception;
use x86::lapic::reg;
use x86::msr;

use super::{
    ESR_ILLEGAL_REGISTER, ESR_SEND_ILLEGAL, Effect, LVT_LEVEL, LVT_MASKED, LVT_REMOTE_IRR, LVTS,
    Lapic, Lint, Mode, Now, SVR_ENABLE, SVR_SUPPRESS_EOI, TimerMode, VERSION_SUPPRESS_EOI,
};
use crate::ipi::{BROADCAST, DeliveryMode, DestinationMode, Ipi, Shorthand, Trigger};

/// Registers that are not in `x86::lapic::reg`.
const ARBITRATION: usize = 0x9;
const REMOTE_READ: usize = 0xc;
const SELF_IPI: usize = 0x3f;

/// ICR bits an x2APIC write must leave 0; the delivery status (12) is ignored as hardware does.
const ICR_RESERVED: u32 = 0xfff3_2000;

impl Lapic {
    /// A 32-bit load from the register page. Accesses inside the first four bytes of a register's
    /// 16 shift its value down; the other twelve read as zero.
    pub fn read(&mut self, offset: u32, now: Now) -> u32 {
        let (index, byte) = ((offset >> 4) as usize, offset & 0xf);
        if byte > 3 || self.mode != Mode::XApic {
            return 0;
        }
        match self.register(index, now) {
            Some(value) => value >> (8 * byte),
            None => {
                self.illegal_register();
                0
            }
        }
    }

    /// A 32-bit store to the register page. Only aligned stores count (SDM 10.4.1).
    pub fn write(&mut self, offset: u32, value: u32, now: Now) -> Effect {
        if offset & 0xf != 0 || self.mode != Mode::XApic {
            return Effect::None;
        }
        match (offset >> 4) as usize {
            reg::ID => self.registers[reg::ID] = value & 0xff00_0000,
            reg::LDR => self.registers[reg::LDR] = value & 0xff00_0000,
            reg::DFR => self.registers[reg::DFR] = value | 0x0fff_ffff,
            reg::ICR_HIGH => self.registers[reg::ICR_HIGH] = value & 0xff00_0000,
            reg::ICR_LOW => {
                self.registers[reg::ICR_LOW] = value & !(ICR_RESERVED | 1 << 12);
                let destination = match self.registers[reg::ICR_HIGH] >> 24 {
                    0xff => BROADCAST,
                    id => id,
                };
                return self.send(value, destination);
            }
            reg::EOI => return self.write_eoi(),
            index if self.is_written_alike(index) => self.write_common(index, value, now),
            // Read-only registers swallow writes; the rest does not exist.
            index if self.register(index, now).is_some() => {}
            _ => self.illegal_register(),
        }
        Effect::None
    }

    /// RDMSR of 0x800-0x8ff, where the APIC is in x2APIC mode.
    pub fn read_msr(&mut self, number: u32, now: Now) -> Result<u64, Exception> {
        let index = self.x2apic_index(number)?;
        match index {
            reg::ICR_LOW => Ok(u64::from(self.registers[reg::ICR_HIGH]) << 32
                | u64::from(self.registers[reg::ICR_LOW])),
            reg::EOI | reg::DFR | reg::ICR_HIGH | ARBITRATION | REMOTE_READ => Err(Exception::GP0),
            _ => self.register(index, now).map(u64::from).ok_or(Exception::GP0),
        }
    }

    /// WRMSR to 0x800-0x8ff, where the APIC is in x2APIC mode.
    pub fn write_msr(&mut self, number: u32, value: u64, now: Now) -> Result<Effect, Exception> {
        let index = self.x2apic_index(number)?;
        let low = value as u32;
        if index == reg::ICR_LOW {
            if low & ICR_RESERVED != 0 {
                return Err(Exception::GP0);
            }
            let destination = (value >> 32) as u32;
            self.registers[reg::ICR_LOW] = low & !(1 << 12);
            self.registers[reg::ICR_HIGH] = destination;
            return Ok(self.send(low, destination));
        }
        if value >> 32 != 0 {
            return Err(Exception::GP0);
        }
        match index {
            reg::EOI if low == 0 => Ok(self.write_eoi()),
            reg::ESR if low != 0 => Err(Exception::GP0),
            SELF_IPI if low & !0xff == 0 => Ok(self.send_to_self(low as u8)),
            _ if self.is_written_alike(index) && low & !self.writable(index) == 0 => {
                self.write_common(index, low, now);
                Ok(Effect::None)
            }
            _ => Err(Exception::GP0),
        }
    }

    /// IA32_TSC_DEADLINE as RDMSR sees it: 0 outside TSC-deadline mode.
    pub fn tsc_deadline(&mut self, now: Now) -> u64 {
        let _ = self.advance(now);
        self.timer.tsc_deadline
    }

    /// WRMSR of IA32_TSC_DEADLINE: arms, or disarms with 0; ignored outside TSC-deadline mode. A
    /// deadline in the past expires at once.
    pub fn set_tsc_deadline(&mut self, deadline: u64, now: Now) {
        // An expiry becomes visible in `pending`; the writing processor is awake.
        let _ = self.advance(now);
        self.timer.set_tsc_deadline(deadline);
        let _ = self.advance(now);
    }

    fn x2apic_index(&self, number: u32) -> Result<usize, Exception> {
        match number.checked_sub(msr::X2APIC_FIRST) {
            Some(index) if index < 0x40 && self.mode == Mode::X2Apic => Ok(index as usize),
            _ => Err(Exception::GP0),
        }
    }

    /// A register's value; `None` where there is no register in either mode.
    fn register(&mut self, index: usize, now: Now) -> Option<u32> {
        Some(match index {
            reg::ID | reg::VERSION | reg::TPR | reg::LDR | reg::DFR | reg::SVR | reg::ESR => {
                self.registers[index]
            }
            reg::ICR_LOW | reg::ICR_HIGH => self.registers[index],
            reg::LVT_TIMER..=reg::LVT_ERROR => self.registers[index],
            ARBITRATION | REMOTE_READ | reg::EOI => 0,
            reg::PPR => u32::from(self.ppr),
            reg::ISR..=0x17 => self.isr.word(index - reg::ISR),
            reg::TMR..=0x1f => self.tmr.word(index - reg::TMR),
            reg::IRR..=0x27 => self.irr.word(index - reg::IRR),
            reg::TIMER_INITIAL => self.timer.initial,
            reg::TIMER_CURRENT => {
                // An expiry becomes visible in `pending`; the reading processor is awake.
                let _ = self.advance(now);
                self.timer.current(now)
            }
            reg::TIMER_DIVIDE => self.timer.divide,
            _ => return None,
        })
    }

    /// Registers that both modes write by [`Self::write_common`].
    fn is_written_alike(&self, index: usize) -> bool {
        matches!(
            index,
            reg::TPR | reg::SVR | reg::ESR | reg::LVT_TIMER
                ..=reg::LVT_ERROR | reg::TIMER_INITIAL | reg::TIMER_DIVIDE
        )
    }

    /// Bits that software may set in one of those registers. Delivery status and remote IRR are
    /// read-only, writing them is harmless in both modes.
    fn writable(&self, index: usize) -> u32 {
        const READ_ONLY: u32 = 1 << 12 | LVT_REMOTE_IRR;
        match index {
            reg::TPR => 0xff,
            reg::SVR if self.registers[reg::VERSION] & VERSION_SUPPRESS_EOI != 0 => {
                0x1ff | SVR_SUPPRESS_EOI
            }
            reg::SVR => 0x1ff,
            reg::LVT_TIMER => 0xff | LVT_MASKED | 3 << 17 | READ_ONLY,
            reg::LVT_THERMAL | reg::LVT_PERF => 0x7ff | LVT_MASKED | READ_ONLY,
            reg::LVT_LINT0 | reg::LVT_LINT1 => 0x7ff | 1 << 13 | LVT_LEVEL | LVT_MASKED | READ_ONLY,
            reg::LVT_ERROR => 0xff | LVT_MASKED | READ_ONLY,
            reg::TIMER_INITIAL => u32::MAX,
            reg::TIMER_DIVIDE => 0b1011,
            _ => 0,
        }
    }

    fn write_common(&mut self, index: usize, value: u32, now: Now) {
        let value = value & self.writable(index);
        match index {
            reg::TPR => self.set_tpr(value),
            reg::SVR => self.write_svr(value),
            reg::ESR => {
                self.registers[reg::ESR] = self.errors;
                self.errors = 0;
            }
            reg::LVT_TIMER..=reg::LVT_ERROR => self.write_lvt(index, value, now),
            reg::TIMER_INITIAL => {
                let _ = self.advance(now);
                self.timer.set_initial(value, now);
            }
            reg::TIMER_DIVIDE => {
                let _ = self.advance(now);
                self.timer.set_divide(value, now);
            }
            _ => {}
        }
    }

    /// Software disable masks every LVT entry and keeps it masked (SDM 10.4.7.2).
    fn write_svr(&mut self, value: u32) {
        self.registers[reg::SVR] = value;
        if value & SVR_ENABLE == 0 {
            for lvt in LVTS {
                self.registers[lvt] |= LVT_MASKED;
            }
            self.refresh();
        }
    }

    fn write_lvt(&mut self, index: usize, value: u32, now: Now) {
        if index == reg::LVT_TIMER {
            // Under the old entry what is due now still counts.
            let _ = self.advance(now);
            self.timer.set_mode(TimerMode::from_lvt(value));
        }
        let mut remote_irr = self.registers[index] & LVT_REMOTE_IRR;
        if value & LVT_LEVEL == 0 {
            remote_irr = 0;
        }
        let masked = if self.software_enabled() { 0 } else { LVT_MASKED };
        self.registers[index] = value & !(1 << 12 | LVT_REMOTE_IRR) | remote_irr | masked;
        let pin = match index {
            reg::LVT_LINT0 => Lint::Lint0,
            reg::LVT_LINT1 => Lint::Lint1,
            _ => return,
        };
        self.refresh();
        // A level that waited behind the mask; visible in `pending` and `external_interrupt`.
        let _ = self.sample(pin, false);
    }

    fn write_eoi(&mut self) -> Effect {
        self.end_of_interrupt().map_or(Effect::None, Effect::EndOfInterrupt)
    }

    fn illegal_register(&mut self) {
        // The error interrupt is visible in `pending`; the accessing processor is awake.
        let _ = self.error(ESR_ILLEGAL_REGISTER);
    }

    /// A write of the ICR's low half (SDM 10.6.1).
    fn send(&mut self, icr: u32, destination: u32) -> Effect {
        let vector = icr as u8;
        let delivery = DeliveryMode::from_bits(icr >> 8);
        let fixed = matches!(delivery, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if fixed && vector < 16 {
            let _ = self.error(ESR_SEND_ILLEGAL);
            return Effect::None;
        }
        // These cannot be sent by an ICR, or mean nothing here.
        if matches!(delivery, DeliveryMode::Reserved | DeliveryMode::ExtInt | DeliveryMode::Smi) {
            return Effect::None;
        }
        let shorthand = match icr >> 18 & 3 {
            0 => Shorthand::None,
            1 => Shorthand::ToSelf,
            2 => Shorthand::All,
            _ => Shorthand::Others,
        };
        if shorthand == Shorthand::ToSelf && fixed {
            return self.send_to_self(vector);
        }
        let logical = icr & 1 << 11 != 0;
        // Only INIT looks at the trigger mode, other IPIs are edges.
        let level = icr & 1 << 15 != 0 && delivery == DeliveryMode::Init;
        Effect::Send(Ipi {
            vector,
            delivery,
            mode: if logical { DestinationMode::Logical } else { DestinationMode::Physical },
            destination,
            shorthand,
            level: icr & 1 << 14 != 0,
            trigger: if level { Trigger::Level } else { Trigger::Edge },
        })
    }

    fn send_to_self(&mut self, vector: u8) -> Effect {
        if vector < 16 {
            let _ = self.error(ESR_SEND_ILLEGAL);
        } else {
            // Visible in `pending`; the sender is awake.
            let _ = self.request(vector, Trigger::Edge);
        }
        Effect::None
    }
}
