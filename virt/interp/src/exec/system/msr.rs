//! RDMSR, WRMSR, time-stamp counters and segment bases (SDM vol. 4; vol. 3, 11.11, 11.12, 17.17).

use x86::{Cr0, Cr4, Efer, GuestVirt, Reg, msr};

use super::cpuid::{Feature, physical_bits};
use super::segments::{FS, GS};
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::op::Op;

/// AMD's translation-cache extension: a hint here.
const EFER_TCE: Efer = Efer::from_bits_retain(1 << 15);
/// AMD's automatic IBRS: nothing to do.
const EFER_AUTOMATIC_IBRS: Efer = Efer::from_bits_retain(1 << 21);

/// RDMSR.
pub fn rdmsr<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.require_cpl0()?;
    let index = cpu.reg::<u32>(Reg::Rcx as u8);
    match cpu.read_msr(index) {
        Some(value) => {
            cpu.set_register_pair(value);
            Ok(())
        }
        None => Err(cpu.gp0()),
    }
}

/// WRMSR.
pub fn wrmsr<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.require_cpl0()?;
    let index = cpu.reg::<u32>(Reg::Rcx as u8);
    let value = cpu.register_pair();
    match cpu.write_msr(index, value) {
        Some(()) => Ok(()),
        None => Err(cpu.gp0()),
    }
}

impl<B: Bus> Cpu<B> {
    /// The guest's time-stamp counter now.
    pub fn guest_tsc(&mut self) -> u64 {
        self.bus.host_tsc().wrapping_add(self.state.msrs.tsc_offset)
    }

    /// Reads an MSR; `None` is #GP(0).
    pub fn read_msr(&mut self, index: u32) -> Option<u64> {
        let msrs = &self.state.msrs;
        Some(match index {
            msr::TSC => self.guest_tsc(),
            msr::TSC_ADJUST => self.announced(Feature::TSC_ADJUST)?.state.msrs.tsc_adjust,
            msr::SPEC_CTRL => {
                self.spec_ctrl_mask()?;
                self.state.msrs.spec_ctrl
            }
            msr::PKRS => self.announced(Feature::PKS)?.state.msrs.pkrs,
            msr::SYSENTER_CS => msrs.sysenter_cs,
            msr::SYSENTER_ESP => msrs.sysenter_esp,
            msr::SYSENTER_EIP => msrs.sysenter_eip,
            msr::MCG_STATUS => self.announced(Feature::MCA)?.state.msrs.mcg_status,
            msr::MISC_ENABLE => msrs.misc_enable,
            msr::MTRR_PHYS_BASE0..=msr::MTRR_PHYS_LAST => {
                msrs.mtrr_variable[(index - msr::MTRR_PHYS_BASE0) as usize]
            }
            msr::MTRR_DEF_TYPE => msrs.mtrr_def_type,
            msr::PAT => msrs.pat,
            msr::EFER => msrs.efer,
            msr::STAR => msrs.star,
            msr::LSTAR => msrs.lstar,
            msr::CSTAR => msrs.cstar,
            msr::SFMASK => msrs.sfmask,
            msr::FS_BASE => self.segment(FS).base,
            msr::GS_BASE => self.segment(GS).base,
            msr::KERNEL_GS_BASE => msrs.kernel_gs_base,
            msr::TSC_AUX => {
                self.tsc_aux_announced()?;
                self.state.msrs.tsc_aux
            }
            _ => match fixed_range(index) {
                Some(range) => msrs.mtrr_fixed[range],
                None => return self.bus.read_msr(&self.state, index),
            },
        })
    }

