//! The 16550A UART (National Semiconductor PC16550D datasheet, section 8).
//!
//! ```text
//! offset  DLAB=0 read   DLAB=0 write   DLAB=1
//!   0     RBR           THR            DLL
//!   1     IER           IER            DLM
//!   2     IIR           FCR            IIR / FCR
//!   3     LCR  4 MCR  5 LSR (r)  6 MSR (r)  7 SCR
//! ```
//!
//! The transmitter takes no time: a byte written to THR goes back to the caller at once, so THRE
//! and TEMT always read as set and no guest ever waits for the line. The receiver has a FIFO of 16
//! and never overruns: [`Uart::receive`] takes what fits and the caller keeps the rest.
//!
//! Whoever is at the other end of the line does not know when the guest is ready, and drivers clear
//! the FIFO while they set the port up, so the receiver takes nothing until the guest listens: its
//! received-data interrupt is on, or it polls LSR. What it had when the guest stopped listening or
//! switched the FIFO is held back for the next time, and no byte is lost; only a listening guest
//! that clears the FIFO throws bytes away.
//!
//! Unlike the PC's wiring, OUT2 does not gate the interrupt, because small guests leave it clear.
//! Invariant: `fifo.len() <= depth()`, at most 16 bytes are held back; `interrupt()` is a function of the registers alone.

use std::collections::VecDeque;

#[cfg(test)]
mod tests;

/// Bits of the interrupt enable register.
mod ier {
    pub(super) const RECEIVED: u8 = 1 << 0;
    pub(super) const TRANSMITTER_EMPTY: u8 = 1 << 1;
    pub(super) const LINE_STATUS: u8 = 1 << 2;
    pub(super) const MODEM_STATUS: u8 = 1 << 3;
    pub(super) const ALL: u8 = 0x0f;
}

/// Values of the interrupt identification register, highest priority first.
mod iir {
    pub(super) const LINE_STATUS: u8 = 0x6;
    pub(super) const RECEIVED: u8 = 0x4;
    pub(super) const TIMEOUT: u8 = 0xc;
    pub(super) const TRANSMITTER_EMPTY: u8 = 0x2;
    pub(super) const MODEM_STATUS: u8 = 0x0;
    pub(super) const NONE: u8 = 0x1;
    pub(super) const FIFO_ENABLED: u8 = 0xc0;
}

/// Bits of the line status register.
mod lsr {
    pub(super) const DATA_READY: u8 = 1 << 0;
    pub(super) const OVERRUN: u8 = 1 << 1;
    pub(super) const BREAK: u8 = 1 << 4;
    pub(super) const THR_EMPTY: u8 = 1 << 5;
    pub(super) const IDLE: u8 = 1 << 6;
    pub(super) const FIFO_ERROR: u8 = 1 << 7;
    /// What raises the line status interrupt and is cleared by reading LSR.
    pub(super) const ERRORS: u8 = 0x1e;
}

const LCR_DLAB: u8 = 1 << 7;
const MCR_LOOP: u8 = 1 << 4;
const MCR_ALL: u8 = 0x1f;
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RX: u8 = 1 << 1;
/// MSR: data carrier detect, data set ready, clear to send: somebody listens.
const MSR_CONNECTED: u8 = 0xb0;
const FIFO_DEPTH: usize = 16;
/// The crystal over 16: the baud rate at divisor 1.
const BASE_BAUD: u64 = 115_200;
/// So many reads of LSR, and no access to another register between them, wait for input.
const POLLS: u8 = 16;
/// No baud setting delays the character timeout longer than this.
const TIMEOUT_LIMIT_NS: u64 = 1_000_000;

/// The saved state of a [`Uart`], first version. Received bytes carry their LSR error bits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct UartV1 {
    pub ier: u8,
    pub fcr: u8,
    pub lcr: u8,
    pub mcr: u8,
    pub scr: u8,
    pub divisor: u16,
    pub modem_lines: u8,
    pub modem_delta: u8,
    pub line_errors: u8,
    pub transmitter_interrupt: bool,
    pub timeout_interrupt: bool,
    pub timeout_at_ns: Option<u64>,
    pub polls: u8,
    /// `(byte, line status error bits)`, oldest first.
    pub fifo: Vec<(u8, u8)>,
    /// The same, taken back from the FIFO, to go first when the guest listens again.
    pub held: Vec<(u8, u8)>,
}

