//! Saving and restoring the whole state: FXSAVE, FXRSTOR, and the XSAVE family
//! (SDM vol. 1, 10.5, 13). The image in `CpuState` has the same layout, so pieces are copied.

mod fxsave;
mod xsave;

use iced_x86::{Code, Instruction, Mnemonic};
use x86::XsaveArea;

use super::arrange::{ST_OFFSET, load_fcw, quad_at, set_quad_at};
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::op::{Handler, Op, OpFlags};

pub(super) fn lower<B: Bus>(instruction: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    // REX.W forms keep 64-bit pointers.
    op.extra = u8::from(matches!(
        instruction.code(),
        Code::Fxsave64_m512byte
            | Code::Fxrstor64_m512byte
            | Code::Xsave64_mem
            | Code::Xsaveopt64_mem
            | Code::Xsavec64_mem
            | Code::Xsaves64_mem
            | Code::Xrstor64_mem
            | Code::Xrstors64_mem
    ));
    if matches!(instruction.mnemonic(), Mnemonic::Xrstor | Mnemonic::Xrstors) {
        // It may load PKRU, which translation depends on.
        op.flags |= OpFlags::ENDS_BLOCK;
    }
    Some(match instruction.code() {
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => fxsave::save::<B>,
        Code::Fxrstor_m512byte | Code::Fxrstor64_m512byte => fxsave::restore::<B>,
        Code::Xsave_mem | Code::Xsave64_mem => xsave::save::<B>,
        Code::Xsaveopt_mem | Code::Xsaveopt64_mem => xsave::save_optimised::<B>,
        Code::Xsavec_mem | Code::Xsavec64_mem => xsave::save_compacted::<B>,
        Code::Xsaves_mem | Code::Xsaves64_mem => xsave::save_supervisor::<B>,
        Code::Xrstor_mem | Code::Xrstor64_mem => xsave::restore::<B>,
        Code::Xrstors_mem | Code::Xrstors64_mem => xsave::restore_supervisor::<B>,
        _ => return None,
    })
}

/// End of ST7 in the image.
const ST_END: usize = ST_OFFSET + 128;

/// FCW to FDP as stored: 32-bit pointers with zero selectors, or 64-bit ones.
fn head(area: &XsaveArea, wide: bool) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes.copy_from_slice(&area.0[..24]);
    bytes[5] = 0;
    if !wide {
        bytes[12..16].fill(0);
        bytes[20..24].fill(0);
    }
    bytes
}

/// Takes FCW to FDP from memory.
fn set_head(area: &mut XsaveArea, bytes: &[u8], wide: bool) {
    area.0[..24].copy_from_slice(&bytes[..24]);
    area.0[5] = 0;
    area.0[7] &= 7;
    if !wide {
        let (fip, fdp) = (quad_at(area, 8), quad_at(area, 16));
        set_quad_at(area, 8, fip & 0xffff_ffff);
        set_quad_at(area, 16, fdp & 0xffff_ffff);
    }
    let fcw = area.fcw();
    load_fcw(area, fcw);
}

/// Takes ST0-ST7, of which ten bytes each count.
fn set_registers(area: &mut XsaveArea, bytes: &[u8]) {
    let places = area.0[ST_OFFSET..ST_END].chunks_exact_mut(16);
    for (place, from) in places.zip(bytes.chunks_exact(16)) {
        place[..10].copy_from_slice(&from[..10]);
        place[10..].fill(0);
    }
}

/// Stores a piece of an area at a linear address that was probed.
fn put<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, at: u64, bytes: &[u8]) -> Exec {
    match cpu.bus.store_bytes(at, bytes) {
        Ok(()) => Ok(()),
        Err(exception) => Err(cpu.memory_fault(exception, op.segment)),
    }
}

/// Stores a piece of the image at its own offset.
fn put_image<B: Bus>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    at: u64,
    range: core::ops::Range<usize>,
) -> Exec {
    let start = range.start as u64;
    match cpu.bus.store_bytes(at.wrapping_add(start), &cpu.state.xsave.0[range]) {
        Ok(()) => Ok(()),
        Err(exception) => Err(cpu.memory_fault(exception, op.segment)),
    }
}

/// XMM (and YMM) registers there are in this mode.
fn registers<B: Bus>(cpu: &Cpu<B>) -> usize {
    if cpu.is_long() { 16 } else { 8 }
}