    /// Writes an MSR; `None` is #GP(0).
    pub fn write_msr(&mut self, index: u32, value: u64) -> Option<()> {
        match index {
            msr::EFER => return self.write_efer(value),
            msr::TSC => {
                let change = value.wrapping_sub(self.guest_tsc());
                self.shift_tsc(change);
            }
            msr::TSC_ADJUST => {
                self.announced(Feature::TSC_ADJUST)?;
                self.shift_tsc(value.wrapping_sub(self.state.msrs.tsc_adjust));
            }
            msr::SPEC_CTRL => {
                check(value & !self.spec_ctrl_mask()? == 0)?;
                self.state.msrs.spec_ctrl = value;
            }
            msr::PRED_CMD => {
                let known = Feature::IBRS.announced(&mut self.bus)
                    || Feature::AMD_IBPB.announced(&mut self.bus);
                check(known && value & !1 == 0)?;
            }
            msr::FLUSH_CMD => {
                check(Feature::L1D_FLUSH.announced(&mut self.bus) && value & !1 == 0)?;
            }
            msr::PKRS => {
                self.announced(Feature::PKS)?;
                check(value >> 32 == 0)?;
                self.state.msrs.pkrs = value;
                self.refresh();
            }
            msr::SYSENTER_CS => self.state.msrs.sysenter_cs = value & 0xffff_ffff,
            msr::SYSENTER_ESP => self.state.msrs.sysenter_esp = canonical(value)?,
            msr::SYSENTER_EIP => self.state.msrs.sysenter_eip = canonical(value)?,
            msr::MCG_STATUS => {
                self.announced(Feature::MCA)?.state.msrs.mcg_status = value & 7;
            }
            msr::MISC_ENABLE => self.state.msrs.misc_enable = value,
            msr::STAR => self.state.msrs.star = value,
            msr::LSTAR => self.state.msrs.lstar = canonical(value)?,
            msr::CSTAR => self.state.msrs.cstar = canonical(value)?,
            msr::SFMASK => self.state.msrs.sfmask = value & 0xffff_ffff,
            msr::FS_BASE => self.state.segments[usize::from(FS)].base = canonical(value)?,
            msr::GS_BASE => self.state.segments[usize::from(GS)].base = canonical(value)?,
            msr::KERNEL_GS_BASE => self.state.msrs.kernel_gs_base = canonical(value)?,
            msr::TSC_AUX => {
                self.tsc_aux_announced()?;
                check(value >> 32 == 0)?;
                self.state.msrs.tsc_aux = value;
            }
            _ => return self.write_memory_type_msr(index, value),
        }
        Some(())
    }

    /// PAT and MTRRs, else the bus.
    fn write_memory_type_msr(&mut self, index: u32, value: u64) -> Option<()> {
        match index {
            msr::PAT => {
                check(value.to_le_bytes().into_iter().all(|t| matches!(t, 0 | 1 | 4..=7)))?;
                self.state.msrs.pat = value;
            }
            msr::MTRR_DEF_TYPE => {
                check(value & !0xcff == 0 && is_mtrr_type(value as u8))?;
                self.state.msrs.mtrr_def_type = value;
            }
            msr::MTRR_PHYS_BASE0..=msr::MTRR_PHYS_LAST => {
                let is_mask = index & 1 != 0;
                let reserved = if is_mask { 0x7ff } else { 0xf00 };
                let high = u64::MAX << physical_bits(&mut self.bus);
                check(value & (reserved | high) == 0)?;
                check(is_mask || is_mtrr_type(value as u8))?;
                self.state.msrs.mtrr_variable[(index - msr::MTRR_PHYS_BASE0) as usize] = value;
            }
            _ => match fixed_range(index) {
                Some(range) => {
                    check(value.to_le_bytes().into_iter().all(is_mtrr_type))?;
                    self.state.msrs.mtrr_fixed[range] = value;
                }
                None => return self.bus.write_msr(&mut self.state, index, value),
            },
        }
        Some(())
    }

    fn write_efer(&mut self, value: u64) -> Option<()> {
        let mut mask = Efer::LMA;
        for (bit, feature) in [
            (Efer::SCE, Feature::SYSCALL),
            (Efer::LME, Feature::LONG_MODE),
            (Efer::NXE, Feature::NX),
            (Efer::FFXSR, Feature::FFXSR),
            (EFER_TCE, Feature::TCE),
            (EFER_AUTOMATIC_IBRS, Feature::AUTOMATIC_IBRS),
        ] {
            // SYSCALL is in 64-bit mode of every processor with long mode.
            let also = bit == Efer::SCE && Feature::LONG_MODE.announced(&mut self.bus);
            if also || feature.announced(&mut self.bus) {
                mask |= bit;
            }
        }
        let old = Efer::from_bits_retain(self.state.msrs.efer);
        let new = Efer::from_bits_retain(value);
        check(mask.contains(new))?;
        check(!((old ^ new).contains(Efer::LME) && self.has_cr0(Cr0::PG)))?;
        self.state.msrs.efer = ((new - Efer::LMA) | (old & Efer::LMA)).bits();
        self.refresh();
        Some(())
    }

