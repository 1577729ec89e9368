//! CR0, CR2, CR3, CR4, CR8, LMSW, SMSW, CLTS, XCR0, and what drops translations
//! (SDM vol. 3, 2.5, 4.10.4; vol. 2B, MOV-Control Registers).

use x86::{Cr0, Cr4, Efer, GuestVirt, Reg, Xcr0};

use super::cpuid::{Feature, physical_bits};
use crate::bus::{Access, Bus, Flush};
use crate::cpu::{Cpu, Exec, Mode};
use crate::op::Op;

/// Bits of CR4 and the features that make them settable.
const CR4_FEATURES: [(Cr4, Feature); 19] = [
    (Cr4::VME, Feature::VME),
    (Cr4::PVI, Feature::VME),
    (Cr4::TSD, Feature::TSC),
    (Cr4::DE, Feature::DE),
    (Cr4::PSE, Feature::PSE),
    (Cr4::PAE, Feature::PAE),
    (Cr4::MCE, Feature::MCE),
    (Cr4::PGE, Feature::PGE),
    (Cr4::OSFXSR, Feature::FXSR),
    (Cr4::OSXMMEXCPT, Feature::SSE),
    (Cr4::UMIP, Feature::UMIP),
    (Cr4::LA57, Feature::LA57),
    (Cr4::FSGSBASE, Feature::FSGSBASE),
    (Cr4::PCIDE, Feature::PCID),
    (Cr4::OSXSAVE, Feature::XSAVE),
    (Cr4::SMEP, Feature::SMEP),
    (Cr4::SMAP, Feature::SMAP),
    (Cr4::PKE, Feature::PKU),
    (Cr4::PKS, Feature::PKS),
];

/// Bits of CR0 that exist; others read as 0.
const CR0_DEFINED: u64 = 0xe005_003f;

/// MOV r, CRn: `src` is n.
pub fn mov_from_control<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.require_cpl0()?;
    let value = match op.src {
        0 => cpu.state.cr0,
        2 => cpu.state.cr2,
        3 => cpu.state.cr3,
        4 => cpu.state.cr4,
        8 => u64::from(cpu.bus.task_priority(None)),
        _ => return Err(cpu.ud()),
    };
    if op.extra == 4 {
        cpu.set_reg(op.dst, value as u32);
    } else {
        cpu.set_reg(op.dst, value);
    }
    Ok(())
}

/// MOV CRn, r: `dst` is n.
pub fn mov_to_control<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.require_cpl0()?;
    let value =
        if op.extra == 4 { u64::from(cpu.reg::<u32>(op.src)) } else { cpu.reg::<u64>(op.src) };
    match op.dst {
        0 => cpu.write_cr0(value),
        2 => {
            cpu.state.cr2 = value;
            Ok(())
        }
        3 => cpu.write_cr3(value),
        4 => cpu.write_cr4(value),
        8 => {
            if value > 15 {
                return Err(cpu.gp0());
            }
            cpu.bus.task_priority(Some(value as u8));
            Ok(())
        }
        _ => Err(cpu.ud()),
    }
}

impl<B: Bus> Cpu<B> {
    /// Writes CR0 with all its checks.
    pub fn write_cr0(&mut self, value: u64) -> Exec {
        let new = Cr0::from_bits_retain(value & CR0_DEFINED) | Cr0::ET;
        let old = Cr0::from_bits_retain(self.state.cr0);
        let (on, paged) = (new.contains(Cr0::PG), old.contains(Cr0::PG));
        let inconsistent = value >> 32 != 0
            || on && !new.contains(Cr0::PE)
            || new.contains(Cr0::NW) && !new.contains(Cr0::CD)
            || !on && self.has_cr4(Cr4::PCIDE)
            || !on && self.is_long();
        if inconsistent {
            return Err(self.gp0());
        }
        let long_enable = self.state.msrs.efer & Efer::LME.bits() != 0;
        if on && !paged && long_enable && (!self.has_cr4(Cr4::PAE) || self.segment(1).is_long()) {
            return Err(self.gp0());
        }
        let reload = (old ^ new).intersects(Cr0::PG | Cr0::CD | Cr0::NW);
        let pae = on && self.has_cr4(Cr4::PAE) && !long_enable;
        if pae && reload && !self.bus.pdptes_valid(self.state.cr3) {
            return Err(self.gp0());
        }
        if on && long_enable {
            self.state.msrs.efer |= Efer::LMA.bits();
        } else {
            self.state.msrs.efer &= !Efer::LMA.bits();
        }
        self.state.cr0 = new.bits();
        self.refresh();
        if on != paged || pae && reload {
            self.bus.flush(Flush::All);
        }
        Ok(())
    }