/// A 16550A. Times are nanoseconds of one monotonic clock of the caller's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uart {
    ier: u8,
    /// FIFO enable and the trigger bits; the reset bits are never kept.
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: u16,
    /// MSR bits 7:4 as the outside drives them (not looped back).
    modem_lines: u8,
    /// MSR bits 3:0.
    modem_delta: u8,
    /// Error bits of LSR not yet read.
    line_errors: u8,
    transmitter_interrupt: bool,
    timeout_interrupt: bool,
    timeout_at_ns: Option<u64>,
    /// Reads of LSR one after the other; stays at [`POLLS`] until the port is set up anew.
    polls: u8,
    fifo: VecDeque<(u8, u8)>,
    /// Received, and not to be seen before the guest listens.
    held: VecDeque<(u8, u8)>,
}

impl Default for Uart {
    fn default() -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            divisor: 12,
            modem_lines: MSR_CONNECTED,
            modem_delta: 0,
            line_errors: 0,
            transmitter_interrupt: false,
            timeout_interrupt: false,
            timeout_at_ns: None,
            polls: 0,
            fifo: VecDeque::with_capacity(FIFO_DEPTH),
            held: VecDeque::new(),
        }
    }
}

impl Uart {
    /// A UART after master reset, with the modem lines of a connected peer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the register at `offset` (0-7; higher bits are ignored).
    pub fn read(&mut self, offset: u16, now_ns: u64) -> u8 {
        self.note_poll(offset & 7 == 5, now_ns);
        match offset & 7 {
            0 if self.dlab() => self.divisor as u8,
            0 => self.read_received(now_ns),
            1 if self.dlab() => (self.divisor >> 8) as u8,
            1 => self.ier,
            2 => self.read_identification(),
            3 => self.lcr,
            4 => self.mcr,
            5 => self.read_line_status(),
            6 => self.read_modem_status(),
            _ => self.scr,
        }
    }

    /// Writes the register at `offset`. A byte that leaves on the line comes back.
    #[must_use = "the byte is the guest's output"]
    pub fn write(&mut self, offset: u16, value: u8, now_ns: u64) -> Option<u8> {
        self.note_poll(false, now_ns);
        match offset & 7 {
            0 if self.dlab() => self.divisor = self.divisor & 0xff00 | u16::from(value),
            0 => return self.transmit(value, now_ns),
            1 if self.dlab() => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            1 => self.write_interrupt_enable(value, now_ns),
            2 => self.write_fifo_control(value, now_ns),
            3 => self.lcr = value,
            4 => self.write_modem_control(value, now_ns),
            5 | 6 => {} // LSR and MSR: factory test only
            _ => self.scr = value,
        }
        None
    }

    /// The level of the INTR pin.
    pub fn interrupt(&self) -> bool {
        self.pending() != iir::NONE
    }

    /// Puts bytes from the line into the receiver; returns how many were taken, which is less than
    /// all when the FIFO is full and none in loopback or while the guest does not listen.
    pub fn receive(&mut self, bytes: &[u8], now_ns: u64) -> usize {
        let taken = bytes.len().min(self.room());
        for &byte in &bytes[..taken] {
            self.push(byte, 0, now_ns);
        }
        taken
    }

    /// A break condition on the line; false if there is no room for it now.
    pub fn receive_break(&mut self, now_ns: u64) -> bool {
        let fits = self.room() > 0;
        if fits {
            self.push(0, lsr::BREAK, now_ns);
        }
        fits
    }

    /// How many bytes [`Uart::receive`] would take.
    pub fn room(&self) -> usize {
        let open = self.listens() && !self.looped() && self.held.is_empty();
        if open { self.depth().saturating_sub(self.fifo.len()) } else { 0 }
    }

    /// When the interrupt output may next change by itself.
    pub fn next_event(&self) -> Option<u64> {
        self.timeout_at_ns
    }

