//! The local APIC of one processor (SDM vol. 3, chapter 10), xAPIC and x2APIC.
//!
//! A pure model: register accesses in, [`Effect`]s out; messages in through [`Lapic::accept`],
//! interrupts out through [`Lapic::pending`] and [`Lapic::acknowledge`]. Whoever owns it routes
//! [`Ipi`]s, calls [`Lapic::advance`] at [`Lapic::next_event`] and wakes the processor.
//!
//! Invariants: `pending` is what IRR, ISR and TPR say (every change of those ends in
//! `Lapic::refresh`), so asking is one load; vectors 0-15 are never requested.

mod identity;
mod registers;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

pub use identity::{Identity, Mode};
pub use timer::{Deadline, Now};

use x86::lapic::{LapicState, reg};
use x86::{Exception, GuestPhys};

use crate::ipi::{DeliveryMode, DestinationMode, Ipi, Trigger};
use identity::x2apic_ldr;
use timer::{Timer, TimerMode};
use vectors::VectorSet;

/// IA32_APIC_BASE bits.
const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;

/// LVT bits.
const LVT_REMOTE_IRR: u32 = 1 << 14;
const LVT_LEVEL: u32 = 1 << 15;
const LVT_MASKED: u32 = 1 << 16;
const LVTS: [usize; 6] = [
    reg::LVT_TIMER,
    reg::LVT_THERMAL,
    reg::LVT_PERF,
    reg::LVT_LINT0,
    reg::LVT_LINT1,
    reg::LVT_ERROR,
];

/// SVR bits.
const SVR_ENABLE: u32 = 1 << 8;
const SVR_SUPPRESS_EOI: u32 = 1 << 12;
/// Version register: EOI-broadcast suppression exists.
const VERSION_SUPPRESS_EOI: u32 = 1 << 24;

/// ESR bits (SDM 10.5.3).
const ESR_SEND_ILLEGAL: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// Offset 0x290 is reserved in the register page; saved state keeps there what the processor has
/// no register for: errors not yet latched (7:0) and an ExtINT message not yet taken (8).
const SAVED_HIDDEN: usize = 0x29;
const HIDDEN_EXT_INT: u32 = 1 << 8;

/// What became of a message or an input; tells the owner what to do with the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Accepted {
    /// Nothing to do: ignored, masked, or not deliverable under the present priority.
    Nothing,
    /// An interrupt is deliverable: wake the processor and look at [`Lapic::pending`].
    Wake,
    /// The 8259 pair wants an acknowledge cycle: wake, see [`Lapic::external_interrupt`].
    ExtInt,
    /// Deliver an NMI.
    Nmi,
    /// INIT: reset the processor, call [`Lapic::init`], wait for a start-up IPI.
    Init,
    /// Start-up IPI: if waiting for it, start at `vector << 12`.
    Sipi(u8),
}

/// What a register write asks of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing. `pending` and `next_event` may have changed all the same.
    None,
    /// Send this to the processors of [`Ipi::targets`].
    Send(Ipi),
    /// A level-triggered interrupt ended: tell the IOAPICs.
    EndOfInterrupt(u8),
}

/// The two local interrupt pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lint {
    /// LINT0, wired to the 8259 pair.
    Lint0,
    /// LINT1, wired to NMI.
    Lint1,
}

/// Interrupt sources inside the processor besides timer, pins and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalEvent {
    /// A performance counter overflowed.
    Performance,
    /// The thermal sensor.
    Thermal,
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    /// Deliverable vector, 0 for none: the cache that makes [`Self::pending`] one load.
    pending: u8,
    /// An ExtINT is deliverable.
    external: bool,
    ppr: u8,
    mode: Mode,
    /// LINT0 and LINT1.
    pins: [bool; 2],
    external_message: bool,
    /// Errors since the last write of ESR.
    errors: u32,
    irr: VectorSet,
    isr: VectorSet,
    tmr: VectorSet,
    timer: Timer,
    apic_base: u64,
    initial_id: u32,
    /// Registers without a field of their own, by offset / 16.
    registers: [u32; 64],
}

