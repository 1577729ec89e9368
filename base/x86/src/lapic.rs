//! Local APIC state in the layout of its register page (SDM vol. 3, 10.4.1, table 10-1).

/// The local APIC of one processor.
///
/// `registers[offset / 16]` is the 32-bit register at that byte offset of the xAPIC page; this is
/// what KVM_GET_LAPIC moves and what virt/irqchip saves. In x2APIC mode the id register holds the
/// full 32-bit id and ICR bits 63:32 the full destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LapicState {
    /// Registers by offset / 16.
    pub registers: [u32; 64],
    /// IA32_TSC_DEADLINE, 0 when disarmed.
    pub tsc_deadline: u64,
    /// For the one-shot and periodic timer: host-independent nanoseconds until the next expiry,
    /// `None` when not counting.
    pub timer_remaining_ns: Option<u64>,
}

/// Indices into [`LapicState::registers`].
#[allow(missing_docs)]
pub mod reg {
    pub const ID: usize = 0x2;
    pub const VERSION: usize = 0x3;
    pub const TPR: usize = 0x8;
    pub const PPR: usize = 0xa;
    pub const EOI: usize = 0xb;
    pub const LDR: usize = 0xd;
    pub const DFR: usize = 0xe;
    pub const SVR: usize = 0xf;
    pub const ISR: usize = 0x10;
    pub const TMR: usize = 0x18;
    pub const IRR: usize = 0x20;
    pub const ESR: usize = 0x28;
    pub const LVT_CMCI: usize = 0x2f;
    pub const ICR_LOW: usize = 0x30;
    pub const ICR_HIGH: usize = 0x31;
    pub const LVT_TIMER: usize = 0x32;
    pub const LVT_THERMAL: usize = 0x33;
    pub const LVT_PERF: usize = 0x34;
    pub const LVT_LINT0: usize = 0x35;
    pub const LVT_LINT1: usize = 0x36;
    pub const LVT_ERROR: usize = 0x37;
    pub const TIMER_INITIAL: usize = 0x38;
    pub const TIMER_CURRENT: usize = 0x39;
    pub const TIMER_DIVIDE: usize = 0x3e;
}

impl LapicState {
    /// State after RESET: software-disabled, all LVTs masked.
    pub fn reset(apic_id: u32) -> Self {
        let mut registers = [0; 64];
        registers[reg::ID] = apic_id << 24;
        registers[reg::VERSION] = 0x0005_0014;
        registers[reg::DFR] = 0xffff_ffff;
        registers[reg::SVR] = 0xff;
        for lvt in [
            reg::LVT_TIMER,
            reg::LVT_THERMAL,
            reg::LVT_PERF,
            reg::LVT_LINT0,
            reg::LVT_LINT1,
            reg::LVT_ERROR,
        ] {
            registers[lvt] = 1 << 16;
        }
        Self { registers, tsc_deadline: 0, timer_remaining_ns: None }
    }
}