    /// Writes CR3: bit 63 keeps translations under CR4.PCIDE.
    pub fn write_cr3(&mut self, value: u64) -> Exec {
        let pcide = self.has_cr4(Cr4::PCIDE);
        let keep = pcide && value >> 63 != 0;
        let new = if pcide { value & !(1 << 63) } else { value };
        if self.is_ia32e() && new >> physical_bits(&mut self.bus) != 0 {
            return Err(self.gp0());
        }
        if self.uses_pdptes() && !self.bus.pdptes_valid(new) {
            return Err(self.gp0());
        }
        self.state.cr3 = new;
        self.refresh();
        if !pcide {
            self.bus.flush(Flush::NonGlobal);
        } else if !keep {
            self.bus.flush(Flush::Pcid(new as u16 & 0xfff));
        }
        Ok(())
    }

    /// Whether PAE paging outside IA-32e mode is on.
    fn uses_pdptes(&self) -> bool {
        self.has_cr0(Cr0::PG) && self.has_cr4(Cr4::PAE) && !self.is_ia32e()
    }

    /// Bits of CR4 this guest may set.
    fn cr4_settable(&mut self) -> Cr4 {
        let mut mask = Cr4::PCE;
        for (bit, feature) in CR4_FEATURES {
            if feature.announced(&mut self.bus) {
                mask |= bit;
            }
        }
        mask
    }

    /// Writes CR4 with all its checks.
    pub fn write_cr4(&mut self, value: u64) -> Exec {
        let new = Cr4::from_bits_retain(value);
        let old = Cr4::from_bits_retain(self.state.cr4);
        let changed = old ^ new;
        let pcid_on = changed.contains(Cr4::PCIDE) && new.contains(Cr4::PCIDE);
        let inconsistent = !self.cr4_settable().contains(new)
            || self.is_ia32e() && (!new.contains(Cr4::PAE) || changed.contains(Cr4::LA57))
            || pcid_on && (!self.is_ia32e() || self.state.cr3 & 0xfff != 0);
        if inconsistent {
            return Err(self.gp0());
        }
        let paging_bits = Cr4::PAE | Cr4::PGE | Cr4::PSE | Cr4::SMEP;
        let pae = self.has_cr0(Cr0::PG) && new.contains(Cr4::PAE) && !self.is_ia32e();
        if pae && changed.intersects(paging_bits) && !self.bus.pdptes_valid(self.state.cr3) {
            return Err(self.gp0());
        }
        self.state.cr4 = value;
        self.refresh();
        let pcid_off = changed.contains(Cr4::PCIDE) && !pcid_on;
        let smep_on = changed.contains(Cr4::SMEP) && new.contains(Cr4::SMEP);
        if changed.intersects(Cr4::PGE | Cr4::PAE | Cr4::PSE | Cr4::LA57) || pcid_off {
            self.bus.flush(Flush::All);
        } else if smep_on {
            self.bus.flush(Flush::NonGlobal);
        }
        Ok(())
    }

    /// UMIP: SGDT, SIDT, SLDT, SMSW and STR only at CPL 0.
    pub fn require_umip(&mut self) -> Exec {
        let forbidden = self.cpl > 0 && self.has_cr4(Cr4::UMIP) && self.is_protected();
        if forbidden { Err(self.gp0()) } else { Ok(()) }
    }
}

fn load_machine_status<B: Bus>(cpu: &mut Cpu<B>, value: u16) -> Exec {
    // PE can be set but not cleared.
    let low = u64::from(value & 0xf) | cpu.state.cr0 & 1;
    cpu.write_cr0(cpu.state.cr0 & !0xf | low)
}

/// LMSW r16.
pub fn lmsw_register<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.require_cpl0()?;
    let value = cpu.reg(op.dst);
    load_machine_status(cpu, value)
}

/// LMSW m16.
pub fn lmsw_memory<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.require_cpl0()?;
    let value = cpu.load(op)?;
    load_machine_status(cpu, value)
}

/// SMSW r: `extra` is the operand size.
pub fn smsw_register<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.require_umip()?;
    match op.extra {
        2 => cpu.set_reg(op.dst, cpu.state.cr0 as u16),
        _ => cpu.set_reg(op.dst, cpu.state.cr0),
    }
    Ok(())
}

/// SMSW m16.
pub fn smsw_memory<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.require_umip()?;
    cpu.store(op, cpu.state.cr0 as u16)
}

/// CLTS.
pub fn clear_task_switched<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.require_cpl0()?;
    cpu.state.cr0 &= !Cr0::TS.bits();
    cpu.refresh();
    Ok(())
}