impl Lapic {
    /// A local APIC after power-up; processor 0 is the bootstrap processor.
    pub fn new(apic_id: u32) -> Self {
        let bsp = if apic_id == 0 { BASE_BSP } else { 0 };
        let base = 0xfee0_0000 | BASE_ENABLE | bsp;
        Self::from_state(&LapicState::reset(apic_id), base, apic_id, Now::default())
    }

    /// From saved state: the registers, IA32_APIC_BASE and the processor's initial APIC id. The
    /// pins are low until the wiring drives them again. Any content is taken; what no register
    /// can hold is dropped.
    pub fn from_state(state: &LapicState, apic_base: u64, apic_id: u32, now: Now) -> Self {
        let registers = &state.registers;
        let mut timer = Timer::new();
        timer.set_mode(TimerMode::from_lvt(registers[reg::LVT_TIMER]));
        timer.initial = registers[reg::TIMER_INITIAL];
        timer.set_divide(registers[reg::TIMER_DIVIDE], now);
        timer.set_tsc_deadline(state.tsc_deadline);
        if matches!(timer.mode, TimerMode::OneShot | TimerMode::Periodic) {
            timer.expiry_ns = state.timer_remaining_ns.map(|left| now.ns.saturating_add(left));
        }
        let hidden = registers[SAVED_HIDDEN];
        let mut lapic = Self {
            pending: 0,
            external: false,
            ppr: 0,
            mode: mode_of(apic_base),
            pins: [false; 2],
            external_message: hidden & HIDDEN_EXT_INT != 0,
            errors: hidden & 0xff,
            irr: VectorSet::from_words(&registers[reg::IRR..reg::IRR + 8]),
            isr: VectorSet::from_words(&registers[reg::ISR..reg::ISR + 8]),
            tmr: VectorSet::from_words(&registers[reg::TMR..reg::TMR + 8]),
            timer,
            apic_base,
            initial_id: apic_id,
            registers: *registers,
        };
        lapic.registers[reg::TPR] &= 0xff;
        lapic.refresh();
        lapic
    }

    /// The registers as the guest would read them, and the timer.
    pub fn save(&self, now: Now) -> LapicState {
        let mut registers = self.registers;
        for index in 0..8 {
            registers[reg::IRR + index] = self.irr.word(index);
            registers[reg::ISR + index] = self.isr.word(index);
            registers[reg::TMR + index] = self.tmr.word(index);
        }
        registers[reg::PPR] = u32::from(self.ppr);
        registers[reg::TIMER_INITIAL] = self.timer.initial;
        registers[reg::TIMER_CURRENT] = self.timer.current(now);
        registers[reg::TIMER_DIVIDE] = self.timer.divide;
        registers[SAVED_HIDDEN] =
            self.errors | if self.external_message { HIDDEN_EXT_INT } else { 0 };
        LapicState {
            registers,
            tsc_deadline: self.timer.tsc_deadline,
            timer_remaining_ns: self.timer.expiry_ns.map(|expiry| expiry.saturating_sub(now.ns)),
        }
    }

    /// The highest-priority interrupt that may be delivered now. One load.
    #[inline]
    pub const fn pending(&self) -> Option<u8> {
        if self.pending == 0 { None } else { Some(self.pending) }
    }

    /// The 8259 pair's interrupt is waiting. It is not subject to the priority registers and goes
    /// before [`Self::pending`], as on KVM.
    #[inline]
    pub const fn external_interrupt(&self) -> bool {
        self.external
    }

