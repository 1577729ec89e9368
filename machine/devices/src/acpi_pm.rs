//! ACPI fixed hardware: PM1a event and control blocks, PM timer, one GPE block (ACPI 6.5, 4.8).
//!
//! ```text
//! offset  0  PM1 status  2  PM1 enable  4  PM1 control  8  PM timer (32 bit, 3.579545 MHz)
//! offset  0x20  GPE0 status (1 byte)  0x21  GPE0 enable (1 byte)
//! ```
//!
//! SCI_EN always reads 1: there is no SMI firmware to switch modes. Invariant: the SCI level is a
//! function of the registers; reading never changes them.

/// Ticks of the PM timer in a second.
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// Bytes of port space the blocks take.
pub const PORTS: u16 = 0x22;
/// SLP_TYP for soft off, as the `\_S5` package in the DSDT must say it.
pub const SLEEP_TYPE_S5: u8 = 5;

/// Bits of PM1 status and enable.
mod pm1 {
    pub(super) const TIMER: u16 = 1 << 0;
    pub(super) const GLOBAL: u16 = 1 << 5;
    pub(super) const POWER_BUTTON: u16 = 1 << 8;
    pub(super) const SLEEP_BUTTON: u16 = 1 << 9;
    pub(super) const RTC: u16 = 1 << 10;
    pub(super) const WAKE: u16 = 1 << 15;
    pub(super) const STATUS: u16 = TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC | WAKE | 0x10;
    pub(super) const ENABLE: u16 = TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC;
}

const SCI_EN: u16 = 1 << 0;
const SLP_EN: u16 = 1 << 13;
/// The timer's bit 31 when 32 bits wide; its change sets TMR_STS.
const TIMER_TOP: u64 = 1 << 31;

/// The guest asked for a sleep state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepRequest {
    /// Soft off.
    PowerOff,
    /// Any other SLP_TYP; this machine announces none.
    Other(u8),
}

/// The saved state of an [`AcpiPm`], first version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct AcpiPmV1 {
    pub status: u16,
    pub enable: u16,
    pub control: u16,
    pub gpe_status: u8,
    pub gpe_enable: u8,
    pub carry_seen_ticks: u64,
}

/// The fixed hardware. Times are nanoseconds of one monotonic clock that began at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiPm {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u8,
    gpe_enable: u8,
    /// The tick count up to which changes of the timer's top bit are in `status`.
    carry_seen_ticks: u64,
}

impl Default for AcpiPm {
    fn default() -> Self {
        Self {
            status: 0,
            enable: 0,
            control: SCI_EN,
            gpe_status: 0,
            gpe_enable: 0,
            carry_seen_ticks: 0,
        }
    }
}

impl AcpiPm {
    /// The blocks after reset, in ACPI mode.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `data.len()` bytes at `offset` of the blocks; what is not there reads as zero.
    pub fn read(&mut self, offset: u16, data: &mut [u8], now_ns: u64) {
        self.advance(now_ns);
        let timer = (ticks(now_ns) as u32).to_le_bytes();
        for (index, byte) in data.iter_mut().enumerate() {
            let at = offset.wrapping_add(index as u16);
            *byte = match at {
                0 | 1 => self.status.to_le_bytes()[usize::from(at)],
                2 | 3 => self.enable.to_le_bytes()[usize::from(at - 2)],
                4 | 5 => self.control.to_le_bytes()[usize::from(at - 4)],
                8..=11 => timer[usize::from(at - 8)],
                0x20 => self.gpe_status,
                0x21 => self.gpe_enable,
                _ => 0,
            };
        }
    }

    /// Writes bytes at `offset`; a sleep request comes back.
    #[must_use = "the guest may have asked for power off"]
    pub fn write(&mut self, offset: u16, data: &[u8], now_ns: u64) -> Option<SleepRequest> {
        self.advance(now_ns);
        let mut sleep = None;
        for (index, &byte) in data.iter().enumerate() {
            let value = u16::from(byte);
            match offset.wrapping_add(index as u16) {
                0 => self.status &= !value,
                1 => self.status &= !(value << 8),
                2 => self.enable = (self.enable & 0xff00 | value) & pm1::ENABLE,
                3 => self.enable = (self.enable & 0xff | value << 8) & pm1::ENABLE,
                4 => self.control = self.control & 0xff00 | value & 0x02 | SCI_EN,
                5 => sleep = self.write_sleep(value << 8),
                0x20 => self.gpe_status &= !byte,
                0x21 => self.gpe_enable = byte,
                _ => {}
            }
        }
        sleep
    }

    /// The level of the SCI.
    pub fn sci(&self) -> bool {
        self.status & self.enable & pm1::ENABLE != 0 || self.gpe_status & self.gpe_enable != 0
    }

    /// Somebody pressed the power button.
    pub fn press_power_button(&mut self) {
        self.status |= pm1::POWER_BUTTON;
    }

    /// Raises general-purpose event 0-7.
    pub fn raise_gpe(&mut self, event: u8) {
        self.gpe_status |= 1 << (event & 7);
    }

    /// When the SCI may next change by itself: the timer's top bit, where its event is enabled.
    pub fn next_event(&self) -> Option<u64> {
        let waits = self.enable & pm1::TIMER != 0 && self.status & pm1::TIMER == 0;
        let carry = (self.carry_seen_ticks / TIMER_TOP + 1) * TIMER_TOP;
        waits.then(|| nanoseconds(carry))
    }

