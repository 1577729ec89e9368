//! XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS for x87, SSE, AVX and PKRU
//! state (SDM vol. 1, 13.4-13.12). IA32_XSS is zero, so the supervisor forms manage the same state.
//!
//! AVX is the first extended component, so it lies at 576 in the compacted form too. PKRU follows
//! it there; in the standard form it lies where CPUID says.

use x86::xsave::{
    AVX_END, FCW_INIT, HEADER_OFFSET, MXCSR_MASK, MXCSR_RESET, XMM_OFFSET, YMM_HI_OFFSET,
};
use x86::{Xcr0, XsaveArea};

use super::super::arrange::{load_fcw, set_quad_at};
use super::super::gate;
use super::{ST_END, ST_OFFSET, head, put, put_image, registers, set_head, set_registers};
use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec};
use crate::exec::system::cpuid::is_amd;
use crate::op::Op;

const X87: u64 = Xcr0::X87.bits();
const SSE: u64 = Xcr0::SSE.bits();
const AVX: u64 = Xcr0::AVX.bits();
const PKRU: u64 = Xcr0::PKRU.bits();
/// PKRU and four reserved bytes.
const PKRU_BYTES: u64 = 8;
/// Stands for MXCSR and MXCSR_MASK, which belong to SSE or AVX depending on the form.
const WORDS: u64 = 1 << 61;
/// Stands for the header, which is always there.
const HEADER: u64 = 1 << 62;
/// XCOMP_BV: the area is compacted.
const COMPACTED: u64 = 1 << 63;
const HEADER_END: usize = HEADER_OFFSET + 64;

pub(super) fn save<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_xsave(cpu)?;
    save_standard(cpu, op, false)
}

pub(super) fn save_optimised<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_xsave(cpu)?;
    save_standard(cpu, op, true)
}

pub(super) fn save_supervisor<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    if cpu.cpl != 0 {
        gate::pass_xsave(cpu)?;
        return Err(cpu.gp0());
    }
    save_compacted(cpu, op)
}

pub(super) fn restore_supervisor<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_xsave(cpu)?;
    cpu.require_cpl0()?;
    restore_area(cpu, op, true)
}

pub(super) fn restore<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_xsave(cpu)?;
    restore_area(cpu, op, false)
}

/// RFBM: requested and enabled components.
fn requested<B: Bus>(cpu: &Cpu<B>) -> u64 {
    let mask = cpu.regs[0] & 0xffff_ffff | cpu.regs[2] << 32;
    cpu.state.xcr0 & mask
}

/// Offset of PKRU in the standard form.
fn pkru_standard<B: Bus>(cpu: &mut Cpu<B>) -> u64 {
    u64::from(cpu.bus.cpuid(0xd, 9).ebx)
}

/// Offset of PKRU in an area compacted for some components.
fn pkru_compacted(components: u64) -> u64 {
    (if components & AVX != 0 { AVX_END } else { YMM_HI_OFFSET }) as u64
}

/// The operand's linear address: #GP(0) unless 64-byte aligned.
fn operand<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, access: Access) -> Exec<u64> {
    let at = cpu.linear(op, HEADER_END as u64, access)?;
    if at & 63 == 0 { Ok(at) } else { Err(cpu.misaligned(op, at)) }
}

/// Checks that the header and the pieces of some components can be written; pieces that are not
/// asked for need not even exist, but for AMD, which touches the start of the area in any case.
fn probe<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, at: u64, components: u64, pkru_at: u64) -> Exec {
    let length = registers(cpu) * 16;
    let start = if is_amd(&mut cpu.bus) { WORDS } else { 0 };
    let wanted = components | HEADER | start;
    let pieces = [
        (X87, 0..24),
        (WORDS, 24..32),
        (X87, ST_OFFSET..ST_END),
        (SSE, XMM_OFFSET..XMM_OFFSET + length),
        (HEADER, HEADER_OFFSET..HEADER_END),
        (AVX, YMM_HI_OFFSET..YMM_HI_OFFSET + length),
    ];
    for (owner, range) in pieces {
        if owner & wanted != 0 {
            let start = at.wrapping_add(range.start as u64);
            probe_write(cpu, op, start, range.len() as u64)?;
        }
    }
    if components & PKRU != 0 {
        probe_write(cpu, op, at.wrapping_add(pkru_at), PKRU_BYTES)?;
    }
    Ok(())
}

fn probe_write<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, at: u64, bytes: u64) -> Exec {
    match cpu.bus.probe(at, bytes, Access::Write) {
        Ok(()) => Ok(()),
        Err(exception) => Err(cpu.memory_fault(exception, op.segment)),
    }
}