    /// Takes the pending interrupt into service and returns its vector.
    #[inline]
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.irr.remove(vector);
        self.isr.insert(vector);
        self.refresh();
        Some(vector)
    }

    /// The owner ran the acknowledge cycle of an ExtINT on the 8259 pair.
    pub fn acknowledge_external(&mut self) {
        self.external_message = false;
        self.refresh();
    }

    /// CR8: bits 7:4 of the task priority.
    #[inline]
    pub const fn cr8(&self) -> u8 {
        (self.registers[reg::TPR] >> 4) as u8 & 0xf
    }

    /// MOV to CR8. The caller has checked that the value is at most 15.
    #[inline]
    pub fn set_cr8(&mut self, value: u8) {
        self.set_tpr(u32::from(value & 0xf) << 4);
    }

    /// When [`Self::advance`] is due.
    #[inline]
    pub fn next_event(&self) -> Option<Deadline> {
        self.timer.next_event()
    }

    /// Lets the timer expire if it is time.
    pub fn advance(&mut self, now: Now) -> Accepted {
        if !self.timer.expire(now) {
            return Accepted::Nothing;
        }
        self.fire(reg::LVT_TIMER)
    }

    /// A message addressed to this processor, see [`Ipi::targets`].
    pub fn accept(&mut self, ipi: &Ipi) -> Accepted {
        if self.mode == Mode::Disabled {
            return Accepted::Nothing;
        }
        match ipi.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.request(ipi.vector, ipi.trigger)
            }
            // System management mode does not exist here.
            DeliveryMode::Smi | DeliveryMode::Reserved => Accepted::Nothing,
            DeliveryMode::Nmi => Accepted::Nmi,
            DeliveryMode::Init if ipi.trigger == Trigger::Level && !ipi.level => Accepted::Nothing,
            DeliveryMode::Init => Accepted::Init,
            DeliveryMode::StartUp => Accepted::Sipi(ipi.vector),
            DeliveryMode::ExtInt => {
                self.external_message = true;
                self.refresh();
                Accepted::ExtInt
            }
        }
    }

    /// Drives a local pin.
    pub fn set_lint(&mut self, pin: Lint, high: bool) -> Accepted {
        let rising = high && !self.pins[pin as usize];
        self.pins[pin as usize] = high;
        self.refresh();
        self.sample(pin, rising)
    }

    /// A local event raised its LVT entry.
    pub fn raise(&mut self, event: LocalEvent) -> Accepted {
        let index = match event {
            LocalEvent::Performance => reg::LVT_PERF,
            LocalEvent::Thermal => reg::LVT_THERMAL,
        };
        let accepted = self.fire(index);
        if event == LocalEvent::Performance {
            // A PMI masks its own entry (SDM vol. 3, 10.5.1).
            self.registers[index] |= LVT_MASKED;
        }
        accepted
    }

    /// Ends the interrupt in service; the vector to broadcast to IOAPICs if it was level-triggered
    /// and the guest did not suppress broadcasts. What a write of the EOI register does.
    pub fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.isr.highest();
        if vector == 0 {
            return None;
        }
        self.isr.remove(vector);
        self.refresh();
        if !self.tmr.contains(vector) {
            return None;
        }
        for pin in [Lint::Lint0, Lint::Lint1] {
            let index = lvt_of(pin);
            let lvt = self.registers[index];
            if lvt & LVT_REMOTE_IRR != 0 && lvt as u8 == vector {
                self.registers[index] &= !LVT_REMOTE_IRR;
                // The return value only asks to wake a processor that is running already.
                let _ = self.sample(pin, false);
            }
        }
        let suppressed = self.registers[reg::VERSION] & VERSION_SUPPRESS_EOI != 0
            && self.registers[reg::SVR] & SVR_SUPPRESS_EOI != 0;
        (!suppressed).then_some(vector)
    }

    /// What destinations this APIC answers to; changes only by register writes, INIT and reset.
    pub fn identity(&self) -> Identity {
        let id = self.registers[reg::ID];
        Identity {
            mode: self.mode,
            id: if self.mode == Mode::X2Apic { id } else { id >> 24 },
            ldr: (self.registers[reg::LDR] >> 24) as u8,
            cluster: self.registers[reg::DFR] >> 28 == 0,
            software_enabled: self.software_enabled(),
        }
    }

    /// Whether a message with this destination is for this APIC.
    pub fn matches(&self, mode: DestinationMode, destination: u32) -> bool {
        self.identity().matches(mode, destination)
    }

    /// Mode as IA32_APIC_BASE says.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// SVR bit 8.
    pub const fn software_enabled(&self) -> bool {
        self.registers[reg::SVR] & SVR_ENABLE != 0
    }

    /// Where the register page is, in xAPIC mode.
    pub fn page(&self) -> Option<GuestPhys> {
        (self.mode == Mode::XApic).then_some(GuestPhys(self.apic_base & !0xfff))
    }

    /// IA32_APIC_BASE.
    pub const fn apic_base(&self) -> u64 {
        self.apic_base
    }

    /// WRMSR of IA32_APIC_BASE on a processor with this many physical-address bits; #GP on
    /// reserved bits and on the transitions that SDM 10.12.5 forbids.
    pub fn set_apic_base(&mut self, value: u64, physical_bits: u32) -> Result<(), Exception> {
        let address = ((1u64 << physical_bits.min(52)) - 1) & !0xfff;
        if value & !(address | BASE_BSP | BASE_X2APIC | BASE_ENABLE) != 0 {
            return Err(Exception::GP0);
        }
        let new = match (value & BASE_ENABLE != 0, value & BASE_X2APIC != 0) {
            (true, true) => Mode::X2Apic,
            (true, false) => Mode::XApic,
            (false, false) => Mode::Disabled,
            (false, true) => return Err(Exception::GP0),
        };
        match (self.mode, new) {
            (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic) => {
                return Err(Exception::GP0);
            }
            _ => {}
        }
        self.apic_base = value;
        if new != self.mode {
            self.mode = new;
            if new == Mode::X2Apic {
                self.registers[reg::ID] = self.initial_id;
                self.registers[reg::LDR] = x2apic_ldr(self.initial_id);
                self.registers[reg::ICR_HIGH] = 0;
            } else {
                // Disabling loses the state; enabling finds that of power-up (SDM 10.4.3).
                self.clear();
            }
            self.refresh();
        }
        Ok(())
    }

    /// INIT: registers as after power-up; id, mode and base kept (SDM 10.4.7.3).
    pub fn init(&mut self) {
        let id = self.registers[reg::ID];
        self.clear();
        self.registers[reg::ID] = id;
    }

    /// RESET: everything as after power-up, bootstrap flag kept.
    pub fn reset(&mut self) {
        self.apic_base = 0xfee0_0000 | BASE_ENABLE | self.apic_base & BASE_BSP;
        self.mode = Mode::XApic;
        self.clear();
    }

    fn clear(&mut self) {
        self.registers = LapicState::reset(self.initial_id).registers;
        if self.mode == Mode::X2Apic {
            self.registers[reg::ID] = self.initial_id;
            self.registers[reg::LDR] = x2apic_ldr(self.initial_id);
        }
        self.irr = VectorSet::default();
        self.isr = VectorSet::default();
        self.tmr = VectorSet::default();
        self.timer = Timer::new();
        self.errors = 0;
        self.external_message = false;
        self.refresh();
    }

    /// Recomputes the caches: processor priority (SDM 10.8.3.1) and what is deliverable.
    #[inline]
    fn refresh(&mut self) {
        let tpr = self.registers[reg::TPR] as u8;
        let service = self.isr.highest();
        self.ppr = if tpr >> 4 >= service >> 4 { tpr } else { service & 0xf0 };
        let request = self.irr.highest();
        let deliverable = request >> 4 > self.ppr >> 4 && self.mode != Mode::Disabled;
        self.pending = if deliverable { request } else { 0 };
        self.external = self.external_message || self.pin_asks_external();
    }

    fn pin_asks_external(&self) -> bool {
        if self.mode == Mode::Disabled {
            // Without an APIC, LINT0 is the INTR pin.
            return self.pins[Lint::Lint0 as usize];
        }
        [Lint::Lint0, Lint::Lint1].into_iter().any(|pin| {
            let lvt = self.registers[lvt_of(pin)];
            self.pins[pin as usize]
                && lvt & LVT_MASKED == 0
                && DeliveryMode::from_bits(lvt >> 8) == DeliveryMode::ExtInt
        })
    }

    #[inline]
    fn set_tpr(&mut self, value: u32) {
        self.registers[reg::TPR] = value & 0xff;
        self.refresh();
    }

    /// Requests a vector: sets IRR, and TMR by the trigger mode.
    #[inline]
    fn request(&mut self, vector: u8, trigger: Trigger) -> Accepted {
        if !self.software_enabled() {
            return Accepted::Nothing;
        }
        if vector < 16 {
            return self.error(ESR_RECEIVE_ILLEGAL);
        }
        self.insert(vector, trigger)
    }

    #[inline]
    fn insert(&mut self, vector: u8, trigger: Trigger) -> Accepted {
        self.irr.insert(vector);
        match trigger {
            Trigger::Edge => self.tmr.remove(vector),
            Trigger::Level => self.tmr.insert(vector),
        }
        self.refresh();
        if self.pending != 0 { Accepted::Wake } else { Accepted::Nothing }
    }

    /// Logs errors and raises the error interrupt, once until ESR is written (SDM 10.5.3).
    fn error(&mut self, bits: u32) -> Accepted {
        let armed = self.errors == 0;
        self.errors |= bits;
        let lvt = self.registers[reg::LVT_ERROR];
        if !armed || lvt & LVT_MASKED != 0 || !self.software_enabled() {
            return Accepted::Nothing;
        }
        if (lvt as u8) < 16 {
            self.errors |= ESR_RECEIVE_ILLEGAL;
            return Accepted::Nothing;
        }
        self.insert(lvt as u8, Trigger::Edge)
    }

    /// An edge of the LVT entry at `index`.
    fn fire(&mut self, index: usize) -> Accepted {
        let lvt = self.registers[index];
        if lvt & LVT_MASKED != 0 || self.mode == Mode::Disabled {
            return Accepted::Nothing;
        }
        let delivery = match index {
            reg::LVT_TIMER | reg::LVT_ERROR => DeliveryMode::Fixed,
            _ => DeliveryMode::from_bits(lvt >> 8),
        };
        match delivery {
            DeliveryMode::Fixed => self.request(lvt as u8, Trigger::Edge),
            DeliveryMode::Nmi => Accepted::Nmi,
            DeliveryMode::Init => Accepted::Init,
            _ => Accepted::Nothing,
        }
    }

    /// Looks at a pin's level and edge through its LVT entry.
    fn sample(&mut self, pin: Lint, rising: bool) -> Accepted {
        let high = self.pins[pin as usize];
        if self.mode == Mode::Disabled {
            return match pin {
                Lint::Lint0 if high => Accepted::ExtInt,
                Lint::Lint1 if rising => Accepted::Nmi,
                _ => Accepted::Nothing,
            };
        }
        let index = lvt_of(pin);
        let lvt = self.registers[index];
        if lvt & LVT_MASKED != 0 || !high {
            return Accepted::Nothing;
        }
        match DeliveryMode::from_bits(lvt >> 8) {
            DeliveryMode::ExtInt => Accepted::ExtInt,
            DeliveryMode::Fixed if lvt & LVT_LEVEL != 0 => {
                if lvt & LVT_REMOTE_IRR != 0 || (lvt as u8) < 16 {
                    return Accepted::Nothing;
                }
                self.registers[index] |= LVT_REMOTE_IRR;
                self.request(lvt as u8, Trigger::Level)
            }
            _ if rising => self.fire(index),
            _ => Accepted::Nothing,
        }
    }
}

const fn mode_of(apic_base: u64) -> Mode {
    match (apic_base & BASE_ENABLE != 0, apic_base & BASE_X2APIC != 0) {
        (true, true) => Mode::X2Apic,
        (true, false) => Mode::XApic,
        (false, _) => Mode::Disabled,
    }
}

const fn lvt_of(pin: Lint) -> usize {
    match pin {
        Lint::Lint0 => reg::LVT_LINT0,
        Lint::Lint1 => reg::LVT_LINT1,
    }
}