    /// Lets time pass up to `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        let now = ticks(now_ns);
        if now / TIMER_TOP > self.carry_seen_ticks / TIMER_TOP {
            self.status |= pm1::TIMER;
        }
        self.carry_seen_ticks = self.carry_seen_ticks.max(now);
    }

    /// The state to save.
    pub fn save(&self) -> AcpiPmV1 {
        AcpiPmV1 {
            status: self.status,
            enable: self.enable,
            control: self.control,
            gpe_status: self.gpe_status,
            gpe_enable: self.gpe_enable,
            carry_seen_ticks: self.carry_seen_ticks,
        }
    }

    /// The blocks in a saved state; bits that do not exist are dropped.
    pub fn restore(state: AcpiPmV1) -> Self {
        Self {
            status: state.status & pm1::STATUS,
            enable: state.enable & pm1::ENABLE,
            control: state.control & !SLP_EN | SCI_EN,
            gpe_status: state.gpe_status,
            gpe_enable: state.gpe_enable,
            // A count no clock reaches would overflow the next deadline.
            carry_seen_ticks: state.carry_seen_ticks.min(u64::MAX / 2),
        }
    }

    /// The high byte of PM1 control: SLP_TYP in bits 12:10, SLP_EN (write only) in bit 13.
    fn write_sleep(&mut self, value: u16) -> Option<SleepRequest> {
        self.control = self.control & 0xff | value & 0x1c00;
        let kind = (value >> 10 & 7) as u8;
        (value & SLP_EN != 0).then_some(match kind {
            SLEEP_TYPE_S5 => SleepRequest::PowerOff,
            other => SleepRequest::Other(other),
        })
    }
}

fn ticks(now_ns: u64) -> u64 {
    (u128::from(now_ns) * u128::from(PM_TIMER_HZ) / 1_000_000_000) as u64
}

/// The first nanosecond at which `ticks` have passed.
fn nanoseconds(ticks: u64) -> u64 {
    let exact = (u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(PM_TIMER_HZ));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(pm: &mut AcpiPm, offset: u16, now_ns: u64) -> u32 {
        let mut data = [0; 4];
        pm.read(offset, &mut data, now_ns);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_timer_counts_at_its_rate() {
        let mut pm = AcpiPm::new();
        assert_eq!(read32(&mut pm, 8, 0), 0);
        assert_eq!(read32(&mut pm, 8, 1_000_000_000), 3_579_545);
        assert_eq!(read32(&mut pm, 8, nanoseconds(1 << 32)), 0);
    }

    #[test]
    fn power_button_raises_the_sci_until_acknowledged() {
        let mut pm = AcpiPm::new();
        assert_eq!(pm.write(2, &0x0100u16.to_le_bytes(), 0), None);
        assert!(!pm.sci());
        pm.press_power_button();
        assert!(pm.sci());
        assert_eq!(read32(&mut pm, 0, 0), 0x0100_0100);
        assert_eq!(pm.write(0, &0x0100u16.to_le_bytes(), 0), None);
        assert!(!pm.sci());
    }

    #[test]
    fn soft_off_needs_type_and_enable() {
        let mut pm = AcpiPm::new();
        let control = u16::from(SLEEP_TYPE_S5) << 10 | SCI_EN;
        assert_eq!(pm.write(4, &control.to_le_bytes(), 0), None);
        let value = (control | SLP_EN).to_le_bytes();
        assert_eq!(pm.write(4, &value, 0), Some(SleepRequest::PowerOff));
        assert_eq!(read32(&mut pm, 4, 0), u32::from(control), "SLP_EN reads 0");
        let s3 = (3 << 10 | SLP_EN).to_le_bytes();
        assert_eq!(pm.write(4, &s3, 0), Some(SleepRequest::Other(3)));
        assert_eq!(read32(&mut pm, 4, 0) & 1, 1, "SCI_EN stays");
    }

    #[test]
    fn timer_carry_is_an_event() {
        let mut pm = AcpiPm::new();
        assert_eq!(pm.next_event(), None);
        assert_eq!(pm.write(2, &1u16.to_le_bytes(), 0), None);
        let at = pm.next_event().expect("enabled");
        assert_eq!(at / 1_000_000_000, 599);
        pm.advance(at - 1);
        assert!(!pm.sci());
        pm.advance(at);
        assert!(pm.sci());
        assert_eq!(pm.write(0, &1u16.to_le_bytes(), at), None);
        assert!(!pm.sci());
        assert!(pm.next_event().is_some_and(|next| next > at));
    }

    #[test]
    fn general_purpose_events() {
        let mut pm = AcpiPm::new();
        pm.raise_gpe(1);
        assert!(!pm.sci());
        assert_eq!(pm.write(0x21, &[2], 0), None);
        assert!(pm.sci());
        assert_eq!(pm.write(0x20, &[2], 0), None);
        assert!(!pm.sci());
    }

    #[test]
    fn any_access_is_harmless() {
        let mut pm = AcpiPm::new();
        let mut data = [0; 8];
        for offset in (0..PORTS).chain([0xfffe]) {
            pm.read(offset, &mut data, 5);
            let _ = pm.write(offset, &[0xff; 8], 5);
        }
        pm.advance(u64::MAX);
        assert!(pm.next_event().is_none_or(|at| at > 0));
    }

    #[test]
    fn saved_state_round_trips() {
        let mut pm = AcpiPm::new();
        let _ = pm.write(2, &0x0101u16.to_le_bytes(), 0);
        pm.press_power_button();
        pm.raise_gpe(3);
        pm.advance(1_000_000_000);
        assert_ne!(pm, AcpiPm::new());
        assert_eq!(AcpiPm::restore(pm.save()), pm);
    }
}