/// XINUSE: components that are not in their initial configuration.
fn in_use<B: Bus>(cpu: &Cpu<B>) -> u64 {
    let area = &cpu.state.xsave;
    let set = |range: core::ops::Range<usize>| area.0[range].iter().any(|&byte| byte != 0);
    let length = registers(cpu) * 16;
    let x87 = area.fcw() != FCW_INIT || set(2..24) || set(ST_OFFSET..ST_END);
    let mut used = if x87 { X87 } else { 0 };
    if set(XMM_OFFSET..XMM_OFFSET + length) {
        used |= SSE;
    }
    if set(YMM_HI_OFFSET..YMM_HI_OFFSET + length) {
        used |= AVX;
    }
    if cpu.state.pkru != 0 {
        used |= PKRU;
    }
    used
}

fn save_standard<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, skip_initial: bool) -> Exec {
    let rfbm = requested(cpu);
    let at = operand(cpu, op, Access::Write)?;
    let used = in_use(cpu);
    let written = if skip_initial { rfbm & used } else { rfbm };
    let words = if rfbm & (SSE | AVX) != 0 { WORDS } else { 0 };
    let pkru_at = if written & PKRU != 0 { pkru_standard(cpu) } else { 0 };
    probe(cpu, op, at, written | words, pkru_at)?;
    let header = at.wrapping_add(HEADER_OFFSET as u64);
    let old: u64 = match cpu.bus.load(header) {
        Ok(old) => old,
        Err(exception) => return Err(cpu.memory_fault(exception, op.segment)),
    };
    if rfbm & (SSE | AVX) != 0 {
        put_image(cpu, op, at, 24..32)?;
    }
    save_components(cpu, op, at, written, pkru_at)?;
    put(cpu, op, header, &(old & !rfbm | used & rfbm).to_le_bytes())
}

pub(super) fn save_compacted<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_xsave(cpu)?;
    let rfbm = requested(cpu);
    let at = operand(cpu, op, Access::Write)?;
    let mut used = in_use(cpu) & rfbm;
    if rfbm & SSE != 0 && cpu.state.xsave.mxcsr() != MXCSR_RESET {
        used |= SSE;
    }
    let words = if used & SSE != 0 { WORDS } else { 0 };
    let pkru_at = pkru_compacted(rfbm);
    probe(cpu, op, at, used | words, pkru_at)?;
    if used & SSE != 0 {
        put_image(cpu, op, at, 24..32)?;
    }
    save_components(cpu, op, at, used, pkru_at)?;
    let header = at.wrapping_add(HEADER_OFFSET as u64);
    put(cpu, op, header, &used.to_le_bytes())?;
    put(cpu, op, header.wrapping_add(8), &(rfbm | COMPACTED).to_le_bytes())
}

fn save_components<B: Bus>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    at: u64,
    components: u64,
    pkru_at: u64,
) -> Exec {
    let length = registers(cpu) * 16;
    if components & X87 != 0 {
        let head = head(&cpu.state.xsave, op.extra != 0);
        put(cpu, op, at, &head)?;
        put_image(cpu, op, at, ST_OFFSET..ST_END)?;
    }
    if components & SSE != 0 {
        put_image(cpu, op, at, XMM_OFFSET..XMM_OFFSET + length)?;
    }
    if components & AVX != 0 {
        put_image(cpu, op, at, YMM_HI_OFFSET..YMM_HI_OFFSET + length)?;
    }
    if components & PKRU != 0 {
        let value = u64::from(cpu.state.pkru).to_le_bytes();
        put(cpu, op, at.wrapping_add(pkru_at), &value)?;
    }
    Ok(())
}

