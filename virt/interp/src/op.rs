//! A decoded instruction: a handler and its operands, 40 bytes, made once and run many times.

use bitflags::bitflags;

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};

/// Executes one op. On entry RIP (`regs[RIP]`) is already that of the next instruction; a handler
/// that returns `Err` has changed no architectural state but what its exception defines (the
/// caller moves RIP back by `op.len` for faults).
pub type Handler<B> = fn(&mut Cpu<B>, &Op<B>) -> Exec;

/// How the effective address is formed; see `operand.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum AddressForm {
    /// 64-bit mode, 64-bit addresses, ES/CS/SS/DS: linear = base + index * scale + disp.
    #[default]
    Flat,
    /// 64-bit mode, FS or GS, or 32-bit addresses: truncated if asked, segment base added.
    Long,
    /// 16/32-bit modes: truncated, checked against limit and rights, segment base added.
    Segmented,
}

bitflags! {
    /// What the run loop and string handlers must know of an op.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct OpFlags: u16 {
        /// The last op of a block: branches, mode and paging changes, anything after which
        /// interrupts, translations or the code itself may differ.
        const ENDS_BLOCK = 1 << 0;
        /// LOCK prefix.
        const LOCK = 1 << 1;
        /// REP or REPE prefix.
        const REP = 1 << 2;
        /// REPNE prefix.
        const REPNE = 1 << 3;
        /// 32-bit address size in 64-bit mode; 16-bit where the default is 32 or prefixed.
        const ADDR32 = 1 << 4;
        /// 16-bit address size.
        const ADDR16 = 1 << 5;
        /// Operand size 16.
        const OP16 = 1 << 6;
        /// Operand size 32.
        const OP32 = 1 << 7;
        /// Operand size 64.
        const OP64 = 1 << 8;
        /// Stack accesses: exceptions of the memory operand are #SS.
        const STACK_SEGMENT = 1 << 9;
        /// Code segment is 64-bit.
        const LONG_MODE = 1 << 10;
    }
}

/// Register slots in [`Cpu::regs`]: 0-15 in encoding order, then these.
pub mod slot {
    /// Always 0: stands for "no base" and "no index".
    pub const ZERO: u8 = 16;
    /// RIP.
    pub const RIP: u8 = 17;
    /// Added to 0-3 for AH, CH, DH, BH as byte operands.
    pub const HIGH_BYTE: u8 = 32;
}

/// One decoded instruction.
pub struct Op<B: Bus> {
    /// What executes it.
    pub run: Handler<B>,
    /// Immediate (already sign-extended to operand size), branch displacement, far offset,
    /// absolute moffs address, or a handler's own data.
    pub imm: u64,
    /// Displacement of the memory operand.
    pub disp: i32,
    /// Flags.
    pub flags: OpFlags,
    /// Length in bytes.
    pub len: u8,
    /// First register operand (slot), or a handler's own data.
    pub dst: u8,
    /// Second register operand.
    pub src: u8,
    /// Third register operand, or a second immediate.
    pub src2: u8,
    /// Base register slot of the memory operand.
    pub base: u8,
    /// Index register slot.
    pub index: u8,
    /// log2 of the scale.
    pub scale: u8,
    /// Segment register of the memory operand, in encoding order.
    pub segment: u8,
    /// How the address is formed.
    pub form: AddressForm,
    /// CPUID-feature or condition data for the handler.
    pub extra: u8,
}

impl<B: Bus> Clone for Op<B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Bus> Copy for Op<B> {}