/// INVLPG: no limit or permission is checked.
pub fn invlpg<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.require_cpl0()?;
    let offset = cpu.offset(op);
    let base = if cpu.is_long() && op.segment < 4 { 0 } else { cpu.segment(op.segment).base };
    let address = cpu.wrap_linear(base.wrapping_add(offset));
    if GuestVirt(address).is_canonical() {
        cpu.bus.flush(Flush::Page(address));
    }
    Ok(())
}

/// INVPCID r, m128 (SDM vol. 2A).
pub fn invpcid<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    if cpu.mode == Mode::Vm86 {
        return Err(cpu.gp0());
    }
    cpu.require_cpl0()?;
    let kind =
        if cpu.is_long() { cpu.reg::<u64>(op.dst) } else { u64::from(cpu.reg::<u32>(op.dst)) };
    let at = cpu.linear(op, 16, Access::Read)?;
    let mut bytes = [0; 16];
    if let Err(exception) = cpu.bus.load_bytes(at, &mut bytes) {
        return Err(cpu.memory_fault(exception, op.segment));
    }
    let descriptor = u128::from_le_bytes(bytes);
    let (pcid, address) = (descriptor as u64, (descriptor >> 64) as u64);
    let foreign = pcid != 0 && !cpu.has_cr4(Cr4::PCIDE);
    let bad = kind > 3
        || pcid > 0xfff
        || kind < 2 && foreign
        || kind == 0 && !GuestVirt(address).is_canonical();
    if bad {
        return Err(cpu.gp0());
    }
    cpu.bus.flush(match kind {
        0 => Flush::PcidPage(pcid as u16, address),
        1 => Flush::Pcid(pcid as u16),
        2 => Flush::All,
        _ => Flush::AllNonGlobal,
    });
    Ok(())
}

/// XGETBV.
pub fn xgetbv<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    if !cpu.has_cr4(Cr4::OSXSAVE) {
        return Err(cpu.ud());
    }
    let value = match cpu.reg::<u32>(Reg::Rcx as u8) {
        0 => cpu.state.xcr0,
        // XINUSE: every enabled component counts as in use.
        1 if Feature::XGETBV_1.announced(&mut cpu.bus) => cpu.state.xcr0,
        _ => return Err(cpu.gp0()),
    };
    cpu.regs[Reg::Rax as usize] = value & 0xffff_ffff;
    cpu.regs[Reg::Rdx as usize] = value >> 32;
    Ok(())
}

/// RDPKRU.
pub fn rdpkru<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    require_protection_keys(cpu)?;
    cpu.set_register_pair(u64::from(cpu.state.pkru));
    Ok(())
}

/// WRPKRU: at every privilege level.
pub fn wrpkru<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    require_protection_keys(cpu)?;
    if cpu.reg::<u32>(Reg::Rdx as u8) != 0 {
        return Err(cpu.gp0());
    }
    cpu.state.pkru = cpu.reg::<u32>(Reg::Rax as u8);
    cpu.refresh();
    Ok(())
}

fn require_protection_keys<B: Bus>(cpu: &mut Cpu<B>) -> Exec {
    if !cpu.has_cr4(Cr4::PKE) {
        return Err(cpu.ud());
    }
    if cpu.reg::<u32>(Reg::Rcx as u8) != 0 { Err(cpu.gp0()) } else { Ok(()) }
}

/// XSETBV.
pub fn xsetbv<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    if !cpu.has_cr4(Cr4::OSXSAVE) {
        return Err(cpu.ud());
    }
    cpu.require_cpl0()?;
    let value = cpu.register_pair();
    let leaf = cpu.bus.cpuid(0xd, 0);
    let supported = u64::from(leaf.eax) | u64::from(leaf.edx) << 32;
    let new = Xcr0::from_bits_retain(value);
    let wide = Xcr0::OPMASK | Xcr0::ZMM_HI256 | Xcr0::HI16_ZMM;
    let bad = cpu.reg::<u32>(Reg::Rcx as u8) != 0
        || !new.contains(Xcr0::X87)
        || value & !supported != 0
        || new.contains(Xcr0::AVX) && !new.contains(Xcr0::SSE)
        || new.intersects(wide) && !new.contains(wide | Xcr0::AVX);
    if bad {
        return Err(cpu.gp0());
    }
    cpu.state.xcr0 = value;
    cpu.refresh();
    Ok(())
}

impl<B: Bus> Cpu<B> {
    /// EDX:EAX.
    pub fn register_pair(&self) -> u64 {
        u64::from(self.reg::<u32>(Reg::Rdx as u8)) << 32
            | u64::from(self.reg::<u32>(Reg::Rax as u8))
    }

    /// Sets RDX and RAX to the halves of a value.
    pub fn set_register_pair(&mut self, value: u64) {
        self.regs[Reg::Rax as usize] = value & 0xffff_ffff;
        self.regs[Reg::Rdx as usize] = value >> 32;
    }
}