    /// Lets time pass up to `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        if self.timeout_at_ns.is_some_and(|at| at <= now_ns) {
            self.timeout_at_ns = None;
            self.timeout_interrupt = !self.fifo.is_empty();
        }
    }

    /// The state to save.
    pub fn save(&self) -> UartV1 {
        UartV1 {
            ier: self.ier,
            fcr: self.fcr,
            lcr: self.lcr,
            mcr: self.mcr,
            scr: self.scr,
            divisor: self.divisor,
            modem_lines: self.modem_lines,
            modem_delta: self.modem_delta,
            line_errors: self.line_errors,
            transmitter_interrupt: self.transmitter_interrupt,
            timeout_interrupt: self.timeout_interrupt,
            timeout_at_ns: self.timeout_at_ns,
            polls: self.polls,
            fifo: self.fifo.iter().copied().collect(),
            held: self.held.iter().copied().collect(),
        }
    }

    /// A UART in a saved state. Bits no UART can hold are dropped, so any input is a valid device.
    pub fn restore(state: UartV1) -> Self {
        Self {
            ier: state.ier & ier::ALL,
            fcr: state.fcr & 0xc1,
            lcr: state.lcr,
            mcr: state.mcr & MCR_ALL,
            scr: state.scr,
            divisor: state.divisor,
            modem_lines: state.modem_lines & 0xf0,
            modem_delta: state.modem_delta & 0x0f,
            line_errors: state.line_errors & lsr::ERRORS,
            transmitter_interrupt: state.transmitter_interrupt,
            timeout_interrupt: state.timeout_interrupt,
            timeout_at_ns: state.timeout_at_ns,
            polls: state.polls.min(POLLS),
            fifo: state.fifo.into_iter().take(FIFO_DEPTH).collect(),
            held: state.held.into_iter().take(FIFO_DEPTH).collect(),
        }
    }

    fn dlab(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    fn looped(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    /// The guest reads what it is sent.
    fn listens(&self) -> bool {
        self.ier & ier::RECEIVED != 0 || self.polls == POLLS
    }

    fn note_poll(&mut self, reads_status: bool, now_ns: u64) {
        if self.polls == POLLS {
            return;
        }
        self.polls = if reads_status { self.polls + 1 } else { 0 };
        self.let_in(now_ns);
    }

    /// Takes back what the guest has not read.
    fn hold_back(&mut self) {
        self.timeout_interrupt = false;
        self.timeout_at_ns = None;
        while let Some(last) = self.fifo.pop_back() {
            self.held.push_front(last);
        }
    }

    /// What was taken back, as far as there is room, if the guest listens.
    fn let_in(&mut self, now_ns: u64) {
        while self.listens() && !self.looped() && self.fifo.len() < self.depth() {
            let Some((byte, errors)) = self.held.pop_front() else { break };
            self.push(byte, errors, now_ns);
        }
    }

    fn fifo_enabled(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifo_enabled() { FIFO_DEPTH } else { 1 }
    }

    /// The FIFO level that raises the received-data interrupt.
    fn trigger(&self) -> usize {
        if self.fifo_enabled() { [1, 4, 8, 14][usize::from(self.fcr >> 6)] } else { 1 }
    }

    /// Four character times at the programmed rate and frame, within reason.
    fn timeout_ns(&self) -> u64 {
        let stop_and_parity = u64::from(self.lcr >> 2 & 1) + u64::from(self.lcr >> 3 & 1);
        let bits = 1 + 5 + u64::from(self.lcr & 3) + 1 + stop_and_parity;
        let divisor = u64::from(self.divisor.max(1));
        (4 * bits * divisor * 1_000_000_000 / BASE_BAUD).min(TIMEOUT_LIMIT_NS)
    }

    /// The highest-priority interrupt enabled and pending, as IIR bits 3:0.
    fn pending(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        if enabled(ier::LINE_STATUS) && self.line_errors != 0 {
            iir::LINE_STATUS
        } else if enabled(ier::RECEIVED) && self.fifo.len() >= self.trigger() {
            iir::RECEIVED
        } else if enabled(ier::RECEIVED) && self.timeout_interrupt {
            iir::TIMEOUT
        } else if enabled(ier::TRANSMITTER_EMPTY) && self.transmitter_interrupt {
            iir::TRANSMITTER_EMPTY
        } else if enabled(ier::MODEM_STATUS) && self.modem_delta != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    fn read_received(&mut self, now_ns: u64) -> u8 {
        let byte = self.fifo.pop_front().map_or(0, |(byte, _)| byte);
        self.show_errors_of_top();
        self.restart_timeout(now_ns);
        self.let_in(now_ns);
        byte
    }

    fn read_identification(&mut self) -> u8 {
        let pending = self.pending();
        if pending == iir::TRANSMITTER_EMPTY {
            self.transmitter_interrupt = false;
        }
        if self.fifo_enabled() { pending | iir::FIFO_ENABLED } else { pending }
    }

    fn read_line_status(&mut self) -> u8 {
        let mut value = lsr::THR_EMPTY | lsr::IDLE | self.line_errors;
        if !self.fifo.is_empty() {
            value |= lsr::DATA_READY;
        }
        if self.fifo_enabled() && self.fifo.iter().any(|&(_, errors)| errors != 0) {
            value |= lsr::FIFO_ERROR;
        }
        self.line_errors = 0;
        if let Some(top) = self.fifo.front_mut() {
            top.1 = 0;
        }
        value
    }

    fn read_modem_status(&mut self) -> u8 {
        let value = self.modem_inputs() | self.modem_delta;
        self.modem_delta = 0;
        value
    }

    /// MSR bits 7:4: the lines, or in loopback MCR's outputs RTS, DTR, OUT1, OUT2 as CTS, DSR, RI,
    /// DCD.
    fn modem_inputs(&self) -> u8 {
        if !self.looped() {
            return self.modem_lines;
        }
        let mcr = self.mcr;
        (mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 4) << 4 | (mcr & 8) << 4
    }

    fn transmit(&mut self, value: u8, now_ns: u64) -> Option<u8> {
        // The holding register is empty again before the next instruction.
        self.transmitter_interrupt = true;
        if !self.looped() {
            return Some(value);
        }
        if self.fifo.len() < self.depth() {
            self.push(value, 0, now_ns);
        } else {
            self.line_errors |= lsr::OVERRUN;
        }
        None
    }

    fn write_interrupt_enable(&mut self, value: u8, now_ns: u64) {
        let raised = value & !self.ier;
        self.ier = value & ier::ALL;
        self.let_in(now_ns);
        if raised & ier::TRANSMITTER_EMPTY != 0 {
            self.transmitter_interrupt = true;
        }
    }

    fn write_fifo_control(&mut self, value: u8, now_ns: u64) {
        let switched = (value ^ self.fcr) & FCR_ENABLE != 0;
        let cleared = value & FCR_CLEAR_RX != 0;
        if switched || cleared {
            if self.looped() || cleared && !switched && self.listens() {
                // The guest's own words in loopback, or what it does not want to read.
                self.fifo.clear();
            }
            self.hold_back();
            // The port is being set up: whoever polled may not be the one who comes now.
            self.polls = 0;
        }
        // Without the enable bit the others are not programmed.
        self.fcr = if value & FCR_ENABLE != 0 { value & 0xc1 } else { 0 };
        self.let_in(now_ns);
    }

    fn write_modem_control(&mut self, value: u8, now_ns: u64) {
        let before = self.modem_inputs();
        if !self.looped() && value & MCR_LOOP != 0 {
            self.hold_back();
        }
        self.mcr = value & MCR_ALL;
        self.let_in(now_ns);
        self.note_modem_change(before);
    }

    /// Sets the delta bits for a change of MSR bits 7:4; ring counts only when it ends.
    fn note_modem_change(&mut self, before: u8) {
        let after = self.modem_inputs();
        let changed = (before ^ after) >> 4;
        let ring_ended = before & !after & 0x40 != 0;
        self.modem_delta |= changed & 0b1011 | u8::from(ring_ended) << 2;
    }

    fn push(&mut self, byte: u8, errors: u8, now_ns: u64) {
        self.fifo.push_back((byte, errors));
        if self.fifo.len() == 1 {
            self.show_errors_of_top();
        }
        self.restart_timeout(now_ns);
    }

    /// LSR shows the errors of the byte that is next to be read.
    fn show_errors_of_top(&mut self) {
        if let Some(&(_, errors)) = self.fifo.front() {
            self.line_errors |= errors;
        }
    }

    /// Every arrival and every read starts the four character times anew.
    fn restart_timeout(&mut self, now_ns: u64) {
        self.timeout_interrupt = false;
        let waits = self.fifo_enabled() && !self.fifo.is_empty();
        self.timeout_at_ns = waits.then(|| now_ns.saturating_add(self.timeout_ns()));
    }
}