    fn shift_tsc(&mut self, change: u64) {
        let msrs = &mut self.state.msrs;
        msrs.tsc_offset = msrs.tsc_offset.wrapping_add(change);
        msrs.tsc_adjust = msrs.tsc_adjust.wrapping_add(change);
    }

    fn announced(&mut self, feature: Feature) -> Option<&mut Self> {
        feature.announced(&mut self.bus).then_some(self)
    }

    fn tsc_aux_announced(&mut self) -> Option<()> {
        let known =
            Feature::RDTSCP.announced(&mut self.bus) || Feature::RDPID.announced(&mut self.bus);
        check(known)
    }

    /// Bits of SPEC_CTRL that may be set; `None` if the MSR does not exist.
    fn spec_ctrl_mask(&mut self) -> Option<u64> {
        let mut mask = 0;
        for (features, bit) in [
            ([Feature::IBRS, Feature::AMD_IBRS], 1),
            ([Feature::STIBP, Feature::AMD_STIBP], 2),
            ([Feature::SSBD, Feature::AMD_SSBD], 4),
        ] {
            if features.into_iter().any(|feature| feature.announced(&mut self.bus)) {
                mask |= bit;
            }
        }
        (mask != 0).then_some(mask)
    }
}

fn check(fine: bool) -> Option<()> {
    fine.then_some(())
}

fn canonical(value: u64) -> Option<u64> {
    GuestVirt(value).is_canonical().then_some(value)
}

fn is_mtrr_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

/// Index among the eleven fixed-range MTRRs.
fn fixed_range(index: u32) -> Option<usize> {
    match index {
        msr::MTRR_FIX_64K_00000 => Some(0),
        msr::MTRR_FIX_16K_80000 => Some(1),
        msr::MTRR_FIX_16K_A0000 => Some(2),
        msr::MTRR_FIX_4K_C0000..=msr::MTRR_FIX_4K_F8000 => {
            Some(3 + (index - msr::MTRR_FIX_4K_C0000) as usize)
        }
        _ => None,
    }
}

/// CR4.TSD: RDTSC only at CPL 0.
fn require_tsc<B: Bus>(cpu: &mut Cpu<B>) -> Exec {
    if cpu.has_cr4(Cr4::TSD) && cpu.cpl != 0 { Err(cpu.gp0()) } else { Ok(()) }
}

/// RDTSC.
pub fn rdtsc<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    require_tsc(cpu)?;
    let now = cpu.guest_tsc();
    cpu.set_register_pair(now);
    Ok(())
}

/// RDTSCP.
pub fn rdtscp<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    rdtsc(cpu, op)?;
    cpu.regs[Reg::Rcx as usize] = cpu.state.msrs.tsc_aux & 0xffff_ffff;
    Ok(())
}

/// RDPID.
pub fn rdpid<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.set_reg(op.dst, cpu.state.msrs.tsc_aux & 0xffff_ffff);
    Ok(())
}

/// RDPMC: there are no counters.
pub fn rdpmc<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    Err(cpu.gp0())
}

/// RDFSBASE, RDGSBASE: `src2` is the segment, `extra` the operand size.
pub fn read_base<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    if !cpu.has_cr4(Cr4::FSGSBASE) {
        return Err(cpu.ud());
    }
    let base = cpu.segment(op.src2).base;
    if op.extra == 4 {
        cpu.set_reg(op.dst, base as u32);
    } else {
        cpu.set_reg(op.dst, base);
    }
    Ok(())
}

/// WRFSBASE, WRGSBASE.
pub fn write_base<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    if !cpu.has_cr4(Cr4::FSGSBASE) {
        return Err(cpu.ud());
    }
    let base = if op.extra == 4 { u64::from(cpu.reg::<u32>(op.dst)) } else { cpu.reg(op.dst) };
    if !GuestVirt(base).is_canonical() {
        return Err(cpu.gp0());
    }
    cpu.state.segments[usize::from(op.src2.min(5))].base = base;
    Ok(())
}

/// SWAPGS.
pub fn swap_gs<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.require_cpl0()?;
    let state = &mut cpu.state;
    core::mem::swap(&mut state.segments[usize::from(GS)].base, &mut state.msrs.kernel_gs_base);
    Ok(())
}
