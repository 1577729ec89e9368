//! The guest's register image by parts: vectors, x87 words, and how large operands move.

use x86::xsave::{XMM_OFFSET, YMM_HI_OFFSET};
use x86::{Exception, GuestVirt, XsaveArea};

use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec, Trap};
use crate::op::Op;

/// Offset of ST0 in the image.
pub(super) const ST_OFFSET: usize = 32;

impl<B: Bus> Cpu<B> {
    /// Loads `into.len()` bytes of memory operand; #GP(0) unless aligned where `aligned` asks it.
    #[inline(always)]
    pub(super) fn load_operand(&mut self, op: &Op<B>, into: &mut [u8], aligned: bool) -> Exec {
        let length = into.len() as u64;
        let at = self.linear(op, length, Access::Read)?;
        if aligned && at & (length - 1) != 0 {
            return Err(self.gp0());
        }
        match self.bus.load_bytes(at, into) {
            Ok(()) => Ok(()),
            Err(exception) => Err(self.memory_fault(exception, op.segment)),
        }
    }

    /// What a misaligned state image raises: #GP(0), or #SS(0) of a stack access that is not even
    /// canonical. (Vector operands raise #GP(0) in any case.)
    #[cold]
    pub(super) fn misaligned(&mut self, op: &Op<B>, at: u64) -> Trap {
        if self.is_long() && !GuestVirt(at).is_canonical() {
            return self.memory_fault(Exception::GP0, op.segment);
        }
        self.gp0()
    }

    /// Stores bytes to the memory operand; likewise.
    #[inline(always)]
    pub(super) fn store_operand(&mut self, op: &Op<B>, from: &[u8], aligned: bool) -> Exec {
        let length = from.len() as u64;
        let at = self.linear(op, length, Access::Write)?;
        if aligned && at & (length - 1) != 0 {
            return Err(self.gp0());
        }
        match self.bus.store_bytes(at, from) {
            Ok(()) => Ok(()),
            Err(exception) => Err(self.memory_fault(exception, op.segment)),
        }
    }
}

/// The first N (16 or 32) bytes of a vector register.
#[inline(always)]
pub(super) fn vector<const N: usize>(area: &XsaveArea, register: u8) -> [u8; N] {
    let mut bytes = [0; N];
    let (low, high) = places(register);
    bytes[..16].copy_from_slice(&area.0[low..low + 16]);
    if N == 32 {
        bytes[16..].copy_from_slice(&area.0[high..high + 16]);
    }
    bytes
}

/// Writes a vector register; what lies above N bytes becomes zero for VEX forms, else stays.
#[inline(always)]
pub(super) fn set_vector<const N: usize, const VEX: bool>(
    area: &mut XsaveArea,
    register: u8,
    bytes: &[u8; N],
) {
    let (low, high) = places(register);
    area.0[low..low + 16].copy_from_slice(&bytes[..16]);
    if N == 32 {
        area.0[high..high + 16].copy_from_slice(&bytes[16..]);
    } else if VEX {
        area.0[high..high + 16].fill(0);
    }
}

/// Where the two halves of a vector register lie.
#[inline(always)]
fn places(register: u8) -> (usize, usize) {
    let offset = usize::from(register & 15) * 16;
    (XMM_OFFSET + offset, YMM_HI_OFFSET + offset)
}

/// A 64-bit half of XMM: 0 or 1.
#[inline(always)]
pub(super) fn quad(area: &XsaveArea, register: u8, half: usize) -> u64 {
    let at = places(register).0 + half * 8;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&area.0[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// Sets a 64-bit half of XMM and nothing else.
#[inline(always)]
pub(super) fn set_quad(area: &mut XsaveArea, register: u8, half: usize, value: u64) {
    let at = places(register).0 + half * 8;
    area.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A 16-bit word of the image.
pub(super) fn word(area: &XsaveArea, at: usize) -> u16 {
    u16::from_le_bytes([area.0[at], area.0[at + 1]])
}

/// A 64-bit word of the image.
pub(super) fn quad_at(area: &XsaveArea, at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&area.0[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// Sets a 64-bit word of the image.
pub(super) fn set_quad_at(area: &mut XsaveArea, at: usize, value: u64) {
    area.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Sets FCW as the processor keeps it: bit 6 reads as 1, reserved bits as 0.
pub(super) fn load_fcw(area: &mut XsaveArea, value: u16) {
    area.set_fcw(value & 0x1f3f | 0x40);
    summarise(area);
}

/// Sets ES and B of FSW to whether an unmasked exception flag is set.
pub(super) fn summarise(area: &mut XsaveArea) {
    let (fcw, fsw) = (area.fcw(), area.fsw());
    let pending = fsw & !fcw & 0x3f != 0;
    area.set_fsw(fsw & !0x8080 | if pending { 0x8080 } else { 0 });
}