/// XSTATE_BV and XCOMP_BV (0: the standard form) of an area, if its header is valid.
fn header_of(image: &[u8], xcr0: u64, supervisor: bool) -> Option<(u64, u64)> {
    let quad = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&image[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let (state, layout) = (quad(HEADER_OFFSET), quad(HEADER_OFFSET + 8));
    let compacted = layout & COMPACTED != 0;
    let reserved = &image[HEADER_OFFSET + 16..HEADER_OFFSET + if compacted { 64 } else { 24 }];
    let valid = if compacted {
        layout & !COMPACTED & !xcr0 == 0 && state & !(layout & !COMPACTED) == 0
    } else {
        !supervisor && layout == 0 && state & !xcr0 == 0
    };
    (valid && reserved.iter().all(|&byte| byte == 0)).then_some((state, layout))
}

fn restore_area<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, supervisor: bool) -> Exec {
    let rfbm = requested(cpu);
    let mut image = [0; AVX_END];
    let at = operand(cpu, op, Access::Read)?;
    get(cpu, op, at, &mut image, HEADER_OFFSET..HEADER_END)?;
    let Some((state, layout)) = header_of(&image, cpu.state.xcr0, supervisor) else {
        return Err(cpu.gp0());
    };
    let compacted = layout & COMPACTED != 0;
    get_components(cpu, op, at, &mut image, rfbm & state)?;
    let pkru = get_pkru(cpu, op, at, rfbm & state, layout)?;
    if rfbm & (SSE | AVX) != 0 {
        get(cpu, op, at, &mut image, 24..32)?;
    }
    let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
    let loads_mxcsr = if compacted { rfbm & state & SSE != 0 } else { rfbm & (SSE | AVX) != 0 };
    if loads_mxcsr && mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.gp0());
    }
    let length = registers(cpu) * 16;
    let area = &mut cpu.state.xsave;
    if loads_mxcsr {
        area.set_mxcsr(mxcsr);
    } else if compacted && rfbm & SSE != 0 {
        area.set_mxcsr(MXCSR_RESET);
    }
    if rfbm & X87 != 0 {
        restore_x87(area, &image, state & X87 != 0, op.extra != 0);
    }
    for (component, start) in [(SSE, XMM_OFFSET), (AVX, YMM_HI_OFFSET)] {
        if rfbm & component != 0 {
            let place = start..start + length;
            if state & component != 0 {
                area.0[place.clone()].copy_from_slice(&image[place]);
            } else {
                area.0[place].fill(0);
            }
        }
    }
    if rfbm & PKRU != 0 && cpu.state.pkru != pkru {
        cpu.state.pkru = pkru;
        cpu.refresh();
    }
    Ok(())
}

/// Loads a piece of an area into the same place of a copy.
fn get<B: Bus>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    at: u64,
    image: &mut [u8; AVX_END],
    range: core::ops::Range<usize>,
) -> Exec {
    let start = at.wrapping_add(range.start as u64);
    match cpu.bus.load_bytes(start, &mut image[range]) {
        Ok(()) => Ok(()),
        Err(exception) => Err(cpu.memory_fault(exception, op.segment)),
    }
}

fn get_components<B: Bus>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    at: u64,
    image: &mut [u8; AVX_END],
    components: u64,
) -> Exec {
    let length = registers(cpu) * 16;
    if components & X87 != 0 {
        get(cpu, op, at, image, 0..24)?;
        get(cpu, op, at, image, ST_OFFSET..ST_END)?;
    }
    if components & SSE != 0 {
        get(cpu, op, at, image, XMM_OFFSET..XMM_OFFSET + length)?;
    }
    if components & AVX != 0 {
        get(cpu, op, at, image, YMM_HI_OFFSET..YMM_HI_OFFSET + length)?;
    }
    Ok(())
}

/// PKRU from an area; 0, its initial value, if it is not to be loaded.
fn get_pkru<B: Bus>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    at: u64,
    components: u64,
    layout: u64,
) -> Exec<u32> {
    if components & PKRU == 0 {
        return Ok(0);
    }
    let offset = if layout & COMPACTED != 0 { pkru_compacted(layout) } else { pkru_standard(cpu) };
    match cpu.bus.load::<u64>(at.wrapping_add(offset)) {
        Ok(value) => Ok(value as u32),
        Err(exception) => Err(cpu.memory_fault(exception, op.segment)),
    }
}

fn restore_x87(area: &mut XsaveArea, image: &[u8], present: bool, wide: bool) {
    if present {
        set_head(area, &image[..24], wide);
        set_registers(area, &image[ST_OFFSET..ST_END]);
    } else {
        area.0[..24].fill(0);
        area.0[ST_OFFSET..ST_END].fill(0);
        load_fcw(area, FCW_INIT);
        set_quad_at(area, 8, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(state: u64, layout: u64) -> [u8; AVX_END] {
        let mut image = [0; AVX_END];
        image[512..520].copy_from_slice(&state.to_le_bytes());
        image[520..528].copy_from_slice(&layout.to_le_bytes());
        image
    }

    #[test]
    fn headers_are_checked_as_the_manual_says() {
        assert_eq!(header_of(&image(7, 0), 7, false), Some((7, 0)));
        assert_eq!(header_of(&image(7, 0), 3, false), None);
        assert_eq!(header_of(&image(1, 2), 7, false), None);
        assert_eq!(header_of(&image(1, COMPACTED | 3), 7, false), Some((1, COMPACTED | 3)));
        assert_eq!(header_of(&image(4, COMPACTED | 3), 7, false), None);
        assert_eq!(header_of(&image(0, COMPACTED | 8), 7, false), None);
        assert_eq!(header_of(&image(1, 0), 7, true), None);
    }
}
